"""Published tables: JSON files with rows, under results/."""

import json
from pathlib import Path
from typing import Any


def check_publish(publish: str | None) -> None:
    """Raise ValueError unless the key `publish` names a .json file."""
    if publish is not None and Path(publish).suffix != ".json":
        raise ValueError(f"publish is {publish}; its name must end in .json.")


def read_published(path: Path) -> dict[str, Any]:
    """Return the content of a published table; no rows if the file is missing.

    Raises ValueError if the file is not a published table, so that it is not overwritten.
    """
    if not path.exists():
        return {"rows": []}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise ValueError(f"{path} is not a published table (JSON with rows). Name another file.")
    return content
