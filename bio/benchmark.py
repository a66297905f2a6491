"""Loader speed on one core: `python -m bio.benchmark`.

A batch carries its targets: bytes 0 .. L-1 of a row are the inputs, 1 .. L the targets. Widening is the
device's work in training and is timed apart.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bio.dataset import GenomeDataset, widen
from bio.genome import Genome, open_genome
from bio.window import tiled_windows

GENOME_BASES = 1 << 26
BATCH_BASES = 1 << 20
LENGTHS = (1 << 10, 1 << 12, 1 << 14, 1 << 17, 1 << 20)
SECONDS = 1.0


def rows() -> list[dict[str, Any]]:
    """The table, a row a window length, in million bases a second on one core.

    length (bases); mbase_per_s: packed batches, as they go to the device; widened_mbase_per_s: the same and
    their int64 inputs and targets made on this CPU.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            genome = _random_genome(Path(folder))
            return [_row(genome, length) for length in LENGTHS]
    finally:
        torch.set_num_threads(threads)


def _random_genome(folder: Path) -> Genome:
    bases = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(0, 4, GENOME_BASES)]
    lines = np.concatenate([bases.reshape(-1, 64), np.full((GENOME_BASES // 64, 1), ord("\n"), np.uint8)], 1)
    fasta = folder / "random.fa"
    fasta.write_bytes(b">random\n" + lines.tobytes())
    return open_genome(fasta)


def _row(genome: Genome, length: int) -> dict[str, Any]:
    windows = tiled_windows(genome, genome.record_spans, length)
    dataset = GenomeDataset(genome, windows, reverse_complement=True)
    batch_size = BATCH_BASES // length
    return {
        "length": length,
        "mbase_per_s": _mbase_per_s(lambda step: dataset.batch(step, batch_size)),
        "widened_mbase_per_s": _mbase_per_s(lambda step: widen(dataset.batch(step, batch_size), "cpu")),
    }


def _mbase_per_s(read: Callable[[int], Any]) -> float:
    read(0)
    steps, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < SECONDS:
        steps += 1
        read(steps)
    return steps * BATCH_BASES / elapsed / 1e6


def main() -> None:
    """Print the table."""
    print("Loader, one core, half of the windows reverse-complemented, million bases a second")
    print(f"{'length':>10} {'to device':>12} {'widened here':>14}")
    for row in rows():
        print(f"{row['length']:>10,} {row['mbase_per_s']:>12,.0f} {row['widened_mbase_per_s']:>14,.0f}")


if __name__ == "__main__":
    main()
