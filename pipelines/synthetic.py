"""Compare Mamba with S4D on Selective Copying and Induction Heads (Gu and Dao 2023, section 4.1).

    python -m pipelines.synthetic --config induction_heads
    python -m pipelines.synthetic --config selective_copying publish=results/synthetic.json

Trains a Mamba and the same model with a time-invariant S4D in place of the selective scan, then measures the
accuracy of both on held-out sequences of every length in task.test_lengths. run.dir gets a run folder with
accuracy.json for each model, and accuracy.png, which compares them. The same command continues an interrupted
comparison: it reads finished runs and resumes a started one.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Literal, cast

import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from core.checkpoints.checkpoint import latest_checkpoint, load_weights
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.plots import save_figure
from core.storage.atomic import write_json
from core.synthetic_task import VOCABULARY_SIZE, SyntheticBatches, TaskName, evaluate
from core.training import RunFolder, Stage, StagedBatches, TrainingConfig, World, single_process_world, train
from core.training.step import autocast
from pipelines.common.cli import command
from pipelines.common.config import RunConfig, parse_config, require_same_settings, run_state
from pipelines.common.publication import read_published
from pipelines.common.table_columns import Row

HELD_OUT_SEED = -1  # no seed of a training
ACCURACY, PICTURE = "accuracy.json", "accuracy.png"
Mixer = Literal["mamba", "s4d"]
MIXERS: dict[Mixer, bool] = {"mamba": True, "s4d": False}
"""Mixers, and whether they are selective."""


@dataclass(frozen=True)
class TaskConfig:
    """Task, lengths of training and lengths of the test."""

    name: TaskName = field(default="induction_heads", metadata={"help": "task to learn"})
    length: int = field(default=256, metadata={"help": "length of a training sequence (symbols)"})
    warmup_lengths: list[int] = field(
        default_factory=list, metadata={"help": "shorter lengths to start with, one stage each (symbols)"}
    )
    warmup_steps: list[int] = field(
        default_factory=list, metadata={"help": "steps at each of warmup_lengths, part of train.steps"}
    )
    test_lengths: list[int] = field(
        default_factory=lambda: [64, 256, 1024],
        metadata={"help": "lengths of the accuracy measurement (symbols)"},
    )
    test_sequences: int = field(
        default=256, metadata={"help": "sequences per length, the same for every model"}
    )


@dataclass(frozen=True)
class Settings:
    """Settings of one run, stored in its config.yaml."""

    task: TaskConfig = field(default_factory=TaskConfig)
    model: SequenceModelConfig = field(
        default_factory=lambda: SequenceModelConfig(vocab_size=VOCABULARY_SIZE, d_model=64, n_layer=2)
    )
    train: TrainingConfig = field(default_factory=TrainingConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/synthetic"))


@dataclass(frozen=True)
class Config(Settings):
    """Settings of a comparison."""

    mixers: list[Mixer] = field(default_factory=lambda: list(MIXERS), metadata={"help": "models to compare"})
    publish: str | None = field(
        default=None,
        metadata={
            "help": ".json file of published results for the rows of this task; the picture is put next to it"
        },
    )


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "synthetic", __doc__ or "")
    folder = Path(config.run.dir)
    runs = {mixer: settings_of(config, mixer) for mixer in config.mixers}
    lengths = [stage.length for stage in stages_of(config)]
    for length in (*lengths, *config.task.test_lengths):
        SyntheticBatches(config.task.name, length, config.train.seed)  # raises before the training
    for settings in runs.values():
        require_same_settings(Path(settings.run.dir), settings)
    if config.publish is not None:
        read_published(Path(config.publish))
    rows: list[Row] = []
    world = single_process_world()
    for mixer, settings in runs.items():
        own_rows = accuracies(settings, world)
        rows += [{"task": config.task.name, "mixer": mixer, **row} for row in own_rows]
    draw(rows, config.task.length, folder / PICTURE)
    print(table(rows))
    print(f"{folder} holds the runs and {PICTURE}.")
    if config.publish is not None:
        folders = [Path(settings.run.dir) for settings in runs.values()]
        publish(Path(config.publish), arguments, config.train.seed, rows, folders)
        draw(rows, config.task.length, Path(config.publish).with_name(f"{config.task.name}.png"))


def settings_of(config: Config, mixer: Mixer) -> Settings:
    """Return the settings of the run of one mixer, in its own folder."""
    model = replace(config.model, selective=MIXERS[mixer])
    return Settings(config.task, model, config.train, RunConfig(str(Path(config.run.dir) / mixer)))


def accuracies(settings: Settings, world: World) -> list[Row]:
    """Return one row per test length; train the model first unless its run is finished."""
    folder = Path(settings.run.dir)
    if (folder / ACCURACY).exists():
        return cast(list[Row], json.loads((folder / ACCURACY).read_text(encoding="utf-8")))
    model = trained_model(settings, world)
    rows = []
    for length in tqdm(settings.task.test_lengths, desc="test lengths", mininterval=10.0):
        batches = SyntheticBatches(settings.task.name, length, HELD_OUT_SEED)
        with autocast(settings.train, world.device):
            metrics = evaluate(model, batches, settings.task.test_sequences, world.device)
        rows.append({"length": length, "accuracy": metrics["accuracy"]})
    write_json(folder / ACCURACY, rows)
    return rows


def trained_model(settings: Settings, world: World) -> SequenceModel:
    """Return the model after its last step; start, resume or only load its run."""
    folder, task = Path(settings.run.dir), settings.task
    torch.manual_seed(settings.train.seed)
    model = SequenceModel(settings.model).to(world.device)
    state = run_state(folder)
    if state == "finished":
        load_weights(latest_checkpoint(folder), model)
        return model.eval()
    held_out = SyntheticBatches(task.name, task.length, HELD_OUT_SEED)

    def validate(model: nn.Module) -> dict[str, float]:
        return evaluate(cast(SequenceModel, model), held_out, task.test_sequences, world.device)

    stages = stages_of(settings)
    by_length = {s.length: SyntheticBatches(task.name, s.length, settings.train.seed) for s in stages}
    run = RunFolder(folder, asdict(settings), resume=state == "started")
    train(model, StagedBatches(stages, by_length), settings.train, run, world, "token", validate, stages)
    return model.eval()


def stages_of(settings: Settings) -> list[Stage]:
    """Return the stages of training; raise ValueError if lengths repeat or do not match their steps."""
    task, steps = settings.task, settings.train.steps
    lengths = [*task.warmup_lengths, task.length]
    counts = [*task.warmup_steps, steps - sum(task.warmup_steps)]
    if len(lengths) != len(counts) or min(counts) < 1 or len(set(lengths)) < len(lengths):
        raise ValueError(
            f"task.warmup_lengths {task.warmup_lengths} and task.warmup_steps {task.warmup_steps} must be "
            f"equally many, the steps fewer than train.steps, {steps:,}, and all lengths different."
        )
    ends = list(accumulate(counts))
    return [
        Stage(length, settings.train.batch_size, end - count, count)
        for length, count, end in zip(lengths, counts, ends, strict=True)
    ]


def table(rows: Sequence[Row]) -> str:
    """Format the accuracy by length, one column per mixer."""
    mixers = list(dict.fromkeys(row["mixer"] for row in rows))
    accuracy = {(row["length"], row["mixer"]): row["accuracy"] for row in rows}
    lines = ["".join([f"{'length':>10}", *(f"{mixer:>10}" for mixer in mixers)])]
    for length in dict.fromkeys(row["length"] for row in rows):
        cells = [f"{100 * accuracy[length, mixer]:>9.1f}%" for mixer in mixers]
        lines.append("".join([f"{length:>10,}", *cells]))
    return "\n".join(lines)


def draw(rows: Sequence[Row], trained_length: int, picture: Path) -> None:
    """Plot accuracy against length, one line per mixer; a dashed line marks the training length."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="sequence length", ylabel="accuracy (%)", ylim=(0, 105))
    axes.set_xscale("log", base=2)
    for mixer in dict.fromkeys(row["mixer"] for row in rows):
        own = [row for row in rows if row["mixer"] == mixer]
        accuracy = [100 * row["accuracy"] for row in own]
        axes.plot([row["length"] for row in own], accuracy, marker="o", label=mixer)
    axes.axvline(trained_length, color="grey", linewidth=0.8, linestyle="dashed", label="training length")
    axes.legend()
    save_figure(figure, picture)


def publish(
    path: Path, arguments: Sequence[str], seed: int, rows: Sequence[Row], runs: Sequence[Path]
) -> None:
    """Replace the rows of a task in the published results.

    Hardware, commit and date come from the summaries of the folders `runs`, which may be from another
    machine. The key `tasks` stores them for each task; the head of the table lists all of them.
    """
    before = read_published(path)
    summaries = [json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in runs]
    last = max(summaries, key=lambda summary: summary["date"])
    own = {
        "command": " ".join(["python -m pipelines.synthetic", *arguments]),
        "hardware": "; ".join(dict.fromkeys(summary["hardware"] for summary in summaries)),
        "seed": seed,
        "commit": last["commit"] or "unknown",
        "date": last["date"][:10],
    }
    task = rows[0]["task"]
    tasks = before.get("tasks", {}) | {task: own}
    others = [row for row in before["rows"] if row["task"] != task and row["task"] in tasks]
    heads = {key: [str(facts.get(key, "unknown")) for facts in tasks.values()] for key in own}
    results = {
        **{key: "; ".join(dict.fromkeys(values)) for key, values in heads.items()},
        "tasks": tasks,
        "rows": [*others, *rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, results)


if __name__ == "__main__":
    sys.exit(main())
