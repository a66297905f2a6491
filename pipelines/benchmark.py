"""Measure this machine, a table at a time: what is wrong gets no speed.

    python -m pipelines.benchmark loader
    python -m pipelines.benchmark scan train --publish

Each table is checked for correctness first, printed, and written as JSON lines and a picture into the output
folder; --publish writes it into results/ as well, from where `python -m pipelines.tables --write` brings it
into the documents. Peers (mamba_ssm and causal_conv1d on a GPU, mambapy on a CPU) are measured beside ours
where they are importable.
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
from kernels.provenance import commit, hardware, write_results
from pipelines.common.cli import command
from pipelines.common.table_columns import TABLES, Row
from pipelines.tables import FOLDER, markdown_table


@dataclass(frozen=True)
class Benchmark:
    """How a table is measured, and which numbers of a row its picture compares, by whose they are."""

    about: str
    needs_gpu: bool
    rows: Callable[[], list[Row]]
    compared: dict[str, str]
    unit: str


def _scan() -> list[Row]:
    from kernels.benchmarks import scan

    return [scan.row(shape, target) for shape, target in scan.TARGETS.items()]


def _conv() -> list[Row]:
    from kernels.benchmarks import conv

    return conv.rows("cuda")


def _norm() -> list[Row]:
    from kernels.benchmarks import norm

    return norm.rows("cuda")


def _train() -> list[Row]:
    from pipelines.benchmarks import training as benchmark_gpu

    return benchmark_gpu.rows(benchmark_gpu.CASES)


def _graph() -> list[Row]:
    from pipelines.benchmarks import training as benchmark_gpu

    return benchmark_gpu.rows(benchmark_gpu.GRAPH_CASES)


def _memory() -> list[Row]:
    from pipelines.benchmarks import training as benchmark_gpu

    return benchmark_gpu.rows(benchmark_gpu.MEMORY_CASES)


def _sampling() -> list[Row]:
    from pipelines.benchmarks import sampling as benchmark_sampling

    return [benchmark_sampling.measured(case) for case in benchmark_sampling.CASES]


def _scan_cpu() -> list[Row]:
    from kernels.benchmarks import scan_cpu

    return scan_cpu.run()


def _train_cpu() -> list[Row]:
    from pipelines.benchmarks import training_cpu as benchmark

    return benchmark.rows()


def _loader() -> list[Row]:
    from pipelines.benchmarks import loader as benchmark

    return benchmark.rows()


_MS = {"official": "official_forward_backward_ms", "ours": "ours_forward_backward_ms"}
_BOTH_MS = "forward + backward, ms"
_OFFICIAL = {"official": "official_tokens_per_s", "ours": "ours_tokens_per_s"}
_MAMBAPY_NS = {"mambapy": "mambapy_forward_backward_ns", "ours": "ours_forward_backward_ns"}
_MAMBAPY = {"mambapy": "mambapy_tokens_per_s", "ours": "ours_tokens_per_s"}
_PER_S = {"official": "official_per_s", "ours": "ours_per_s"}
_PEAKS = {"official": "official_peak_gib", "ours": "ours_peak_gib"}

BENCHMARKS = {
    "scan": Benchmark("the selective scan on shapes of training", True, _scan, _MS, _BOTH_MS),
    "conv": Benchmark("the causal convolution", True, _conv, _MS, _BOTH_MS),
    "norm": Benchmark("the root-mean-square norm with its residual add", True, _norm, _MS, _BOTH_MS),
    "train": Benchmark("training steps of whole models", True, _train, _OFFICIAL, "tokens/s"),
    "graph": Benchmark("training steps, also as CUDA graphs", True, _graph, _OFFICIAL, "tokens/s"),
    "memory": Benchmark("peak memory of training, by the batch", True, _memory, _PEAKS, "peak GiB"),
    "sampling": Benchmark("tokens drawn one after the other", True, _sampling, _PER_S, "tokens/s"),
    "scan_cpu": Benchmark("the selective scan on a CPU", False, _scan_cpu, _MAMBAPY_NS, "ns an element"),
    "train_cpu": Benchmark("a model's passes on a CPU", False, _train_cpu, _MAMBAPY, "tokens/s"),
    "loader": Benchmark("batches of genomes on one core", False, _loader, {"ours": "mbase_per_s"}, "Mbase/s"),
}


@command
def main(arguments: Sequence[str]) -> None:
    chosen = parsed(arguments)
    on_gpu = torch.cuda.is_available()
    for name in chosen.names:
        if BENCHMARKS[name].needs_gpu and not on_gpu:
            raise ValueError(f"The table {name} needs a GPU, and there is none here.")
    chosen.output.mkdir(parents=True, exist_ok=True)
    for name in chosen.names:
        benchmark = BENCHMARKS[name]
        try:
            rows = benchmark.rows()
        except ImportError as error:
            raise ValueError(
                f"The table {name} compares with {error.name}, which is not installed."
            ) from error
        device = torch.device("cuda" if benchmark.needs_gpu else "cpu")
        line = f"python -m pipelines.benchmark {name} --publish"
        print(shown(name, rows, line, device), flush=True)
        with replaced_atomically(chosen.output / f"{name}.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        draw(name, rows, chosen.output / f"{name}.png")
        if chosen.publish:
            with replaced_atomically(FOLDER / f"{name}.json") as temporary:
                write_results(temporary, line, device, 0, rows)
    print(f"{chosen.output} holds JSON lines and pictures.")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """names, output, publish; prints the page of help and exits where it is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.benchmark",
        description=__doc__,
        epilog="\n".join(
            ["tables:", *(f"  {name:<10} {benchmark.about}" for name, benchmark in BENCHMARKS.items())]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="TABLE", choices=list(BENCHMARKS), help="see below")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="folder to write into")
    parser.add_argument("--publish", action="store_true", help="write results/TABLE.json as well")
    return parser.parse_args(arguments)


def shown(name: str, rows: Sequence[Row], line: str, device: torch.device) -> str:
    """The table as it would stand in a document."""
    facts = {"command": line, "commit": commit(), "hardware": hardware(device), "seed": 0}
    return markdown_table({**facts, "date": date.today().isoformat(), "rows": rows}, TABLES[name])


def draw(name: str, rows: Sequence[Row], picture: Path) -> None:
    """Bars of the compared numbers of each row that were measured; its first columns are its label."""
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
