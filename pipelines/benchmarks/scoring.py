"""Speed and memory of streaming scoring on a GPU: `python -m pipelines.benchmarks.scoring FASTA`.

A model of 1.4M parameters, randomly initialised, reads a record from its first base to its last in one pass
with carried state, in chunks of several sizes. Before timing, the losses of streaming are compared with those
of one forward pass over the start of the record. --publish writes the table to a file.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bio.genome.genome import Genome, open_genome
from bio.genome.spans import as_spans
from bio.genome.vocabulary import VOCABULARY_SIZE
from bio.scoring.likelihood import base_losses, to_device
from bio.scoring.streaming import CHUNK_BASES, stream_losses
from bio.windows.dataset import inputs_and_targets
from core.models.sequence import SequenceModel, SequenceModelConfig
from kernels.provenance import write_results

CONFIG = SequenceModelConfig(vocab_size=VOCABULARY_SIZE, d_model=128, n_layer=12)
CHUNKS = (1 << 15, 1 << 16, 1 << 17, 1 << 18, 1 << 19)
WINDOW = 1 << 20
LARGEST_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Largest allowed difference of a loss (nats): sums run in another order, and bfloat16 rounds products."""

Losses = npt.NDArray[np.floating]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmarks.scoring", description=__doc__)
    parser.add_argument("fasta", metavar="FASTA", help="genome (FASTA)")
    parser.add_argument("--record", help="record to read (default: the first)")
    parser.add_argument("--publish", type=Path, metavar="FILE", help="JSON file to write the table to")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("This benchmark needs a GPU; this machine has none.")
    genome = open_genome(options.fasta)
    record = genome.resolve(options.record or next(iter(genome.records))).name
    torch.manual_seed(0)
    model = SequenceModel(CONFIG).cuda().eval()
    # The initial logits are almost uniform; larger ones make differences visible.
    model.embedding.weight.data.mul_(30)
    worst = {_name(dtype): check_difference(model, genome, record, dtype) for dtype in LARGEST_DIFFERENCE}
    rows = [{**measure(model, genome, record, chunk), "largest_difference": worst} for chunk in CHUNKS]
    if options.publish is not None:
        command = f"python -m pipelines.benchmarks.scoring {options.fasta}"
        write_results(options.publish, command, torch.device("cuda"), 0, rows)


def check_difference(model: SequenceModel, genome: Genome, record: str, dtype: torch.dtype) -> float:
    """Return the largest difference of a loss (nats) between streaming and one forward pass.

    Both read up to WINDOW bases from the first known base of the record.
    Raises SystemExit if the difference exceeds LARGEST_DIFFERENCE.
    """
    start, end = genome.span(record)
    known = start + int(np.argmax(genome.bases[start:end] & 0x7F != genome.bases[start]))
    span = (known, min(known + WINDOW, end))
    with torch.autocast(model.embedding.weight.device.type, dtype=dtype, enabled=dtype != torch.float32):
        difference = np.abs(
            streaming_losses(model, genome, span, CHUNK_BASES) - forward_losses(model, genome, span)
        )
    largest = float(np.nanmax(difference))
    bases = int(np.isfinite(difference).sum())
    print(
        f"{_name(dtype)}: streaming and one forward pass over {bases:,} bases differ by at "
        f"most {largest:.1e} nats, on average by {np.nanmean(difference):.1e}",
        flush=True,
    )
    if largest > LARGEST_DIFFERENCE[dtype]:
        sys.exit(f"The difference exceeds {LARGEST_DIFFERENCE[dtype]} nats. Nothing is timed.")
    return largest


def streaming_losses(model: SequenceModel, genome: Genome, span: tuple[int, int], chunk: int) -> Losses:
    """Return the losses of the bases of a span by streaming in chunks."""
    chunks = stream_losses(model, genome, as_spans([span]), chunk=chunk)
    return np.concatenate([scored.losses for scored in chunks])


@torch.no_grad()
def forward_losses(model: SequenceModel, genome: Genome, span: tuple[int, int]) -> Losses:
    """Return the losses of the bases of a span by one forward pass; NaN for the first base."""
    bases = torch.from_numpy(genome.bases[slice(*span)].copy())[None]
    packed = to_device(bases, model.embedding.weight.device)
    inputs, targets = inputs_and_targets(packed)
    losses, _ = base_losses(model, inputs, targets, model.initial_state(1))
    return np.append(np.float32(np.nan), losses[0].cpu().numpy())


def measure(model: SequenceModel, genome: Genome, record: str, chunk: int) -> dict[str, Any]:
    """Return the row of one pass over the record: its rate and its peak GPU memory.

    chunk: bases per forward pass.
    """
    span = genome.span(record)
    bf16 = torch.autocast("cuda", dtype=torch.bfloat16)
    with bf16:
        streaming_losses(model, genome, (span[0], min(span[1], span[0] + 2 * chunk + 1)), chunk)  # compile
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    start_time = time.perf_counter()
    with bf16:
        losses = streaming_losses(model, genome, span, chunk)
    rate = len(losses) / (time.perf_counter() - start_time) / 1e6
    peak = torch.cuda.max_memory_reserved() / 2**30
    print(f"chunks of {chunk:>9,}: {rate:6.2f} Mbase/s, {peak:.2f} GiB reserved", flush=True)
    return {
        "model": "d128x12",
        "record": record,
        "bases": len(losses),
        "piece": chunk,
        "mbase_per_s": rate,
        "peak_gib": peak,
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
