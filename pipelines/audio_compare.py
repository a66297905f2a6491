"""Train Mamba and earlier models of raw audio for equal time on the same clips, and compare held-out bits.

    python -m pipelines.audio_compare data.folder=data/fsdd
    python -m pipelines.audio_compare data.folder=data/fsdd seconds=60 seeds=[0,1] publish=results/audio.json

Models of about as many parameters train one after the other, so that each has the machine to itself; then
the lines of the paper's ablation, more briefly. How many steps fit into the time is measured beforehand, so
that each run's learning rate comes down to its end. Keys of data and train hold for every run, but for
train.steps and the learning rate, which are a model's own. The same command goes on where it stopped. Beside
the runs lies audio.json, a row a run, with the bits per sample over all test clips, each read as a whole.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from audio.data.windows import clip_windows
from audio.evaluation.likelihood import likelihood
from audio.evaluation.plots import draw_bits
from core.settings import setting_differences
from core.storage.atomic import replaced_atomically, write_json
from core.training import TrainingConfig, World, single_process_world
from core.training.metrics import read_metrics
from kernels.provenance import write_results
from pipelines import audio_pretrain
from pipelines.common.audio_contenders import Contender, ablation, contenders
from pipelines.common.audio_data import AudioDataConfig, open_audio_data, trained_model
from pipelines.common.cli import command
from pipelines.common.config import ConfigError, RunConfig, merge, parse_config, read_yaml
from pipelines.common.publication import check_publish, read_published

PROBE_STEPS, PROBE_SHARE = 24, 0.2
"""Steps of the first probe of a model's speed, and the share of the model's time that the second lasts."""
SETTINGS, ROW, TABLE, PICTURE = "settings.json", "row.json", "audio.json", "bits_by_model.png"

Row = dict[str, Any]


@dataclass(frozen=True)
class Config:
    data: AudioDataConfig = field(
        default_factory=lambda: AudioDataConfig(
            source="fsdd", folder="data/fsdd", length=12_000, validation_windows=64
        )
    )
    train: TrainingConfig = field(default_factory=lambda: TrainingConfig(batch_size=16, clip=0.1))
    seconds: float = field(default=60.0, metadata={"help": "of training for each model"})
    ablation_seconds: float = field(
        default=20.0, metadata={"help": "of training for each line of the ablation; 0: leave it out"}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0], metadata={"help": "each model is trained once for each"}
    )
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/audio_compare"))
    publish: str | None = field(default=None, metadata={"help": "a .json to write the table to as well"})

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.ablation_seconds < 0 or not self.seeds:
            raise ValueError("seconds must be above 0, ablation_seconds at least 0, and seeds hold a number.")
        check_publish(self.publish)


@dataclass(frozen=True)
class Run:
    """One model with one seed: which table it belongs to, and how long it trains."""

    table: str
    contender: Contender
    seed: int
    seconds: float

    @property
    def name(self) -> str:
        """Of its folder: letters, digits and single dashes."""
        words = "".join(letter if letter.isalnum() else " " for letter in self.contender.name).split()
        return "-".join([self.table, *words, str(self.seed)]).lower()


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_compare", __doc__ or "")
    runs, folder = planned(config), Path(config.run.dir)
    if config.publish is not None:
        read_published(Path(config.publish))  # raises before anything is trained
    world = single_process_world()
    settle(config, folder, world)
    for run in runs:
        if not (folder / run.name / ROW).exists():
            finish(config, run, world)
        rows = [json.loads(path.read_text()) for run in runs if (path := folder / run.name / ROW).exists()]
        write_table(rows, folder, arguments, config, world)
    print(results_text(rows))
    print(f"{folder} holds the runs, {TABLE} and {PICTURE}.")


def planned(config: Config) -> list[Run]:
    """The models with every seed, then the lines of the ablation with the first."""
    models = [Run("models", one, seed, config.seconds) for one in contenders() for seed in config.seeds]
    if not config.ablation_seconds:
        return models
    return models + [Run("ablation", one, config.seeds[0], config.ablation_seconds) for one in ablation()]


def settle(config: Config, folder: Path, world: World) -> None:
    """Keep the settings of the comparison in its folder; ConfigError where it was begun with others."""
    open_audio_data(config.data, world)  # raises before there is a folder
    path, now = folder / SETTINGS, asdict(replace(config, publish=None))
    before = json.loads(path.read_text()) if path.exists() else now
    if differences := setting_differences(before, now):
        raise ConfigError(
            f"The comparison in {folder} has other settings: {'; '.join(differences)}. Restore these values, "
            "or choose another run.dir."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, now)


def finish(config: Config, run: Run, world: World) -> None:
    """Train a run, or go on with it, and write its row."""
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    folder = Path(config.run.dir) / run.name
    started = folder / "train" / "config.yaml"
    print(f"{run.name}: {'going on' if started.exists() else f'{run.seconds:g} s'}", flush=True)
    if started.exists():
        settings = merge(audio_pretrain.Config, read_yaml(str(started)))
    else:
        settings = settings_of(config, run, folder / "train")
        steps = fitting_steps(settings, run.seconds, folder / "probe")
        settings = replace(settings, train=replace(settings.train, steps=steps, validate_every=steps))
    audio_pretrain.pretrain(replace(settings, resume=started.exists()))
    write_json(folder / ROW, row(run, folder / "train", settings, world))


def settings_of(config: Config, run: Run, folder: Path) -> audio_pretrain.Config:
    """What audio_pretrain is to do for a run, but for the number of steps."""
    rate = run.contender.learning_rate
    lowest = min(config.train.minimum_learning_rate, rate)
    train = replace(config.train, seed=run.seed, learning_rate=rate, minimum_learning_rate=lowest)
    return audio_pretrain.Config(config.data, run.contender.model, train, RunConfig(str(folder)))


def fitting_steps(settings: audio_pretrain.Config, seconds: float, folder: Path) -> int:
    """How many steps a run takes in this time, by two short runs of its own in `folder`.

    The first says how many steps the second needs to last PROBE_SHARE of the time: a run is slower at its
    beginning, when kernels are compiled and memory is found for windows of each new length.
    """
    steps = PROBE_STEPS
    for share in (PROBE_SHARE, 1.0):
        steps = max(PROBE_STEPS, round(share * seconds * steps_per_second(settings, steps, folder)))
    return steps


def steps_per_second(settings: audio_pretrain.Config, steps: int, folder: Path) -> float:
    """Of the second half of a run of so many steps."""
    shutil.rmtree(folder, ignore_errors=True)
    train = replace(settings.train, steps=steps, log_every=-(-steps // 2), validate_every=steps, keep=1)
    data = replace(settings.data, validation_windows=1)
    progress = audio_pretrain.pretrain(replace(settings, data=data, train=train, run=RunConfig(str(folder))))
    assert progress is not None
    last = [event for event in read_metrics(folder / "metrics.jsonl") if event["event"] == "train"][-1]
    return last["tokens_per_second"] * progress.step / progress.tokens


def row(run: Run, folder: Path, settings: audio_pretrain.Config, world: World) -> Row:
    """A finished run's line of the table; fid, is, mis and am are for audio_evaluate to find."""
    summary = json.loads((folder / "summary.json").read_text())
    packed = open_audio_data(settings.data, world).packed
    longest = max(clip.length for clip in packed.clips)
    model = trained_model(folder, world.device).model
    measured = likelihood(model, packed, clip_windows(packed, "test", longest), world)
    return {
        "table": run.table,
        "data": packed.name,
        "quantizer": packed.quantizer,
        "model": run.contender.name if run.table == "models" else f"{run.table}: {run.contender.name}",
        "parameters": summary["parameters"],
        "nll_bits": measured.bits,
        "test_samples": sum(measured.samples),
        "fid": None,
        "is": None,
        "mis": None,
        "am": None,
        "seed": run.seed,
        "learning_rate": run.contender.learning_rate,
        "training_seconds": summary["training_seconds"],
        "steps": summary["steps"],
        "samples_per_s": summary["samples_per_second"],
        "peak_gib": summary["peak_memory_gib"],
        "run": str(folder),
    }


