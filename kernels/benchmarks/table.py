"""The table of results/scan.json in Markdown: `python -m kernels.benchmarks.table`."""

import json
import sys
from pathlib import Path
from typing import Any

HEADER = (
    "| batch, channels, length | states | official, ms | ours, ms | forward | forward + backward "
    "| peak MiB, official / ours | error, ours / official | above the floor |"
)


def main() -> None:
    path = Path("results/scan.json")
    if not path.is_file():
        sys.exit(f"{path} is not there; `python -m kernels.benchmarks --publish` on a GPU writes it.")
    results = json.loads(path.read_text())
    commit = (results["commit"] or "an unknown commit")[:10]
    facts = (
        f"`{results['command']}`",
        results["hardware"],
        results["date"],
        f"seed {results['seed']}",
        commit,
    )
    print(", ".join(facts) + ".\n")
    print(HEADER)
    print("|" + "---|" * HEADER.count(" |"))
    for row in results["rows"]:
        print(_line(row))


def _line(row: dict[str, Any]) -> str:
    shape = f"({row['batch']}, {row['channels']}, {row['length']:,})"
    states = f"{row['state']} complex" if row["complex"] else str(row["state"])
    cells = [shape, states]
    for who in ("official", "ours"):
        cells.append(f"{row[f'{who}_forward_ms']:.3f} / {row[f'{who}_forward_backward_ms']:.2f}")
    for key in ("forward", "forward_backward"):
        ratio, target = row[f"{key}_ratio"], row[f"target_{key}"]
        cells.append(f"{ratio:.2f}x" + ("" if ratio >= target else f" (short of {target}x)"))
    cells.append(f"{row['official_peak_mib']:.0f} / {row['ours_peak_mib']:.0f}")
    cells.append(f"{row['error_ratio']:.2f}")
    cells.append(f"{row['ours_forward_backward_ms'] / row['floor_forward_backward_ms']:.1f}x")
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
