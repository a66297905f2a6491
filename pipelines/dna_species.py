"""The published runs of species classification: three sets of species, each at several lengths of windows.

    python -m pipelines.dna_species folder=genomes
    python -m pipelines.dna_species folder=genomes classify=[train.steps=800,head.dropout=0.3] dir=runs/again

For every set a Mamba is pretrained on training sequences (species_pretrain.yaml), then fine-tuned
(species_classify.yaml) and tested at each length beside logistic regressions on k-mers and on the frozen
backbone, which are fitted at that length. Several of these runs share the GPU as processes. Each has a folder
and a log in `dir`; an interrupted command continues with resume=true. The results are a table, a picture in
`dir`, and a file under results/.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from omegaconf import MISSING
from tqdm import tqdm

from bio.species.segments import open_species
from bio.species.species_set import read_species
from core.training import single_process_world
from kernels.provenance import write_results
from pipelines.common.cli import command
from pipelines.common.config import parse_config
from pipelines.common.dna_answers import BASELINE, OURS, PROBE
from pipelines.common.dna_classify_evaluation import RESULT
from pipelines.common.species_pictures import draw_accuracy_by_length


class Task(NamedTuple):
    """How a set of species is learnt: the set to pretrain on, and the bases in a window of fine-tuning.

    Short windows teach the repeats of a species, for in long ones the share of G and C alone tells species of
    one region apart, and not those of another. Close relatives differ so little that only long ones tell.
    """

    pretrained_on: str
    length: int


TASKS = {
    "encode_mammals": Task("encode_pretraining", 1 << 10),
    "encode_primates": Task("encode_pretraining", 1 << 12),
    "chr22_apes": Task("chr22_apes", 1 << 13),
}
STEP_BASES = 1 << 17


@dataclass(frozen=True)
class Config:
    folder: str = field(default=MISSING, metadata={"help": "the folder that the sets' files are in"})
    tasks: list[str] = field(
        default_factory=lambda: list(TASKS), metadata={"help": "sets of species to tell apart"}
    )
    lengths: list[int] = field(
        default_factory=lambda: [1 << 10, 1 << 13, 1 << 15],
        metadata={"help": "bases in the windows of the test"},
    )
    pretrain: list[str] = field(
        default_factory=list, metadata={"help": "key=value of every pretraining, over species_pretrain.yaml"}
    )
    classify: list[str] = field(
        default_factory=list, metadata={"help": "key=value of every fine-tuning, over species_classify.yaml"}
    )
    seed: int = field(default=0, metadata={"help": "of all runs"})
    processes: int = field(default=3, metadata={"help": "runs at a time"})
    dir: str = field(default="runs/species", metadata={"help": "the folder of all runs and their logs"})
    results: str = field(default="results/species.json", metadata={"help": "the file of results to write"})
    resume: bool = field(
        default=False, metadata={"help": "go on with the runs in dir; finished ones are kept"}
    )

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise ValueError(f"tasks is {self.tasks}; it must name some of {', '.join(TASKS)}.")
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"lengths is {self.lengths}; it must hold numbers of at least 1.")
        if self.processes < 1:
            raise ValueError(f"processes is {self.processes}; it must be at least 1.")


@dataclass(frozen=True)
class Job:
    """One run: a module of pipelines with its arguments, its folder, and the file that it writes last."""

    module: str
    arguments: list[str]
    folder: Path
    last: str


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_species", __doc__ or "")
    world = single_process_world()
    folder = Path(config.dir)
    if folder.exists() and any(folder.iterdir()) and not config.resume:
        raise ValueError(f"{folder} holds runs already: go on with resume=true, or choose another dir.")
    pretrained_on = {task: TASKS[task].pretrained_on for task in config.tasks}
    for name in dict.fromkeys([*config.tasks, *pretrained_on.values()]):
        open_species(read_species(name), config.folder)  # packed once, and bad data refused before any run
    pretrainings = {name: pretraining(config, name) for name in dict.fromkeys(pretrained_on.values())}
    run_all(list(pretrainings.values()), config.processes, "pretraining")
    jobs = {
        task: fine_tuning(config, task, pretrainings[name].folder) for task, name in pretrained_on.items()
    }
    run_all(list(jobs.values()), config.processes, "fine-tuning")
    rows = [row for task, job in jobs.items() for row in rows_of(task, job.folder, config.lengths)]
    line = " ".join(["python -m pipelines.dna_species", *arguments])
    write_results(Path(config.results), line, world.device, config.seed, rows)
    draw(rows, folder / "accuracy_by_length.png")
    print(f"{table(rows)}\n{config.results} holds the results, {folder} the runs.")


def pretraining(config: Config, name: str) -> Job:
    folder = Path(config.dir, f"pretrain_{name}")
    arguments = [
        "--config=species_pretrain",
        f"data.species={name}",
        f"data.folder={config.folder}",
        f"train.seed={config.seed}",
        f"run.dir={folder}",
        *config.pretrain,
    ]
    return Job("pipelines.dna_species_pretrain", arguments, folder, "summary.json")


def fine_tuning(config: Config, task: str, pretrained: Path) -> Job:
    folder, length = Path(config.dir, task), TASKS[task].length
    arguments = [
        "--config=species_classify",
        f"data.species={task}",
        f"data.folder={config.folder}",
        f"data.length={length}",
        f"train.batch_size={STEP_BASES // length}",
        f"checkpoint={pretrained}",
        f"train.seed={config.seed}",
        f"evaluation.lengths={config.lengths}".replace(" ", ""),
        f"run.dir={folder}",
        *config.classify,
    ]
    return Job("pipelines.dna_classify", arguments, folder, RESULT)


def run_all(jobs: Sequence[Job], processes: int, what: str) -> None:
    """Run the jobs that are not finished, `processes` at a time; ValueError where one fails."""
    waiting = [job for job in jobs if not (job.folder / job.last).is_file()]
    with (
        ThreadPoolExecutor(processes) as pool,
        tqdm(total=len(jobs), initial=len(jobs) - len(waiting), unit="run", desc=what) as bar,
    ):
        running = [pool.submit(run, job, processes) for job in waiting]
        try:
            for done in as_completed(running):
                done.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run(job: Job, processes: int) -> None:
    """One job in a process of its own; what it prints goes to a log beside its folder."""
    resume = ["resume=true"] if (job.folder / "config.yaml").is_file() else []
    log = job.folder.with_name(f"{job.folder.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // processes)
    with log.open("w", encoding="utf-8") as file:
        status = start([sys.executable, "-m", job.module, *job.arguments, *resume], file, threads)
    if status:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise ValueError(f"The run {job.folder} failed ({''.join(last)}); {log} has all that it printed.")


def start(command: Sequence[str], output: TextIO, threads: int) -> int:
    """Run a command to its end and return its status."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment).returncode


