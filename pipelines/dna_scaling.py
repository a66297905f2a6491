"""Train models of several sizes, at several lengths and learning rates, and fit how the loss falls.

    python -m pipelines.dna_scaling data.fasta=hg38.ml.fa.gz sizes=[250k,700k,1.4m] lengths=[1024,16384]
    python -m pipelines.dna_scaling --config hg38_1k learning_rates=[4e-3,8e-3] --dry-run
    python -m pipelines.dna_scaling --config chr20 publish=results/genomics.json

Every key of dna_pretrain holds for every run; sizes stand in for model.d_model and model.n_layer, lengths for
data.length, learning_rates for train.learning_rate. A step has data.length * train.batch_size bases at every
length; where one window is longer, it is a step, and there are fewer steps of as many bases in all. Each run
is a folder in run.dir, trained as dna_pretrain trains. The same command goes on where it stopped: finished
runs are read, a started one is resumed. Beside the runs lie scaling.json (a row a run), power_laws.json,
perplexity_by_parameters.png, perplexity_by_length.png and bits_by_context.png.
"""

import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.models.sequence import SequenceModel
from core.storage.atomic import replaced_atomically
from core.training import NonFiniteError, World, distributed_world
from core.training.metrics import read_metrics
from pipelines import dna_pretrain
from pipelines.common.cli import command
from pipelines.common.config import RunConfig, parse_config, require_same_settings, run_state
from pipelines.common.dna_sizes import SIZES, sized_model
from pipelines.common.dna_validation import read_table
from pipelines.common.publication import check_publish
from pipelines.common.scaling_table import publish, results_text, write_results

DIVERGED = "diverged.txt"


@dataclass(frozen=True)
class Config(dna_pretrain.Config):
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/dna_scaling"))
    sizes: list[str] = field(
        default_factory=lambda: list(SIZES), metadata={"help": f"models by their size: {', '.join(SIZES)}"}
    )
    lengths: list[int] = field(
        default_factory=list, metadata={"help": "bases in a window; none: data.length alone"}
    )
    learning_rates: list[float] = field(
        default_factory=list,
        metadata={
            "help": "highest learning rates, the best of which counts; none: train.learning_rate alone"
        },
    )
    also: list[str] = field(
        default_factory=list,
        metadata={"help": "single runs besides sizes times lengths, each as size@length: 1.4m@1048576"},
    )
    publish: str | None = field(
        default=None,
        metadata={"help": "a .json to write the table to as well, and the bits by context as a .png"},
    )

    def __post_init__(self) -> None:
        check_publish(self.publish)


@dataclass(frozen=True)
class Cell:
    """One run of the table: the name of its size, its folder, and its configuration."""

    size: str
    folder: Path
    config: dna_pretrain.Config

    @property
    def state(self) -> str:
        """new, started, finished, or diverged."""
        state = run_state(self.folder)
        return "diverged" if state == "started" and (self.folder / DIVERGED).exists() else state


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_scaling", __doc__ or "")
    cells = planned(config)
    with distributed_world() as world:
        states = [checked_state(cell) for cell in cells]
        world.barrier()  # no process begins before all have looked
        if world.is_rank_0:
            print(plan_text(cells, states), flush=True)
        if config.dry_run:
            return
        for cell, state in zip(cells, states, strict=True):
            if state in ("new", "started"):
                train(cell, state == "started", world)
            if world.is_rank_0:
                folder, seed = Path(config.run.dir), config.train.seed
                write_results(folder, rows(cells), validations(cells), arguments, seed)
                if config.publish is not None:
                    publish(folder, Path(config.publish))
        if world.is_rank_0:
            print(results_text(rows(cells)))
            print(f"{config.run.dir} holds the runs, their table and its pictures.")


def planned(config: Config) -> list[Cell]:
    """Every size at every length, and what is planned besides, with every learning rate.

    Raises ValueError for an unknown size, and for a length that does not fit the tokens of a step.
    """
    pairs = [(size, length) for size in config.sizes for length in config.lengths or [config.data.length]]
    return [
        cell_of(config, size, length, rate)
        for size, length in dict.fromkeys([*pairs, *map(size_and_length, config.also)])
        for rate in config.learning_rates or [config.train.learning_rate]
    ]


def size_and_length(text: str) -> tuple[str, int]:
    """1.4m@1048576 as its two parts. Raises ValueError for any other text."""
    size, _, length = text.partition("@")
    if not length.isdecimal():
        raise ValueError(f"also has {text!r}; write a size and a length, as 1.4m@1048576.")
    return size, int(length)


