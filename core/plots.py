"""Save matplotlib figures as PNG files that are either complete or absent."""

from pathlib import Path

from matplotlib.figure import Figure

from core.storage.atomic import replaced_atomically

DOTS_PER_INCH = 120


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a .png file atomically. Raise FileNotFoundError if the folder is missing."""
    with replaced_atomically(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png")