def rows_of(task: str, folder: Path, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """The lines of the results, one a length, from a run's evaluation."""
    result = json.loads((folder / RESULT).read_text())
    found = {at_length["length"]: at_length for at_length in result["lengths"]}
    chance = 1 / len(result["classes"])
    return [
        {"task": task, "length": length, "chance": chance, **columns(found[length])} for length in lengths
    ]


def columns(at_length: dict[str, Any]) -> dict[str, Any]:
    """What a line of the results says of one length."""
    models = {row["model"]: row for row in at_length["rows"]}
    ours, baseline, gain = models[OURS], models[BASELINE], at_length["gain"]
    return {
        "windows": at_length["windows"],
        **{key: ours[key] for key in ("accuracy", "low", "high", "macro_f1")},
        "baseline": baseline["accuracy"],
        "baseline_low": baseline["low"],
        "baseline_high": baseline["high"],
        "gain": gain["value"],
        "gain_low": gain["low"],
        "gain_high": gain["high"],
        "probe": models[PROBE]["accuracy"],
    }


def draw(rows: Sequence[dict[str, Any]], picture: Path) -> None:
    """Accuracy against length, two lines a task."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(row["task"], []).append(row)
        baseline = {"length": row["length"], "accuracy": row["baseline"]}
        interval = {"low": row["baseline_low"], "high": row["baseline_high"]}
        lines.setdefault(f"{row['task']}, {BASELINE}", []).append(baseline | interval)
    draw_accuracy_by_length(lines, [row["chance"] for row in rows], picture)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The results in words."""
    lines = [f"{'task':<16} {'length':>7} windows  {OURS:<27} {BASELINE:<27} gain"]
    for row in rows:
        lines.append(
            f"{row['task']:<16} {row['length']:>7,} {row['windows']:>7,}  "
            f"{row['accuracy']:.4f} ({row['low']:.4f} to {row['high']:.4f})   "
            f"{row['baseline']:.4f} ({row['baseline_low']:.4f} to {row['baseline_high']:.4f})   "
            f"{row['gain']:+.4f} ({row['gain_low']:+.4f} to {row['gain_high']:+.4f})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
