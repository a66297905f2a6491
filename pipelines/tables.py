"""The tables of results/*.json in Markdown: `python -m pipelines.tables [NAME ...]`.

Each published table comes from a file that a command wrote; the line above the table names the command.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "results"
Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.tables", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which tables, of: {', '.join(TABLES)}")
    for name in parser.parse_args(argv).names or TABLES:
        if name not in TABLES:
            sys.exit(f"{name} is no table; there are: {', '.join(TABLES)}.")
        path = FOLDER / f"{name}.json"
        if path.is_file():
            print(table(json.loads(path.read_text()), TABLES[name]), end="\n\n")
        else:
            print(f"{path} is not there: the command that writes it has not been run.", file=sys.stderr)


def table(results: dict[str, Any], columns: Sequence[Column]) -> str:
    """One Markdown table, under a line that says where its numbers come from."""
    commit = (results["commit"] or "unknown")[:10]
    source = f"`{results['command']}`: {results['hardware']}, {results['date']}, commit {commit}"
    lines = [f"{source}, seed {results['seed']}.", ""]
    lines.append("| " + " | ".join(name for name, _ in columns) + " |")
    lines.append("|" + "---|" * len(columns))
    lines += ["| " + " | ".join(cell(row) for _, cell in columns) + " |" for row in results["rows"]]
    return "\n".join(lines)


def _shape(row: Row) -> str:
    return f"({row['batch']:,}, {row['channels']:,}, {row['length']:,})"


def _state(row: Row) -> str:
    return f"{row['state']} complex" if row["complex"] else str(row["state"])


def _times(who: str) -> Callable[[Row], str]:
    return lambda row: f"{row[f'{who}_forward_ms']:.3f} / {row[f'{who}_forward_backward_ms']:.3f}"


def _faster(key: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        ratio, target = row[f"{key}_ratio"], row.get(f"target_{key}")
        if ratio is None:
            return row["reason"]
        return f"{ratio:.2f}x" + ("" if target is None or ratio >= target else f" (short of {target}x)")

    return cell


def _above_floor(row: Row) -> str:
    return f"{row['ours_forward_backward_ms'] / row['floor_forward_backward_ms']:.1f}x"


def _rate(who: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        rate, peak = row[f"{who}_tokens_per_s"], row[f"{who}_peak_gib"]
        return "" if rate is None else f"{rate:,.0f}, {peak:.1f} GiB"

    return cell


def _train_ratio(row: Row) -> str:
    official = row["official_tokens_per_s"]
    return "" if official is None else f"{row['ours_tokens_per_s'] / official:.2f}x"


_TIMES: tuple[Column, ...] = (
    ("official, ms", _times("official")),
    ("ours, ms", _times("ours")),
    ("forward", _faster("forward")),
    ("forward + backward", _faster("forward_backward")),
    ("peak MiB, official / ours", lambda row: f"{row['official_peak_mib']:.0f} / {row['ours_peak_mib']:.0f}"),
    ("worst error, ours / official", lambda row: f"{row['error_ratio']:.2f}"),
)
_OPERATOR: tuple[Column, ...] = (("batch, channels, length", _shape), *_TIMES)
TABLES: dict[str, tuple[Column, ...]] = {
    "scan": (
        ("batch, channels, length", _shape),
        ("states", _state),
        *_TIMES,
        ("ours above the hardware's floor", _above_floor),
    ),
    "conv": _OPERATOR,
    "norm": _OPERATOR,
    "train": (
        ("model", lambda row: row["model"]),
        ("batch x length", lambda row: f"{row['batch']:,} x {row['length']:,}"),
        ("official, tokens/s and peak", _rate("official")),
        ("ours", _rate("ours")),
        ("faster", _train_ratio),
    ),
}

if __name__ == "__main__":
    main()
