"""The results of dna_scaling: the table, its power laws, and the paper's two figures of one's own runs."""

import json
import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bio.scoring.plots import draw_by_length, draw_by_parameters, draw_context
from bio.scoring.scaling import PowerLaw, fit_power_law
from core.storage.atomic import replaced_atomically, write_json
from kernels import provenance
from pipelines.common.dna_markov import TABLE as MARKOV

TABLE, LAWS = "scaling.json", "power_laws.json"
BY_PARAMETERS, BY_LENGTH = "perplexity_by_parameters.png", "perplexity_by_length.png"
BY_CONTEXT = "bits_by_context.png"

Row = dict[str, Any]


def write_results(
    folder: Path, rows: Sequence[Row], validations: Mapping[str, Any], arguments: Sequence[str], seed: int
) -> None:
    """Write the table, the power laws and the figures of what is there so far beside the runs.

    validations: the tables of dna_validation of the runs by name.
    """
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
        draw_context(validations, folder / BY_CONTEXT)


def publish(folder: Path, results: Path) -> None:
    """Copy the table beside the runs, with the Markov models of every order, to `results`, and the picture of
    the bits by context to the .png of that name."""
    content = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    if (folder / MARKOV).exists():
        content["markov"] = json.loads((folder / MARKOV).read_text(encoding="utf-8"))["rows"]
    results.parent.mkdir(parents=True, exist_ok=True)
    write_json(results, content)
    if (folder / BY_CONTEXT).exists():  # nothing but diverged runs have none
        with replaced_atomically(results.with_name(f"{results.stem}_context.png")) as temporary:
            shutil.copyfile(folder / BY_CONTEXT, temporary)


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
    lines = [f"{header} {'bases/s':>10} {'waiting':>8} {'GiB':>6}"]
    for row in rows:
        measured = f"{'diverged':>13}"
        if row["loss"] is not None:
            memory = "" if row["peak_gib"] is None else f"{row['peak_gib']:.2f}"
            speed = f"{row['tokens_per_s']:>10,.0f} {row['data_wait']:>8.2%} {memory:>6}"
            measured = (
                f"{row['bits_per_base']:>13.4f} {row['perplexity']:>10.4f} {speed}{' *' * (row in best)}"
            )
        lines.append(f"{row['model']:>6} {row['length']:>9,} {row['learning_rate']:>13g} {measured}")
    laws = (law_text(length, law) for length, law in power_laws(best).items())
    return "\n".join([*lines, *laws, *length_texts(best)])


def length_texts(rows: Sequence[Row]) -> list[str]:
    """A sentence a model of several lengths: which is best, and by how much; and one on Markov models."""
    texts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = sorted((row for row in rows if row["model"] == model), key=lambda row: row["length"])
        if len(of_model) > 1:
            shortest, best = of_model[0], min(of_model, key=lambda row: row["bits_per_base"])
            gain = shortest["bits_per_base"] - best["bits_per_base"]
            texts.append(
                f"{model}: windows of {best['length']:,} are best, {best['bits_per_base']:.4f} bits per "
                f"base, {gain:.4f} less than windows of {shortest['length']:,}"
            )
    if markov := [row["markov_bits"] for row in rows if row["markov_bits"] is not None]:
        texts.append(f"Markov models of the training bases: {min(markov):.4f} bits per base at best")
    return texts


def law_text(length: int, law: PowerLaw) -> str:
    interval = "two models give no interval"
    if not math.isnan(law.low):
        interval = f"95% interval of the exponent {-law.high:.4f} to {-law.low:.4f}"
    return f"windows of {length:,}: loss = {law.scale:.4g} * parameters^{-law.exponent:.4f} nats, {interval}"
