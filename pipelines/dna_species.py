"""Published runs of species classification: three sets of species, each at several window lengths.

    python -m pipelines.dna_species folder=genomes
    python -m pipelines.dna_species folder=genomes classify=[train.steps=800,head.dropout=0.3] dir=runs/again

For each set a Mamba is pretrained on the training sequences (species_pretrain.yaml), fine-tuned
(species_classify.yaml) and tested at each length. Logistic regressions on k-mers and on the frozen backbone
are fitted and tested at the same lengths. Several runs share the GPU as processes. Each run has a folder and
a log in `dir`; resume=true continues an interrupted command. The results are a table, a plot in `dir`, and a
file under results/.
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
from tabulate import tabulate
from tqdm import tqdm

from bio.species.evaluation import BASELINE, OURS, PROBE, RESULT
from bio.species.plots import draw_accuracy_by_length
from bio.species.segments import open_species
from bio.species.species_set import read_species
from core.training import single_process_world
from kernels.provenance import write_results
from pipelines.common.cli import command
from pipelines.common.config import parse_config


class Task(NamedTuple):
    """Pretraining set and window length (bases) of fine-tuning for one set of species.

    Short windows teach the repeats of a species. In long windows the GC content alone separates the species
    of one region, which does not transfer to another region. Close relatives need long windows.
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
    folder: str = field(default=MISSING, metadata={"help": "folder with the files of the sets"})
    tasks: list[str] = field(
        default_factory=lambda: list(TASKS), metadata={"help": "sets of species to classify"}
    )
    lengths: list[int] = field(
        default_factory=lambda: [1 << 10, 1 << 13, 1 << 15],
        metadata={"help": "window lengths of the test (bases)"},
    )
    pretrain: list[str] = field(
        default_factory=list,
        metadata={"help": "key=value options for each pretraining, on top of species_pretrain.yaml"},
    )
    classify: list[str] = field(
        default_factory=list,
        metadata={"help": "key=value options for each fine-tuning, on top of species_classify.yaml"},
    )
    seed: int = field(default=0, metadata={"help": "seed of all runs"})
    processes: int = field(default=3, metadata={"help": "number of concurrent runs"})
    dir: str = field(default="runs/species", metadata={"help": "folder of the runs and their logs"})
    results: str = field(default="results/species.json", metadata={"help": "results file to write"})
    resume: bool = field(default=False, metadata={"help": "continue the runs in dir; finished runs are kept"})

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
    """One run: a module of pipelines, its arguments, its folder, and the file that it writes last."""

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
        raise ValueError(
            f"{folder} already holds runs: continue them with resume=true, or choose another dir."
        )
    pretrained_on = {task: TASKS[task].pretrained_on for task in config.tasks}
    for name in dict.fromkeys([*config.tasks, *pretrained_on.values()]):
        open_species(read_species(name), config.folder)  # pack once, and refuse bad data before any run
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
    """Run the unfinished jobs, `processes` at a time. Raises ValueError if one fails."""
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
    """Run one job as a process; its output goes to a log next to its folder."""
    resume = ["resume=true"] if (job.folder / "config.yaml").is_file() else []
    log = job.folder.with_name(f"{job.folder.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // processes)
    with log.open("w", encoding="utf-8") as file:
        status = start([sys.executable, "-m", job.module, *job.arguments, *resume], file, threads)
    if status:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise ValueError(f"The run {job.folder} failed ({''.join(last)}); its output is in {log}.")


def start(command: Sequence[str], output: TextIO, threads: int) -> int:
    """Run a command and return its exit status."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment).returncode


def rows_of(task: str, folder: Path, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Return the result rows of a run's evaluation, one per length."""
    result = json.loads((folder / RESULT).read_text())
    by_length = {at_length["length"]: at_length for at_length in result["lengths"]}
    chance = 1 / len(result["classes"])
    return [
        {"task": task, "length": length, "chance": chance, **columns(by_length[length])} for length in lengths
    ]


def columns(at_length: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a result row."""
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
    """Draw accuracy against length, two lines per task."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(row["task"], []).append(row)
        baseline = {"length": row["length"], "accuracy": row["baseline"]}
        interval = {"low": row["baseline_low"], "high": row["baseline_high"]}
        lines.setdefault(f"{row['task']}, {BASELINE}", []).append(baseline | interval)
    draw_accuracy_by_length(lines, [row["chance"] for row in rows], picture)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results as a text table."""
    lines = [
        [
            row["task"],
            f"{row['length']:,}",
            f"{row['windows']:,}",
            f"{row['accuracy']:.4f} ({row['low']:.4f} to {row['high']:.4f})",
            f"{row['baseline']:.4f} ({row['baseline_low']:.4f} to {row['baseline_high']:.4f})",
            f"{row['gain']:+.4f} ({row['gain_low']:+.4f} to {row['gain_high']:+.4f})",
        ]
        for row in rows
    ]
    header = ["task", "length", "windows", OURS, BASELINE, "gain"]
    align = ("left", "right", "right", "left", "left", "left")
    return tabulate(lines, header, tablefmt="plain", disable_numparse=True, colalign=align)


if __name__ == "__main__":
    sys.exit(main())
