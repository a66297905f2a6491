"""Bins of context cover every position of a sequence once."""

import numpy as np
import pytest

from core.context_bins import context_edges


@pytest.mark.parametrize("length", [1, 2, 3, 31, 1024, 1 << 20])
def test_edges_cover_every_position_once(length: int) -> None:
    edges = context_edges(length)
    assert edges[0] == 1
    assert edges[-1] == length + 1
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= 2 * length.bit_length() + 2
