"""Randomness as a function of where one is: (seed, stage, epoch, step), not of what was drawn before.

A run that is resumed then draws what it would have drawn, without any random state in its checkpoint, and evaluating
once more or with other workers changes nothing.
"""

from __future__ import annotations

import random
import zlib

import numpy as np
import torch


def derive(*key: int | str) -> int:
    """A 63-bit seed that is a hash of the key."""
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_all(*key: int | str) -> None:
    """Seed python, numpy and torch (all devices)."""
    seed = derive(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (third-party code may use the global generator)
    # torch.manual_seed formats a traceback for each kind of device that is not in use: a millisecond, at every step.
    torch.default_generator.manual_seed(seed)
    for device in (torch.cuda, torch.xpu):
        if device.is_initialized():
            device.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def generator(*key: int | str) -> torch.Generator:
    """A separate generator on the CPU."""
    return torch.Generator().manual_seed(derive(*key))
