"""Where a pipeline publishes its table, and what stands there."""

import json
from pathlib import Path
from typing import Any


def check_publish(publish: str | None) -> None:
    """Raise ValueError for a key `publish` that names no .json."""
    if publish is not None and Path(publish).suffix != ".json":
        raise ValueError(f"publish is {publish}; its name must end in .json.")


def read_published(path: Path) -> dict[str, Any]:
    """The content of a published table; no rows where there is no file.

    Raises ValueError for what is no table, which is not to be written over.
    """
    if not path.exists():
        return {"rows": []}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise ValueError(f"{path} is no published table, JSON with rows: name another file.")
    return content
