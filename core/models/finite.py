"""The check of a model's output for numbers that are not finite."""

from torch import Tensor


def require_finite(values: Tensor, name: str, first: int = 0) -> None:
    """Raise ValueError, naming the first bad row and position, unless all values are finite.

    values: (rows, positions, ...) outputs of a model, or (rows,). name: of the values, in the plural.
    first: position of the first column. It waits for the device.
    """
    if values.isfinite().all():
        return
    row, *rest = (~values.isfinite()).nonzero()[0].tolist()
    place = f"row {row}" + (f", position {first + rest[0]:,}" if rest else "")
    raise ValueError(
        f"The model gives {name} that are not finite at {place}. Its weights are not usable; "
        "use another checkpoint."
    )
