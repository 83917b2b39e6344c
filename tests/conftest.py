"""Seeds by fixture; one torch thread per test worker."""

import os
from importlib.util import find_spec

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


if find_spec("triton") and not torch.cuda.is_available():
    # Triton decides when a function is defined whether it will be interpreted, its own library's functions included;
    # torch, and tests that visit every module, import them at some time.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        # With every file of kernels.
        import tsallis.kernels.triton.attention_calls
        import tsallis.kernels.triton.linear_calls  # noqa: F401


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    # torch's default; Pyro switches it off for the process while it is imported.
    torch.distributions.Distribution.set_default_validate_args(True)
