"""Where a number comes from: the hardware, the commit, the command and the day."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch


def hardware(device: torch.device) -> str:
    """The processor that computes: "NVIDIA H200", or "x86_64, 2 CPU cores"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {os.cpu_count()} CPU cores"


def commit() -> str | None:
    """The commit of this code, with "-dirty" if it was changed since; None outside its git repository."""
    here = Path(__file__)
    try:
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", here.name],
            cwd=here.parent,
            capture_output=True,
            check=True,
        )
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here.parent,
            capture_output=True,
            check=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def write_results(
    path: Path, command: str, device: torch.device, seed: int, rows: Sequence[dict[str, Any]]
) -> None:
    """Write a table of results with all that a reader needs to make it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "command": command,
        "commit": commit(),
        "hardware": hardware(device),
        "date": date.today().isoformat(),
        "seed": seed,
        "rows": list(rows),
    }
    path.write_text(json.dumps(facts, indent=1) + "\n")
