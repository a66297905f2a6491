"""Train models of several sizes at several lengths and learning rates, and fit scaling laws.

    python -m pipelines.dna_scaling data.fasta=hg38.ml.fa.gz sizes=[250k,700k,1.4m] lengths=[1024,16384]
    python -m pipelines.dna_scaling --config hg38_1k learning_rates=[4e-3,8e-3] --dry-run
    python -m pipelines.dna_scaling --config chr20 publish=results/genomics.json

All keys of dna_pretrain apply to every run, except that sizes replaces model.d_model and model.n_layer,
lengths replaces data.length, and learning_rates replaces train.learning_rate. A step has data.length *
train.batch_size bases at every length. If one window is longer than that, a step is one window, and there are
fewer steps with the same total number of bases.

Each run has a folder in run.dir. The same command continues a sweep: it skips finished runs and resumes the
others. run.dir also gets scaling.json (one row per run), power_laws.json, perplexity_by_parameters.png,
perplexity_by_length.png and bits_by_context.png.
"""

import dataclasses
import json
import shlex
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bio.dna_model import SIZES, size_config
from bio.scoring.evaluation import read_validation
from bio.scoring.markov import TABLE as MARKOV_TABLE
from bio.scoring.plots import plot_by_length, plot_by_parameters, plot_context
from bio.scoring.scaling import Row, best_rows, power_laws, results_text
from core.models.sequence import SequenceModel
from core.storage.atomic import replaced_atomically, write_json
from core.training import NonFiniteError, World, distributed_world
from core.training.metrics import read_metrics
from kernels import provenance
from pipelines import dna_pretrain
from pipelines.common.cli import command
from pipelines.common.config import RunConfig, parse_config, require_same_settings, run_state
from pipelines.common.publication import check_publish

DIVERGED = "diverged.txt"
TABLE, LAWS = "scaling.json", "power_laws.json"
BY_PARAMETERS, BY_LENGTH = "perplexity_by_parameters.png", "perplexity_by_length.png"
BY_CONTEXT = "bits_by_context.png"


