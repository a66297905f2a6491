"""Train Mamba and earlier models of raw audio for equal times on the same clips, and compare held-out bits.

    python -m pipelines.audio_compare data.folder=data/fsdd
    python -m pipelines.audio_compare data.folder=data/fsdd seconds=60 seeds=[0,1] publish=results/audio.json

Models of about 1.8 million parameters train one after the other, so that each has the machine to itself. The
lines of the paper's ablation follow, with less time. A speed probe determines the number of steps of each
run, so that its learning rate schedule completes. The keys of data and train apply to every run, except
train.steps and the learning rate. The same command continues an interrupted comparison. audio.json has one
row per run, with the bits per sample over all test clips, each in one window.
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

from audio.data.config import AudioDataConfig, open_audio_data
from audio.data.windows import clip_windows
from audio.evaluation.likelihood import likelihood
from audio.evaluation.plots import draw_bits
from audio.models import AudioModelConfig, mamba_unet, trained_model
from core.models.multiscale import MixerConfig, MultiscaleModelConfig
from core.models.samplernn import SampleRnnConfig
from core.models.wavenet import WaveNetConfig
from core.settings import setting_differences
from core.storage.atomic import replaced_atomically, write_json
from core.training import TrainingConfig, World, single_process_world
from core.training.metrics import read_metrics
from kernels.provenance import write_results
from pipelines import audio_pretrain
from pipelines.common.cli import command
from pipelines.common.config import ConfigError, RunConfig, merge, parse_config, read_yaml
from pipelines.common.publication import check_publish, read_published

PROBE_STEPS, PROBE_SHARE = 24, 0.2
"""Steps of the first speed probe of a model, and the share of its training time for the second."""
SETTINGS, ROW, TABLE, PICTURE = "settings.json", "row.json", "audio.json", "bits_by_model.png"

Row = dict[str, Any]

S4D_STATES = 64
"""States per channel of S4D, as in SaShiMi; a Mamba block has 16 for each of twice as many channels."""


@dataclass(frozen=True)
class Config:
    data: AudioDataConfig = field(
        default_factory=lambda: AudioDataConfig(
            source="fsdd", folder="data/fsdd", length=12_000, validation_windows=64
        )
    )
    train: TrainingConfig = field(default_factory=lambda: TrainingConfig(batch_size=16, clip=0.1))
    seconds: float = field(default=60.0, metadata={"help": "training time of each model (seconds)"})
    ablation_seconds: float = field(
        default=20.0,
        metadata={"help": "training time of each line of the ablation (seconds); 0: no ablation"},
    )
    seeds: list[int] = field(
        default_factory=lambda: [0], metadata={"help": "random seeds; each model trains once per seed"}
    )
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/audio_compare"))
    publish: str | None = field(default=None, metadata={"help": "additional .json file for the table"})

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.ablation_seconds < 0 or not self.seeds:
            raise ValueError(
                "seconds must be above 0, ablation_seconds at least 0, and seeds must not be empty."
            )
        check_publish(self.publish)


@dataclass(frozen=True)
class Contender:
    """Model of the comparison, its name in the table, and the peak learning rate of its paper."""

    name: str
    model: AudioModelConfig
    learning_rate: float


@dataclass(frozen=True)
class Run:
    """Training of one model with one seed for `seconds`; `table` is models or ablation."""

    table: str
    contender: Contender
    seed: int
    seconds: float

    @property
    def name(self) -> str:
        """Name of the run folder: letters, digits and single dashes."""
        words = "".join(letter if letter.isalnum() else " " for letter in self.contender.name).split()
        return "-".join([self.table, *words, str(self.seed)]).lower()


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_compare", __doc__ or "")
    runs, folder = planned_runs(config), Path(config.run.dir)
    if config.publish is not None:
        read_published(Path(config.publish))  # raises before training
    world = single_process_world()
    record_settings(config, folder, world)
    for run in runs:
        if not (folder / run.name / ROW).exists():
            complete_run(config, run, world)
        rows = [json.loads(path.read_text()) for run in runs if (path := folder / run.name / ROW).exists()]
        write_table(rows, folder, arguments, config, world)
    print(results_text(rows))
    print(f"The runs, {TABLE} and {PICTURE} are in {folder}.")


def planned_runs(config: Config) -> list[Run]:
    """Return the models with every seed, then the lines of the ablation with the first seed."""
    models = [
        Run("models", contender, seed, config.seconds) for contender in contenders() for seed in config.seeds
    ]
    if not config.ablation_seconds:
        return models
    return models + [
        Run("ablation", contender, config.seeds[0], config.ablation_seconds) for contender in ablation()
    ]


def contenders() -> list[Contender]:
    """Return Mamba and earlier models, with about 1.8 million parameters each."""
    s4d_mlp = MixerConfig("s4d_mlp")
    wavenet = WaveNetConfig(d_model=64, d_skip=320, n_stack=4, n_layer=10)
    samplernn = SampleRnnConfig(d_model=88, width=8, pools=[8, 4])
    return [
        mamba_contender(),
        Contender("sashimi: S4D + MLP U-Net", unet(s4d_mlp, s4d_mlp, S4D_STATES), 2e-3),
        Contender("wavenet", AudioModelConfig("wavenet", wavenet=wavenet), 1e-3),
        Contender("samplernn", AudioModelConfig("samplernn", samplernn=samplernn), 1e-3),
    ]


def mamba_contender() -> Contender:
    """Return the Mamba model of both tables."""
    config = mamba_unet()
    return Contender("mamba U-Net", unet(config.outer, config.centre), 2e-3)


def ablation() -> list[Contender]:
    """Return the lines of figure 10 of Gu and Dao 2023, each with one kind of mixer in the whole U-Net.

    The last line is the Mamba model of `contenders`: S4D at the sample rate, S6 on the slowest clock.
    """
    s6 = MixerConfig()
    mixers = {
        "S6": s6,
        "+ complex": replace(s6, complex=True),
        "- selective B, C": MixerConfig(complex=True, selective=["dt"]),
        "- selective dt": MixerConfig(complex=True, selective=False),
        "S4D + MLP": MixerConfig("s4d_mlp"),
    }
    mamba = mamba_contender()
    lines = []
    for name, mixer in mixers.items():
        d_state = S4D_STATES if mixer.block == "s4d_mlp" else 16
        lines.append(Contender(name, unet(mixer, mixer, d_state), mamba.learning_rate))
    return [*lines, replace(mamba, name="S4D around S6")]


def unet(outer: MixerConfig, centre: MixerConfig, d_state: int = 16) -> AudioModelConfig:
    """Return a U-Net with two blocks per stage on clocks of 16, 4 and 1 kHz; `centre` is on the slowest."""
    shape = MultiscaleModelConfig(
        d_model=64, n_layer=2, pools=[4, 4], d_state=d_state, outer=outer, middle=outer, centre=centre
    )
    return AudioModelConfig("unet", unet=shape)


def record_settings(config: Config, folder: Path, world: World) -> None:
    """Write the settings of the comparison into its folder. Raises ConfigError if it has other settings."""
    open_audio_data(config.data, world)  # raises before the folder is created
    path, now = folder / SETTINGS, asdict(replace(config, publish=None))
    before = json.loads(path.read_text()) if path.exists() else now
    if differences := setting_differences(before, now):
        raise ConfigError(
            f"The comparison in {folder} has other settings: {'; '.join(differences)}. Restore these values, "
            "or choose another run.dir."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, now)


def complete_run(config: Config, run: Run, world: World) -> None:
    """Train a run, or continue it, and write its row."""
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    folder = Path(config.run.dir) / run.name
    config_file = folder / "train" / "config.yaml"
    is_started = config_file.exists()
    print(f"{run.name}: {'continues' if is_started else f'{run.seconds:g} s'}", flush=True)
    if is_started:
        settings = merge(audio_pretrain.Config, read_yaml(str(config_file)))
    else:
        settings = training_config(config, run, folder / "train")
        steps = fitting_steps(settings, run.seconds, folder / "probe")
        settings = replace(settings, train=replace(settings.train, steps=steps, validate_every=steps))
    audio_pretrain.pretrain(replace(settings, resume=is_started))
    write_json(folder / ROW, row(run, folder / "train", settings, world))


def training_config(config: Config, run: Run, folder: Path) -> audio_pretrain.Config:
    """Return the configuration of audio_pretrain for a run, with the default number of steps."""
    rate = run.contender.learning_rate
    lowest = min(config.train.minimum_learning_rate, rate)
    train = replace(config.train, seed=run.seed, learning_rate=rate, minimum_learning_rate=lowest)
    return audio_pretrain.Config(config.data, run.contender.model, train, RunConfig(str(folder)))


def fitting_steps(settings: audio_pretrain.Config, seconds: float, folder: Path) -> int:
    """Return the number of steps of a run that fit into `seconds`, measured by two probes in `folder`.

    The first probe determines the steps of the second, which lasts PROBE_SHARE of the time. The start of a
    run is slower, because kernels compile and windows of new lengths need memory.
    """
    steps = PROBE_STEPS
    for share in (PROBE_SHARE, 1.0):
        steps = max(PROBE_STEPS, round(share * seconds * steps_per_second(settings, steps, folder)))
    return steps


def steps_per_second(settings: audio_pretrain.Config, steps: int, folder: Path) -> float:
    """Return the speed in the second half of a run with `steps` steps."""
    shutil.rmtree(folder, ignore_errors=True)
    train = replace(settings.train, steps=steps, log_every=-(-steps // 2), validate_every=steps, keep=1)
    data = replace(settings.data, validation_windows=1)
    progress = audio_pretrain.pretrain(replace(settings, data=data, train=train, run=RunConfig(str(folder))))
    assert progress is not None
    last = [event for event in read_metrics(folder / "metrics.jsonl") if event["event"] == "train"][-1]
    return last["tokens_per_second"] * progress.step / progress.tokens


def row(run: Run, folder: Path, settings: audio_pretrain.Config, world: World) -> Row:
    """Return the table row of a complete run; audio_evaluate fills in fid, is, mis and am."""
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
    """Write the rows so far as table and plot into the folder, and into the published table if configured."""
    command_line = shlex.join(["python", "-m", "pipelines.audio_compare", *arguments])
    for path in [folder / TABLE, *([Path(config.publish)] if config.publish else [])]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_atomically(path) as temporary:
            write_results(temporary, command_line, world.device, config.seeds[0], with_metrics(rows, path))
    draw_bits(rows, folder / PICTURE)


def with_metrics(rows: Sequence[Row], path: Path) -> list[Row]:
    """Return the rows with the metrics that audio_evaluate wrote into the same rows of a table."""
    known = {(row.get("run"), row.get("nll_bits")): row for row in read_published(path)["rows"]}
    complete = []
    for row in rows:
        measured = known.get((row["run"], row["nll_bits"]), {})
        complete.append({**row, **{key: value for key, value in measured.items() if row.get(key) is None}})
    return complete


def results_text(rows: Sequence[Row]) -> str:
    """Return the rows as text, with an asterisk at the fewest bits of each table."""
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
