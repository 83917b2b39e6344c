"""Frozen 50-digit values."""

import pytest

from tsallis.testing.oracles import ROWS, Row, check_row


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.mapping}-{r.z}-{r.values}")
def test_frozen_row(row: Row) -> None:
    check_row(row)
