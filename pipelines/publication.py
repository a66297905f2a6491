"""Where a pipeline publishes its table."""

from pathlib import Path


def check_publish(publish: str | None) -> None:
    """Raise ValueError for a key `publish` that names no .json."""
    if publish is not None and Path(publish).suffix != ".json":
        raise ValueError(f"publish is {publish}; its name must end in .json.")
