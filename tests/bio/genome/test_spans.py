"""The algebra of spans equals the algebra of sets of positions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bio.genome.spans import (
    Spans,
    as_spans,
    contains,
    count_below,
    intersect,
    merge,
    overlap,
    subtract,
    total,
)

END = 40
spans_strategy = st.lists(
    st.tuples(st.integers(0, END), st.integers(0, END)).map(lambda pair: (min(pair), max(pair))), max_size=6
).map(as_spans)


def positions(spans: Spans) -> set[int]:
    return {position for start, end in spans.tolist() for position in range(start, end)}


def is_merged(spans: Spans) -> bool:
    return bool((spans[:, 0] < spans[:, 1]).all() and (spans[1:, 0] > spans[:-1, 1]).all())


@given(spans_strategy)
def test_merge_keeps_the_positions(spans: Spans) -> None:
    merged = merge(spans)
    assert positions(merged) == positions(spans)
    assert is_merged(merged)
    assert total(spans) == len(positions(spans))


@given(spans_strategy, spans_strategy)
def test_intersect_subtract_and_overlap_are_those_of_sets(first: Spans, second: Spans) -> None:
    common, rest = intersect(first, second), subtract(first, second)
    assert positions(common) == positions(first) & positions(second)
    assert positions(rest) == positions(first) - positions(second)
    assert overlap(first, second) == len(positions(common))
    assert is_merged(common)
    assert is_merged(rest)


@given(spans_strategy)
def test_contains_and_counted_below_look_up_positions(spans: Spans) -> None:
    merged = merge(spans)
    at = np.arange(-2, END + 3)
    members = positions(spans)
    assert contains(merged, at).tolist() == [position in members for position in at.tolist()]
    assert count_below(merged, at).tolist() == [
        sum(m < position for m in members) for position in at.tolist()
    ]