@dataclass(frozen=True)
class Config(dna_pretrain.Config):
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/dna_scaling"))
    sizes: list[str] = field(
        default_factory=lambda: list(SIZES), metadata={"help": f"model sizes, from: {', '.join(SIZES)}"}
    )
    lengths: list[int] = field(
        default_factory=list, metadata={"help": "window lengths (bases); empty: data.length"}
    )
    learning_rates: list[float] = field(
        default_factory=list,
        metadata={"help": "peak learning rates; the best one counts; empty: train.learning_rate"},
    )
    also: list[str] = field(
        default_factory=list,
        metadata={"help": "runs besides sizes times lengths, each written size@length: 1.4m@1048576"},
    )
    publish: str | None = field(
        default=None,
        metadata={"help": ".json file for a copy of the table; the context plot goes to a .png"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_publish(self.publish)
        if self.checkpoint is not None:
            raise ValueError(
                f"checkpoint is {self.checkpoint}, but a sweep trains every size from new parameters. "
                "dna_pretrain checkpoint=... continues one model."
            )


@dataclass(frozen=True)
class Cell:
    """One run of the sweep: size, folder and configuration."""

    size: str
    folder: Path
    config: dna_pretrain.Config

    @property
    def state(self) -> str:
        """State of the run: new, started, finished or diverged."""
        state = run_state(self.folder)
        return "diverged" if state == "started" and (self.folder / DIVERGED).exists() else state


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_scaling", __doc__ or "")
    cells = plan_cells(config)
    with distributed_world() as world:
        states = [check_state(cell) for cell in cells]
        world.barrier()  # every rank reads the states before a run changes them
        if world.is_rank_0:
            print(plan_text(cells, states), flush=True)
        if config.dry_run:
            return
        for cell, state in zip(cells, states, strict=True):
            if state in ("new", "started"):
                train(cell, state == "started", world)
            if world.is_rank_0:
                folder = Path(config.run.dir)
                write_results(folder, rows(cells), validations(cells), arguments, config.train.seed)
                if config.publish is not None:
                    publish(folder, Path(config.publish))
        if world.is_rank_0:
            print(results_text(rows(cells)))
            print(f"The runs, their table and its plots are in {config.run.dir}.")


def plan_cells(config: Config) -> list[Cell]:
    """Return a run for every size, length and learning rate, and for those in `also`.

    Raises ValueError for an unknown size, and for a length that does not fit the tokens of a step.
    """
    pairs = [(size, length) for size in config.sizes for length in config.lengths or [config.data.length]]
    return [
        plan_cell(config, size, length, rate)
        for size, length in dict.fromkeys([*pairs, *map(parse_run, config.also)])
        for rate in config.learning_rates or [config.train.learning_rate]
    ]


def parse_run(text: str) -> tuple[str, int]:
    """Return the size and the length of "1.4m@1048576". Raises ValueError for any other text."""
    size, _, length = text.partition("@")
    if not length.isdecimal():
        raise ValueError(f"also has {text!r}; write a size and a length: 1.4m@1048576.")
    return size, int(length)


def plan_cell(config: Config, size: str, length: int, learning_rate: float) -> Cell:
    """Return the run of one size, length and learning rate.

    Raises ValueError for an unknown size, and for a length that does not fit the tokens of a step.
    """
    tokens, steps = config.data.length * config.train.batch_size, config.train.steps
    if length > tokens and steps * tokens % length == 0:
        tokens, steps = length, steps * tokens // length
    if length < 1 or tokens % length:
        raise ValueError(
            f"A step of {tokens:,} tokens (data.length * train.batch_size) does not hold whole windows of "
            f"{length:,} bases. Choose lengths that divide it, or that divide the tokens of all steps."
        )
    folder = Path(config.run.dir) / f"{size}-{length}-{learning_rate:g}"
    shape = {name: getattr(size_config(size), name) for name in ("d_model", "n_layer")}
    settings = {
        "data": dataclasses.replace(config.data, length=length),
        "model": dataclasses.replace(config.model, **shape),
        "train": dataclasses.replace(
            config.train, steps=steps, batch_size=tokens // length, learning_rate=learning_rate
        ),
        "run": RunConfig(str(folder)),
        "resume": False,
        "dry_run": False,
    }
    shared = {item.name: getattr(config, item.name) for item in dataclasses.fields(dna_pretrain.Config)}
    return Cell(size, folder, dna_pretrain.Config(**{**shared, **settings}))


def check_state(cell: Cell) -> str:
    """Return the state of a run; ConfigError, naming the keys, if it was started with other settings."""
    require_same_settings(cell.folder, cell.config, ignored=("data.sha256", "data.valid_sha256", "resume"))
    return cell.state


def train(cell: Cell, resume: bool, world: World) -> None:
    """Train a run to its end. Mark a run that diverges, and return, so that the sweep continues."""
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        dna_pretrain.pretrain(dataclasses.replace(cell.config, resume=resume), cell.folder.parent)
    except NonFiniteError as error:
        if world.is_rank_0:
            with replaced_atomically(cell.folder / DIVERGED) as temporary:
                temporary.write_text(f"{error}\n", encoding="utf-8")


def rows(cells: Sequence[Cell]) -> list[Row]:
    """Return a row per run that has ended; the results of a diverged run are None."""
    states = ((cell, cell.state) for cell in cells)
    return [row(cell, state) for cell, state in states if state in ("finished", "diverged")]


def row(cell: Cell, state: str) -> Row:
    """Return the row of a finished or diverged run. Raises ValueError for a run without held-out bases."""
    summary: dict[str, Any] = {}
    if state == "finished":
        summary = json.loads((cell.folder / "summary.json").read_text(encoding="utf-8"))
        if not summary["validation"]:
            raise ValueError(
                f"The run in {cell.folder} held nothing out, so it has no validation loss. Set "
                "data.valid_fraction, data.valid_chromosomes, or a data.bed with a split valid."
            )
    metrics = summary.get("validation", {})
    return {
        "model": cell.size,
        "parameters": count_parameters(cell),
        "length": cell.config.data.length,
        "learning_rate": cell.config.train.learning_rate,
        "tokens": summary.get("tokens"),
        "loss": metrics.get("loss"),
        "bits_per_base": metrics.get("bits_per_base"),
        "perplexity": metrics.get("perplexity"),
        "markov_bits": metrics.get("markov_bits_per_base"),
        "tokens_per_s": median_rate(cell.folder / "metrics.jsonl"),
        "data_wait": summary.get("data_wait"),
        "peak_gib": summary.get("peak_memory_gib"),
    }


def validations(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the last validation table of each finished run, by size, length and learning rate if several."""
    has_several_rates = len({cell.config.train.learning_rate for cell in cells}) > 1
    tables = {}
    for cell in cells:
        if cell.state == "finished":
            rate = f", {cell.config.train.learning_rate:g}" if has_several_rates else ""
            tables[f"{cell.size}, {cell.config.data.length:,}{rate}"] = read_validation(cell.folder)
    return tables


def write_results(
    folder: Path, rows: Sequence[Row], validations: Mapping[str, Any], arguments: Sequence[str], seed: int
) -> None:
    """Write the table, the power laws and the plots of the runs so far.

    validations: validation tables by run name.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    command = shlex.join(["python", "-m", "pipelines.dna_scaling", *arguments])
    with replaced_atomically(folder / TABLE) as temporary:
        provenance.write_results(temporary, command, device, seed, rows)
    best = best_rows(rows)
    laws = power_laws(best)
    content = [{"length": length, **law.to_json()} for length, law in laws.items()]
    write_json(folder / LAWS, content, allow_nan=False)
    if best:
        plot_by_parameters(best, laws, folder / BY_PARAMETERS)
        plot_by_length(best, folder / BY_LENGTH)
        plot_context(validations, folder / BY_CONTEXT)


def publish(folder: Path, results: Path) -> None:
    """Copy the table and all Markov models to `results`, and the context plot to a .png of that name."""
    content = json.loads((folder / TABLE).read_text(encoding="utf-8"))
    if (folder / MARKOV_TABLE).exists():
        content["markov"] = json.loads((folder / MARKOV_TABLE).read_text(encoding="utf-8"))["rows"]
    results.parent.mkdir(parents=True, exist_ok=True)
    write_json(results, content)
    if (folder / BY_CONTEXT).exists():  # missing if all runs diverged
        with replaced_atomically(results.with_name(f"{results.stem}_context.png")) as temporary:
            shutil.copyfile(folder / BY_CONTEXT, temporary)


def median_rate(metrics: Path) -> float | None:
    """Return the median of the logged tokens per second; None without log lines. The first steps compile."""
    rates = [event["tokens_per_second"] for event in read_metrics(metrics) if event["event"] == "train"]
    return statistics.median(rates) if rates else None


def count_parameters(cell: Cell) -> int:
    """Return the number of parameters of a run's model."""
    with torch.device("meta"):
        model = SequenceModel(cell.config.model)
    return sum(parameter.numel() for parameter in model.parameters())


def plan_text(cells: Sequence[Cell], states: Sequence[str]) -> str:
    """Return a line per run: name, parameters, steps, windows and state."""
    lines = [
        f"{cell.folder.name:<24} {count_parameters(cell):>12,} parameters, {cell.config.train.steps:,} steps "
        f"of {cell.config.train.batch_size:,} windows of {cell.config.data.length:,}: {state}"
        for cell, state in zip(cells, states, strict=True)
    ]
    return "\n".join([f"{len(cells)} run(s), {states.count('finished')} finished", *lines])


if __name__ == "__main__":
    sys.exit(main())
