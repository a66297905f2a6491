"""The results of dna_scaling: the table, its power laws, and the paper's two figures of one's own runs."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.files import replaced_atomically
from kernels import provenance
from pipelines.pictures import draw_by_length, draw_by_parameters
from pipelines.power_law import PowerLaw, fit_power_law

TABLE, LAWS = "scaling.json", "power_laws.json"
BY_PARAMETERS, BY_LENGTH = "perplexity_by_parameters.png", "perplexity_by_length.png"

Row = dict[str, Any]


def write_results(folder: Path, rows: Sequence[Row], arguments: Sequence[str], seed: int) -> None:
    """Write the table, the power laws and the figures of what is there so far beside the runs."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    command = shlex.join(["python", "-m", "pipelines.dna_scaling", *arguments])
    with replaced_atomically(folder / TABLE) as temporary:
        provenance.write_results(temporary, command, device, seed, rows)
    chosen = best_rows(rows)
    by_length = power_laws(chosen)
    with replaced_atomically(folder / LAWS) as temporary:
        content = [{"length": length, **standard(law)} for length, law in by_length.items()]
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if chosen:
        draw_by_parameters(chosen, by_length, folder / BY_PARAMETERS)
        draw_by_length(chosen, folder / BY_LENGTH)


def best_rows(rows: Sequence[Row]) -> list[Row]:
    """Of each model and length the row of the learning rate with the lowest loss, if any did not diverge."""
    best: dict[tuple[str, int], Row] = {}
    for row in rows:
        key = row["model"], row["length"]
        if row["loss"] is not None and (key not in best or row["loss"] < best[key]["loss"]):
            best[key] = row
    return list(best.values())


def power_laws(rows: Sequence[Row]) -> dict[int, PowerLaw]:
    """The power law of the loss (nats) at each length at which there are two models or more."""
    laws = {}
    for length in dict.fromkeys(row["length"] for row in rows):
        of_length = [row for row in rows if row["length"] == length]
        if len(of_length) > 1:
            columns = ([row[key] for row in of_length] for key in ("parameters", "loss"))
            laws[length] = fit_power_law(*columns)
    return laws


def standard(law: PowerLaw) -> dict[str, float | None]:
    """A law as JSON, which has no nan."""
    return {name: None if math.isnan(value) else value for name, value in law._asdict().items()}


def results_text(rows: Sequence[Row]) -> str:
    """The table and the laws to read on a screen; an asterisk at the best learning rate."""
    best = best_rows(rows)
    header = f"{'model':>6} {'length':>9} {'learning rate':>13} {'bits per base':>13} {'perplexity':>10}"
    lines = [header]
    for row in rows:
        measured = f"{'diverged':>13}"
        if row["loss"] is not None:
            measured = f"{row['bits_per_base']:>13.4f} {row['perplexity']:>10.4f}{' *' * (row in best)}"
        lines.append(f"{row['model']:>6} {row['length']:>9,} {row['learning_rate']:>13g} {measured}")
    return "\n".join([*lines, *(law_text(length, law) for length, law in power_laws(best).items())])


def law_text(length: int, law: PowerLaw) -> str:
    interval = "two models give no interval"
    if not math.isnan(law.low):
        interval = f"95% interval of the exponent {-law.high:.4f} to {-law.low:.4f}"
    return f"windows of {length:,}: loss = {law.scale:.4g} * parameters^{-law.exponent:.4f} nats, {interval}"
