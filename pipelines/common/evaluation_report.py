"""What an evaluation leaves: evaluation.json, tables as text, pictures, and the rows of a published table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from audio.metrics.bootstrap import Interval
from core.storage.atomic import replaced_atomically
from core.training.metrics import standard_json
from kernels.provenance import write_results
from pipelines.common.evaluation_source import Source
from pipelines.common.publication import read_published

REPORT = "evaluation.json"
ALL, SELECTED = "all", "40/95"
METRICS = {
    "fid": "FID",
    "fid_infinity": "FID at infinity",
    "is": "IS",
    "mis": "modified IS",
    "am": "AM",
    "ndb": "NDB",
}


class Selection(NamedTuple):
    """How many clips of a source were measured, and what every metric gave."""

    clips: int
    metrics: dict[str, Interval]


class Measured(NamedTuple):
    """A source and its metrics: of ALL clips, and of those SELECTED by likelihood where that is known.

    accuracy: the fraction of clips that the classifier hears as what they are labelled; None without labels.
    notes: whole sentences.
    """

    source: Source
    accuracy: float | None
    selections: dict[str, Selection]
    notes: list[str]


def write_report(run: Path, facts: Mapping[str, Any], measured: Sequence[Measured]) -> None:
    """Write evaluation.json: the facts, and for each source what is known and what was measured of it."""
    content = {**standard_json(dict(facts)), "sources": [standard_json(_described(one)) for one in measured]}
    with replaced_atomically(run / REPORT) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_report(run: Path) -> dict[str, Any]:
    """The content of an evaluation.

    Raises FileNotFoundError where the folder has none, and ValueError where it cannot be read as JSON.
    """
    path = run / REPORT
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: name the run folder of a finished audio_evaluate.")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): run audio_evaluate again to write it anew."
        ) from error
    return content


def text_table(measured: Sequence[Measured]) -> str:
    """A line a source and selection: clips, accuracy, bits, and each metric with half its 95 % interval."""
    heads = ["", "clips", "right", "NLL", *METRICS.values()]
    lines = [heads]
    for one in measured:
        for name, selection in one.selections.items():
            title = one.source.name if name == ALL else f"{one.source.name}, {name}"
            bits = one.source.facts.get("nll_bits") if name == ALL else None
            right = one.accuracy if name == ALL else None
            lines.append(
                [
                    title,
                    f"{selection.clips:,}",
                    "" if right is None else f"{right:.1%}",
                    "" if bits is None else f"{bits:.3f}",
                    *(interval_text(selection.metrics.get(metric)) for metric in METRICS),
                ]
            )
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in _left_first(lines, widths[0]))


def interval_text(interval: Interval | None) -> str:
    """A value with half its 95 % interval: "1.23 +- 0.05"; nothing where there is no value."""
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} +- {(interval.high - interval.low) / 2:.3f}"


def write_rows(
    path: Path, command: str, data: str, measured: Sequence[Measured], device: torch.device, seed: int
) -> None:
    """Fill the rows of a published table: a model's by the folder of its run, others by data and name.

    What has no row gets one. What other commands wrote into a row stays, its likelihood included, and so does
    their command. The file is whole at any time. Raises ValueError as read_published does.
    """
    before = read_published(path)
    rows = list(before["rows"])
    for one in measured:
        own = {"data": data, "model": one.source.name, "run": one.source.facts.get("path")}
        if not any(_is_of(row, own) for row in rows):
            rows.append(own)
        rows = [_filled(row, one) if _is_of(row, own) else row for row in rows]
    earlier = before.get("command")
    commands = command if earlier in (None, command) else f"{earlier.removesuffix(f'; {command}')}; {command}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_atomically(path) as temporary:
        write_results(temporary, commands, device, seed, rows)


def _is_of(row: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether a row is of this source; rows that name a run are known by it alone."""
    keys = ("run",) if row.get("run") is not None else ("data", "model")
    return all(row.get(key) == own[key] for key in keys)


def _filled(row: Mapping[str, Any], one: Measured) -> dict[str, Any]:
    """A row with what was measured; what it knows of parameters and likelihood stays."""
    known = {key: row[key] for key in ("parameters", "nll_bits") if row.get(key) is not None}
    return {**row, **standard_json(_row(one)), **known}


def _row(one: Measured) -> dict[str, Any]:
    """The numbers of a source in a published table: of all clips, and of the selected ones, `selected_*`."""
    row: dict[str, Any] = {
        key: one.source.facts[key] for key in ("parameters", "nll_bits") if key in one.source.facts
    }
    for name, prefix in ((ALL, ""), (SELECTED, "selected_")):
        if name in one.selections:
            clips, metrics = one.selections[name]
            row[f"{prefix}clips"] = clips
            for metric in METRICS:
                if metric in metrics:
                    value, low, high = metrics[metric]
                    row |= {f"{prefix}{metric}": value, f"{prefix}{metric}_interval": [low, high]}
    return row


def _described(one: Measured) -> dict[str, Any]:
    source = one.source
    return {
        "name": source.name,
        "kind": source.kind,
        "folder": source.name,
        "clips": len(source.files),
        "accuracy": one.accuracy,
        "nll_bits": None,
        "parameters": None,
        **source.facts,
        "identity": source.identity,
        "selections": {
            name: {"clips": selection.clips}
            | {metric: interval._asdict() for metric, interval in selection.metrics.items()}
            for name, selection in one.selections.items()
        },
        "notes": one.notes,
    }


def _left_first(lines: list[list[str]], width: int) -> list[list[str]]:
    return [[first.ljust(width), *rest] for first, *rest in lines]
