"""Speed of the genome loader on one core: `python -m pipelines.benchmarks.loader`.

Times one batch, from the packed genome to inputs and targets, with the reverse complement of half of the
windows. The result is the median CPU time.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bio.genome.genome import Genome, open_genome
from bio.windows.dataset import GenomeDataset
from bio.windows.window import tiled_windows

GENOME_BASES = 1 << 26
BATCH_BASES = 1 << 20
LENGTHS = (1 << 10, 1 << 12, 1 << 14, 1 << 17, 1 << 20)
BATCHES = 200


def rows() -> list[dict[str, Any]]:
    """Return one row per length: length (bases), mbase_per_s (million bases per second)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            genome = _random_genome(Path(folder))
            return [{"length": length, "mbase_per_s": _mbase_per_s(genome, length)} for length in LENGTHS]
    finally:
        torch.set_num_threads(threads)


def _random_genome(folder: Path) -> Genome:
    bases = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(0, 4, GENOME_BASES)]
    line_ends = np.full((GENOME_BASES // 64, 1), ord("\n"), np.uint8)
    fasta = folder / "random.fa"
    fasta.write_bytes(b">random\n" + np.concatenate([bases.reshape(-1, 64), line_ends], axis=1).tobytes())
    return open_genome(fasta)


def _mbase_per_s(genome: Genome, length: int) -> float:
    batch_size = BATCH_BASES // length
    windows = tiled_windows(genome, genome.record_spans, length)
    dataset = GenomeDataset(genome, windows, batch_size, reverse_complement=True)
    seconds = []
    for step in range(BATCHES):
        start = time.process_time()  # CPU time excludes other processes
        dataset(step, range(batch_size))
        seconds.append(time.process_time() - start)
    return BATCH_BASES / statistics.median(seconds) / 1e6


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmarks.loader", description=__doc__)
    parser.parse_args(argv)
    print("Loader on one core: inputs and targets, with reverse complement")
    print(f"{'length':>10} {'Mbase/s':>10}")
    for row in rows():
        print(f"{row['length']:>10,} {row['mbase_per_s']:>10,.0f}")


if __name__ == "__main__":
    main()