def write_table(
    rows: Sequence[Row], folder: Path, arguments: Sequence[str], config: Config, world: World
) -> None:
    """Write what is there so far beside the runs, as a table and a picture, and where it is published."""
    command_line = shlex.join(["python", "-m", "pipelines.audio_compare", *arguments])
    for path in [folder / TABLE, *([Path(config.publish)] if config.publish else [])]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_atomically(path) as temporary:
            write_results(temporary, command_line, world.device, config.seeds[0], with_metrics(rows, path))
    draw_bits(rows, folder / PICTURE)


def with_metrics(rows: Sequence[Row], path: Path) -> list[Row]:
    """The rows, with what audio_evaluate has meanwhile filled into those of the same models in a table."""
    known = {(row.get("run"), row.get("nll_bits")): row for row in read_published(path)["rows"]}
    found = []
    for row in rows:
        measured = known.get((row["run"], row["nll_bits"]), {})
        found.append({**row, **{key: value for key, value in measured.items() if row.get(key) is None}})
    return found


def results_text(rows: Sequence[Row]) -> str:
    """The rows to read on a screen, an asterisk at the fewest bits of each table."""
    best = {
        table: min(r["nll_bits"] for r in rows if r["table"] == table) for table in {r["table"] for r in rows}
    }
    lines = [f"{'model':<27} {'seed':>4} {'parameters':>11} {'steps':>7} {'s':>6} {'bits/sample':>11}"]
    lines += [
        f"{r['table']:<9} {r['model']:<26} {r['seed']:>4} {r['parameters']:>11,} {r['steps']:>7,} "
        f"{r['training_seconds']:>6.1f} {r['nll_bits']:>11.4f}{' *' * (r['nll_bits'] == best[r['table']])}"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
