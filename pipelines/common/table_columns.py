"""Columns of every published table: heads, and texts of the cells from a row of results/*.json."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


@dataclass(frozen=True)
class Table:
    """Layout of a published table.

    columns: heads and functions from a row to the text of a cell. arrange: maps the rows of the file to the
    lines of the table. file: name of the file without .json; None for the name of the table. rows: key of the
    rows in the file.
    """

    columns: tuple[Column, ...]
    arrange: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows
    file: str | None = None
    rows: str = "rows"


def _value(key: str, format_spec: str = "") -> Callable[[Row], str]:
    """Return the text of a key; empty if a row has no value."""
    return lambda row: "" if row.get(key) is None else format(row[key], format_spec)


def _measured(key: str, format_spec: str) -> Callable[[Row], str]:
    """Return the value of a key with half its 95 % interval, if the row has a `<key>_interval`."""

    def cell(row: Row) -> str:
        value, (low, high) = row.get(key), row.get(f"{key}_interval") or (None, None)
        if value is None or isinstance(value, str):
            return value or ""  # JSON stores infinity as a text
        return f"{value:{format_spec}}" + ("" if low is None else f" ± {(high - low) / 2:{format_spec}}")

    return cell


def _shape(row: Row) -> str:
    return f"({row['batch']:,}, {row['channels']:,}, {row['length']:,})"


def _state(row: Row) -> str:
    return f"{row['state']} complex" if row["complex"] else str(row["state"])


def _times(who: str) -> Callable[[Row], str]:
    return lambda row: f"{row[f'{who}_forward_ms']:.3f} / {row[f'{who}_forward_backward_ms']:.3f}"


def _both_ns(who: str) -> Callable[[Row], str]:
    return lambda row: f"{row[f'{who}_forward_ns']:.1f} / {row[f'{who}_forward_backward_ns']:.1f}"


def _faster(key: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        ratio, target = row[f"{key}_ratio"], row.get(f"target_{key}")
        if ratio is None:
            return row["reason"]
        return f"{ratio:.2f}x" + ("" if target is None or ratio >= target else f" (short of {target}x)")

    return cell


def _above_floor(row: Row) -> str:
    return f"{row['ours_forward_backward_ms'] / row['floor_forward_backward_ms']:.1f}x"


def _model(row: Row) -> str:
    return f"{row['model']}, as a CUDA graph" if row.get("captured") else row["model"]


def _batch_and_length(row: Row) -> str:
    return f"{row['batch']:,} x {row['length']:,}"


def _rate(who: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        rate, peak = row[f"{who}_tokens_per_s"], row[f"{who}_peak_gib"]
        return "" if rate is None else f"{rate:,.0f}, {peak:.1f} GiB"

    return cell


def _ratio(ours: str, theirs: str) -> Callable[[Row], str]:
    """Return ours divided by theirs; empty if either is missing."""
    return lambda row: f"{row[ours] / row[theirs]:.2f}x" if row.get(ours) and row.get(theirs) else ""


def _percent(key: str) -> Callable[[Row], str]:
    return lambda row: "" if row.get(key) is None else f"{100 * row[key]:.1f} %"


def _interval(low: str, high: str) -> Callable[[Row], str]:
    return lambda row: "" if row.get(low) is None else f"{100 * row[low]:.1f} to {100 * row[high]:.1f} %"


def _by_task_and_length(rows: Sequence[Row]) -> Sequence[Row]:
    """Return one line per task and length, with the accuracy of each mixer by its name."""
    lines: dict[tuple[str, int], Row] = {}
    for row in rows:
        key = row["task"], row["length"]
        lines.setdefault(key, {"task": row["task"].replace("_", " "), "length": row["length"]})
        lines[key][row["mixer"]] = row["accuracy"]
    return list(lines.values())


_TIMES: tuple[Column, ...] = (
    ("official, ms", _times("official")),
    ("ours, ms", _times("ours")),
    ("forward", _faster("forward")),
    ("forward + backward", _faster("forward_backward")),
    ("peak MiB, official / ours", lambda row: f"{row['official_peak_mib']:.0f} / {row['ours_peak_mib']:.0f}"),
    ("worst error, ours / official", lambda row: f"{row['error_ratio']:.2f}"),
)
_OPERATOR = Table((("batch, channels, length", _shape), *_TIMES))
_TRAINING = Table(
    (
        ("model", _model),
        ("batch x length", _batch_and_length),
        ("official, tokens/s and peak", _rate("official")),
        ("ours", _rate("ours")),
        ("faster", _ratio("ours_tokens_per_s", "official_tokens_per_s")),
    )
)

TABLES: dict[str, Table] = {
    "scan": Table(
        (
            ("batch, channels, length", _shape),
            ("states", _state),
            *_TIMES,
            ("ours / hardware floor", _above_floor),
        )
    ),
    "conv": _OPERATOR,
    "norm": _OPERATOR,
    "train": _TRAINING,
    "graph": _TRAINING,
    "memory": Table(
        (
            ("model", _model),
            ("batch x length", _batch_and_length),
            ("official, peak GiB", _value("official_peak_gib", ".1f")),
            ("ours", _value("ours_peak_gib", ".1f")),
            ("ours / official", _ratio("ours_peak_gib", "official_peak_gib")),
        )
    ),
    "sampling": Table(
        (
            ("case", _value("case")),
            ("batch", _value("batch", ",")),
            ("official, tokens/s", _value("official_per_s", ",.0f")),
            ("ours", _value("ours_per_s", ",.0f")),
            ("faster", _ratio("ours_per_s", "official_per_s")),
        )
    ),
    "scan_cpu": Table(
        (
            ("batch, channels, length", _shape),
            ("mambapy, ns per element", _both_ns("mambapy")),
            ("ours", _both_ns("ours")),
            ("forward", _value("forward_ratio", ".1f")),
            ("forward + backward", _value("forward_backward_ratio", ".1f")),
        )
    ),
    "train_cpu": Table(
        (
            ("work", _value("work")),
            ("batch x length", _batch_and_length),
            ("mambapy, tokens/s", _value("mambapy_tokens_per_s", ",.0f")),
            ("ours", _value("ours_tokens_per_s", ",.0f")),
            ("faster", _ratio("ours_tokens_per_s", "mambapy_tokens_per_s")),
        )
    ),
    "loader": Table(
        (("length", _value("length", ",")), ("Mbase/s, one core", _value("mbase_per_s", ",.0f")))
    ),
    "score": Table(
        (
            ("model", _value("model")),
            ("bases in one pass", _value("bases", ",")),
            ("chunk, bases", _value("piece", ",")),
            ("Mbase/s", _value("mbase_per_s", ".1f")),
            ("peak GiB", _value("peak_gib", ".2f")),
        )
    ),
    "genomics": Table(
        (
            ("model", _value("model")),
            ("parameters", _value("parameters", ",")),
            ("length", _value("length", ",")),
            ("tokens", _value("tokens", ",")),
            ("bits per base", _value("bits_per_base", ".4f")),
            ("best Markov model", _value("markov_bits", ".4f")),
            ("tokens/s", _value("tokens_per_s", ",.0f")),
            ("peak GiB", _value("peak_gib", ".1f")),
        )
    ),
    "markov": Table(
        (("order", _value("order")), ("bits per base", _value("bits_per_base", ".4f"))),
        file="genomics",
        rows="markov",
    ),
    "species": Table(
        (
            ("task", _value("task")),
            ("length", _value("length", ",")),
            ("accuracy", _percent("accuracy")),
            ("95 % interval", _interval("low", "high")),
            ("baseline", _percent("baseline")),
            ("gain", _percent("gain")),
            ("95 % interval of the gain", _interval("gain_low", "gain_high")),
        )
    ),
    "audio": Table(
        (
            ("data", _value("data")),
            ("model", _value("model")),
            ("parameters", _value("parameters", ",")),
            ("training, s", _value("training_seconds", ".0f")),
            ("NLL, bits", _value("nll_bits", ".3f")),
            ("FID", _measured("fid", ".2f")),
            ("IS", _measured("is", ".2f")),
            ("mIS", _measured("mis", ".1f")),
            ("AM", _measured("am", ".2f")),
        )
    ),
    "audio_speed": Table(
        (
            ("model", _model),
            ("batch x length", _batch_and_length),
            ("official mixers, samples/s and peak", _rate("official")),
            ("ours", _rate("ours")),
            ("faster", _ratio("ours_tokens_per_s", "official_tokens_per_s")),
            ("ours, as a CUDA graph", _rate("ours_replayed")),
        )
    ),
    "audio_published": Table(
        (
            ("model", _value("model")),
            ("parameters", _value("parameters", ",")),
            ("NLL, bits", _value("nll_bits", ".3f")),
            ("FID", _value("fid", ".2f")),
            ("IS", _value("is", ".2f")),
            ("mIS", _value("mis", ".1f")),
            ("AM", _value("am", ".2f")),
        )
    ),
    "synthetic": Table(
        (
            ("task", _value("task")),
            ("length", _value("length", ",")),
            ("Mamba", _percent("mamba")),
            ("S4D", _percent("s4d")),
        ),
        _by_task_and_length,
    ),
}
"""Tables by the name in a document."""
