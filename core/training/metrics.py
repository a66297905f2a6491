"""metrics.jsonl: one JSON object per event and line, in order of steps."""

import json
import math
import os
from pathlib import Path
from typing import Any


def event_line(event: str, step: int, values: dict[str, Any]) -> str:
    """Return an event as one line of metrics.jsonl."""
    return json.dumps({"event": event, "step": step, **standard_json(values)}, allow_nan=False) + "\n"


def standard_json(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON lacks, by the strings "nan", "inf" and "-inf"."""
    if isinstance(value, dict):
        return {key: standard_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [standard_json(inner) for inner in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the events of a metrics.jsonl without an incomplete last line; empty if there is no file."""
    if not path.exists():
        return []
    events = (_parse(line) for line in path.read_bytes().splitlines(keepends=True))
    return [event for event in events if event is not None]


def truncate_metrics(path: Path, step: int) -> None:
    """Truncate the file before the first event after `step` or the first incomplete line."""
    if not path.exists():
        return
    end = 0
    for line in path.read_bytes().splitlines(keepends=True):
        event = _parse(line)
        if event is None or event["step"] > step:
            break
        end += len(line)
    os.truncate(path, end)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line, None for an incomplete one."""
    if not line.endswith(b"\n"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "step" in event else None
