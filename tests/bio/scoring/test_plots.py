"""The context plot leaves out noisy bins and shows the best Markov model."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from bio.scoring import plots


def validation_table(bases: list[int]) -> dict[str, Any]:
    rows = [
        {
            "least_context": 2**power,
            "most_context": 2 ** (power + 1) - 1,
            "bases": count,
            "bits_per_base": 1.9,
        }
        for power, count in enumerate(bases)
    ]
    return {
        "parts": {"all": {"bits_per_base": 1.9}},
        "by_context": rows,
        "markov": [{"order": 1, "bits_per_base": 1.95}, {"order": 2, "bits_per_base": 1.8}],
    }


@pytest.mark.parametrize(
    ("tables", "points"),
    [
        ({"short": [5000, 9000]}, {"short": 2, "mean": 2}),
        ({"short": [5000, 9000], "long": [9, 18, 4000]}, {"short": 2, "long": 1}),
        ({"tiny": [9, 18, 36]}, {"tiny": 3, "mean": 2}),
    ],
)
def test_bins_of_few_bases_are_left_out_if_there_are_others(
    tables: dict[str, list[int]], points: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: figures.append(figure))
    content = {name: validation_table(bases) for name, bases in tables.items()}
    plots.plot_context(content, Path("context.png"))
    lines = {str(line.get_label()): line for line in figures[0].axes[0].lines}
    best = lines.pop("Markov model of order 2")
    assert list(best.get_ydata()) == [1.8, 1.8]
    assert {name: len(line.get_xdata()) for name, line in lines.items()} == points
