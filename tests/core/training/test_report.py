"""The loss plot is limited to the later losses."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from core.training.report import MIN_POINTS, limits, plot_loss

STEPS = np.arange(200)
FALL = 1.3 + 10 * np.exp(-STEPS / 4)
NONE = np.empty(0)


def test_first_steps_do_not_set_the_range() -> None:
    low, high = limits(FALL, NONE) or (0.0, 0.0)
    assert low < FALL.min()
    assert FALL[30] < high < 1.5


@pytest.mark.parametrize("value", [1.2, 1.5])
def test_last_validation_is_in_the_range(value: float) -> None:
    low, high = limits(FALL, np.array([7.0, value])) or (0.0, 0.0)
    assert low < value < high < 2


def test_non_finite_and_constant_losses_have_a_range() -> None:
    with_holes = np.where(STEPS % 7 == 0, np.nan, FALL)
    with_holes[100] = np.inf
    assert np.isfinite(limits(with_holes, np.array([np.inf]))).all()  # type: ignore[arg-type]
    low, high = limits(np.ones(50), NONE) or (0.0, 0.0)
    assert low < 1 < high


def test_few_points_have_no_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits(FALL[: MIN_POINTS - 1], NONE) is None
    ranges = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: ranges.append(figure.axes[0].get_ylim()))
    for count in (3, len(STEPS)):
        events = [{"event": "train", "step": int(step), "loss": FALL[step]} for step in STEPS[:count]]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        plot_loss(tmp_path / "metrics.jsonl", tmp_path / "x.png")
    assert ranges[0][1] > FALL[0] > ranges[1][1]
