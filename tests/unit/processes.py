"""Programs that run as several processes of one group."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_two(program: str, folder: Path) -> None:
    """Run it twice, with the rank and the address to meet at as arguments; both have to succeed."""
    address = f"file://{folder}/meeting"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(rank), address], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error[-2000:]
