"""metrics.jsonl survives truncation at any byte."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from core.training.metrics import event_line, read_metrics, truncate_metrics

LINES = [
    event_line(kind, step, {"loss": step / 7}).encode()
    for step in range(1, 7)
    for kind in ("train", "validation")
]
WHOLE = b"".join(LINES)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, len(WHOLE)), step=st.integers(0, 7))
def test_truncated_file_keeps_complete_lines_up_to_the_step(size: int, step: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(WHOLE[:size])
        whole_lines = WHOLE[:size].count(b"\n")
        assert len(read_metrics(path)) == whole_lines
        truncate_metrics(path, step)
        assert path.read_bytes() == b"".join(LINES[: min(whole_lines, 2 * step)])


def test_non_finite_numbers_become_strings(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    values = {"loss": math.nan, "norms": [{"a": math.inf}, (1.5, -math.inf)], "count": 2}
    path.write_text(event_line("skipped", 3, values))
    texts = {"loss": "nan", "norms": [{"a": "inf"}, [1.5, "-inf"]], "count": 2}
    assert read_metrics(path) == [{"event": "skipped", "step": 3, **texts}]


def test_missing_file_has_no_events(tmp_path: Path) -> None:
    truncate_metrics(tmp_path / "metrics.jsonl", 3)
    assert read_metrics(tmp_path / "metrics.jsonl") == []
