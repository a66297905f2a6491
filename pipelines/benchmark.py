"""Measure the speed of this machine, one table at a time.

    python -m pipelines.benchmark loader
    python -m pipelines.benchmark scan train --publish

Every benchmark checks its results first; a wrong result gets no speed. It prints a table and writes JSON
lines and a picture to the output folder. --publish also writes results/TABLE.json; `python -m
pipelines.tables --write` copies that table into the documents. mamba_ssm and causal_conv1d (GPU) and
mambapy (CPU) are measured too, if they are installed.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from matplotlib.figure import Figure

from core.plots import save_figure
from core.storage.atomic import replaced_atomically
from kernels.benchmarks import conv, norm, scan, scan_cpu
from kernels.provenance import commit, hardware, write_results
from pipelines.benchmarks import loader, sampling, training, training_cpu
from pipelines.common.cli import command
from pipelines.common.table_columns import TABLES, Row
from pipelines.tables import FOLDER, markdown_table


@dataclass(frozen=True)
class Benchmark:
    """Benchmark of one table.

    compared: keys of the numbers that the picture compares, by implementation.
    unit: unit of these numbers.
    """

    about: str
    needs_gpu: bool
    rows: Callable[[], list[Row]]
    compared: dict[str, str]
    unit: str


_MS = {"official": "official_forward_backward_ms", "ours": "ours_forward_backward_ms"}
_BOTH_MS = "forward + backward, ms"
_OFFICIAL = {"official": "official_tokens_per_s", "ours": "ours_tokens_per_s"}
_MAMBAPY_NS = {"mambapy": "mambapy_forward_backward_ns", "ours": "ours_forward_backward_ns"}
_MAMBAPY = {"mambapy": "mambapy_tokens_per_s", "ours": "ours_tokens_per_s"}
_PER_S = {"official": "official_per_s", "ours": "ours_per_s"}
_PEAKS = {"official": "official_peak_gib", "ours": "ours_peak_gib"}

BENCHMARKS = {
    "scan": Benchmark(
        "selective scan at training shapes",
        True,
        lambda: [scan.row(shape, target) for shape, target in scan.TARGETS.items()],
        _MS,
        _BOTH_MS,
    ),
    "conv": Benchmark("causal convolution", True, lambda: conv.rows("cuda"), _MS, _BOTH_MS),
    "norm": Benchmark("RMS norm with residual add", True, lambda: norm.rows("cuda"), _MS, _BOTH_MS),
    "train": Benchmark(
        "training steps of whole models", True, lambda: training.rows(training.CASES), _OFFICIAL, "tokens/s"
    ),
    "graph": Benchmark(
        "training steps, eager and as CUDA graphs",
        True,
        lambda: training.rows(training.GRAPH_CASES),
        _OFFICIAL,
        "tokens/s",
    ),
    "memory": Benchmark(
        "peak memory of training by batch size",
        True,
        lambda: training.rows(training.MEMORY_CASES),
        _PEAKS,
        "peak GiB",
    ),
    "sampling": Benchmark(
        "autoregressive sampling",
        True,
        lambda: [sampling.measure(case) for case in sampling.CASES],
        _PER_S,
        "tokens/s",
    ),
    "scan_cpu": Benchmark("selective scan on a CPU", False, scan_cpu.run, _MAMBAPY_NS, "ns per element"),
    "train_cpu": Benchmark(
        "forward pass and training step on a CPU", False, training_cpu.rows, _MAMBAPY, "tokens/s"
    ),
    "loader": Benchmark("genome batches on one core", False, loader.rows, {"ours": "mbase_per_s"}, "Mbase/s"),
}


@command
def main(arguments: Sequence[str]) -> None:
    options = parse_arguments(arguments)
    on_gpu = torch.cuda.is_available()
    for name in options.names:
        if BENCHMARKS[name].needs_gpu and not on_gpu:
            raise ValueError(f"The table {name} needs a GPU; this machine has none.")
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        benchmark = BENCHMARKS[name]
        try:
            rows = benchmark.rows()
        except ImportError as error:
            raise ValueError(
                f"The table {name} compares with {error.name}, which is not installed."
            ) from error
        device = torch.device("cuda" if benchmark.needs_gpu else "cpu")
        line = f"python -m pipelines.benchmark {name} --publish"
        print(markdown(name, rows, line, device), flush=True)
        with replaced_atomically(options.output / f"{name}.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        draw(name, rows, options.output / f"{name}.png")
        if options.publish:
            with replaced_atomically(FOLDER / f"{name}.json") as temporary:
                write_results(temporary, line, device, 0, rows)
    print(f"Wrote JSON lines and pictures to {options.output}.")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return names, output and publish."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.benchmark",
        description=__doc__,
        epilog="\n".join(
            ["tables:", *(f"  {name:<10} {benchmark.about}" for name, benchmark in BENCHMARKS.items())]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="+", metavar="TABLE", choices=list(BENCHMARKS), help="one of the tables below"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="output folder")
    parser.add_argument("--publish", action="store_true", help="also write results/TABLE.json")
    return parser.parse_args(arguments)


def markdown(name: str, rows: Sequence[Row], line: str, device: torch.device) -> str:
    """Return the table in Markdown."""
    facts = {"command": line, "commit": commit(), "hardware": hardware(device), "seed": 0}
    return markdown_table({**facts, "date": date.today().isoformat(), "rows": rows}, TABLES[name])


def draw(name: str, rows: Sequence[Row], picture: Path) -> None:
    """Draw a bar for each compared number of each row; the first columns of the table label the rows."""
    benchmark = BENCHMARKS[name]
    labels = [" ".join(cell(row) for _, cell in TABLES[name].columns[:2]) for row in rows]
    if len(benchmark.compared) == 1:
        labels = [TABLES[name].columns[0][1](row) for row in rows]
    figure = Figure(figsize=(8, 1.5 + 0.4 * len(rows)), layout="constrained")
    numbers = [row[key] for row in rows for key in benchmark.compared.values() if row.get(key)]
    scale = "log" if max(numbers) > 20 * min(numbers) else "linear"
    axes = figure.add_subplot(xlabel=benchmark.unit, title=benchmark.about, xscale=scale)
    height = 0.8 / len(benchmark.compared)
    for index, (who, key) in enumerate(benchmark.compared.items()):
        values = [(place + index * height, row[key]) for place, row in enumerate(rows) if row.get(key)]
        axes.barh([place for place, _ in values], [value for _, value in values], height, label=who)
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(rows))], labels, fontsize=8)
    axes.invert_yaxis()
    axes.legend()
    save_figure(figure, picture)


if __name__ == "__main__":
    sys.exit(main())
