"""How far the run in a folder is, and that it was begun with the settings that are asked for now."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines.common.config import ConfigError, merge, read_yaml


def run_state(folder: Path) -> str:
    """new, started or finished."""
    if (folder / "summary.json").exists():
        return "finished"
    return "started" if (folder / "config.yaml").exists() else "new"


def require_same_settings(folder: Path, config: Any, besides: Collection[str] = ()) -> None:
    """Raise ConfigError, naming the keys, if the run in a folder was begun with others than `config`'s.

    config: an instance of the dataclass of which the run keeps config.yaml. Keys `besides` may differ, and
    run.dir, because a folder may be moved.
    """
    if run_state(folder) == "new":
        return
    stored = merge(type(config), read_yaml(str(folder / "config.yaml")))
    before, now = _flat(asdict(stored)), _flat(asdict(config))
    differences = [
        f"{key} is {before[key]} there and {now[key]} here"
        for key in now
        if before[key] != now[key] and key != "run.dir" and key not in besides
    ]
    if differences:
        raise ConfigError(
            f"The run in {folder} has other settings: {'; '.join(differences)}. Give these keys their old "
            "values, or choose another run.dir."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
