"""What tests of several files use."""

import pytest


@pytest.fixture
def quiet_transformers() -> None:
    """transformers without hints and progress bars."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
