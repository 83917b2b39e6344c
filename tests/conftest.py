"""Seeds by fixture; one torch thread per test worker."""

import os
from importlib.util import find_spec

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


if find_spec("triton") and not torch.cuda.is_available():
    # Triton decides when it is imported whether it interprets its own library; torch imports it at some time.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import triton.language  # noqa: F401


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