def cell_of(config: Config, size: str, length: int, learning_rate: float) -> Cell:
    """The run of one size, length and learning rate."""
    tokens, steps = config.data.length * config.train.batch_size, config.train.steps
    if length > tokens and steps * tokens % length == 0:
        tokens, steps = length, steps * tokens // length
    if length < 1 or tokens % length:
        raise ValueError(
            f"A step of {tokens:,} tokens (data.length * train.batch_size) does not hold whole windows of "
            f"{length:,} bases. Choose lengths that divide it, or that divide the tokens of all steps."
        )
    folder = Path(config.run.dir) / f"{size}-{length}-{learning_rate:g}"
    shape = {name: getattr(sized_model(size), name) for name in ("d_model", "n_layer")}
    own = {
        "data": dataclasses.replace(config.data, length=length),
        "model": dataclasses.replace(config.model, **shape),
        "train": dataclasses.replace(
            config.train, steps=steps, batch_size=tokens // length, learning_rate=learning_rate
        ),
        "run": RunConfig(str(folder)),
        "resume": False,
        "dry_run": False,
    }
    common = {item.name: getattr(config, item.name) for item in dataclasses.fields(dna_pretrain.Config)}
    return Cell(size, folder, dna_pretrain.Config(**{**common, **own}))


def checked_state(cell: Cell) -> str:
    """The state of a run; ConfigError, naming the keys, if it was begun with other settings."""
    require_same_settings(cell.folder, cell.config, ignored=("data.sha256", "data.valid_sha256", "resume"))
    return cell.state


def train(cell: Cell, resume: bool, world: World) -> None:
    """Train a run to its end; one whose loss is not finite any more is marked, and the table goes on."""
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        dna_pretrain.pretrain(dataclasses.replace(cell.config, resume=resume), cell.folder.parent)
    except NonFiniteError as error:
        if world.is_rank_0:
            with replaced_atomically(cell.folder / DIVERGED) as temporary:
                temporary.write_text(f"{error}\n", encoding="utf-8")


def rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row a run that has ended; perplexity and what goes with it are None where it diverged."""
    ended = ((cell, cell.state) for cell in cells)
    return [row(cell, state) for cell, state in ended if state in ("finished", "diverged")]


def row(cell: Cell, state: str) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    if state == "finished":
        summary = json.loads((cell.folder / "summary.json").read_text(encoding="utf-8"))
        if not summary["validation"]:
            raise ValueError(
                f"The run in {cell.folder} held nothing out, so that there is no loss to compare: give "
                "data.valid_fraction, data.valid_chromosomes or a data.bed with a split valid."
            )
    measured = summary.get("validation", {})
    return {
        "model": cell.size,
        "parameters": count_parameters(cell),
        "length": cell.config.data.length,
        "learning_rate": cell.config.train.learning_rate,
        "tokens": summary.get("tokens"),
        "loss": measured.get("loss"),
        "bits_per_base": measured.get("bits_per_base"),
        "perplexity": measured.get("perplexity"),
        "markov_bits": measured.get("markov_bits_per_base"),
        "tokens_per_s": usual_rate(cell.folder / "metrics.jsonl"),
        "data_wait": summary.get("data_wait"),
        "peak_gib": summary.get("peak_memory_gib"),
    }


def validations(cells: Sequence[Cell]) -> dict[str, Any]:
    """What each finished run's last validation found, by size, length and, of several, learning rate."""
    several = len({cell.config.train.learning_rate for cell in cells}) > 1
    found = {}
    for cell in cells:
        if cell.state == "finished":
            rate = f", {cell.config.train.learning_rate:g}" if several else ""
            found[f"{cell.size}, {cell.config.data.length:,}{rate}"] = read_table(cell.folder)
    return found


def usual_rate(metrics: Path) -> float | None:
    """The median of the logged tokens a second: the first steps compile; None before there are any."""
    rates = [event["tokens_per_second"] for event in read_metrics(metrics) if event["event"] == "train"]
    return statistics.median(rates) if rates else None


def count_parameters(cell: Cell) -> int:
    with torch.device("meta"):
        model = SequenceModel(cell.config.model)
    return sum(parameter.numel() for parameter in model.parameters())


def plan_text(cells: Sequence[Cell], states: Sequence[str]) -> str:
    """A line a run: what it is, how much it trains, and how far it is."""
    lines = [
        f"{cell.folder.name:<24} {count_parameters(cell):>12,} parameters, {cell.config.train.steps:,} steps "
        f"of {cell.config.train.batch_size:,} windows of {cell.config.data.length:,}: {state}"
        for cell, state in zip(cells, states, strict=True)
    ]
    return "\n".join([f"{len(cells)} run(s), {states.count('finished')} finished", *lines])


if __name__ == "__main__":
    sys.exit(main())
