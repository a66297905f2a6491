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
PIECES = (1 << 15, 1 << 16, 1 << 17, 1 << 18, 1 << 19)
WINDOW = 1 << 20
LARGEST_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""In nats: a sum in another order is another number, and in bfloat16 a matrix product rounds it."""

Losses = npt.NDArray[np.floating]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmarks.scoring", description=__doc__)
    parser.add_argument("fasta", metavar="FASTA", help="genome (FASTA)")
    parser.add_argument("--record", help="record to read (default: the first)")
    parser.add_argument("--publish", type=Path, metavar="FILE", help="JSON file to write the table to")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here; this benchmark needs a GPU.")
    genome = open_genome(chosen.fasta)
    record = genome.resolve(chosen.record or next(iter(genome.records))).name
    torch.manual_seed(0)
    model = SequenceModel(CONFIG).cuda().eval()
    # as initialised, every base is all but equally likely, so that nothing could differ
    model.embedding.weight.data.mul_(30)
    worst = {_name(dtype): checked(model, genome, record, dtype) for dtype in LARGEST_DIFFERENCE}
    rows = [{**row(model, genome, record, piece), "largest_difference": worst} for piece in PIECES]
    if chosen.publish is not None:
        command = f"python -m pipelines.benchmarks.scoring {chosen.fasta}"
        write_results(chosen.publish, command, torch.device("cuda"), 0, rows)


def checked(model: SequenceModel, genome: Genome, record: str, dtype: torch.dtype) -> float:
    """The largest difference, in nats, of a base's loss between streaming and one forward over the first
    WINDOW bases from where the record is known. Ends the program where it is larger than it may be."""
    start, end = genome.span(record)
    known = start + int(np.argmax(genome.bases[start:end] & 0x7F != genome.bases[start]))
    span = (known, min(known + WINDOW, end))
    with torch.autocast(model.embedding.weight.device.type, dtype=dtype, enabled=dtype != torch.float32):
        difference = np.abs(streamed(model, genome, span, CHUNK_BASES) - whole(model, genome, span))
    largest = float(np.nanmax(difference))
    bases = int(np.isfinite(difference).sum())
    print(
        f"{_name(dtype)}: streaming and one forward over {bases:,} bases differ by at "
        f"most {largest:.1e} nats, on average by {np.nanmean(difference):.1e}",
        flush=True,
    )
    if largest > LARGEST_DIFFERENCE[dtype]:
        sys.exit(f"The difference exceeds {LARGEST_DIFFERENCE[dtype]} nats. Nothing is timed.")
    return largest


def streamed(model: SequenceModel, genome: Genome, span: tuple[int, int], piece: int) -> Losses:
    """The losses of a span's bases by streaming."""
    pieces = stream_losses(model, genome, as_spans([span]), chunk=piece)
    return np.concatenate([scored.losses for scored in pieces])


@torch.no_grad()
def whole(model: SequenceModel, genome: Genome, span: tuple[int, int]) -> Losses:
    """Return the losses of the bases of a span by one forward pass; NaN for the first base."""
    bases = torch.from_numpy(genome.bases[slice(*span)].copy())[None]
    packed = to_device(bases, model.embedding.weight.device)
    inputs, targets = inputs_and_targets(packed)
    losses, _ = base_losses(model, inputs, targets, model.initial_state(1))
    return np.append(np.float32(np.nan), losses[0].cpu().numpy())


def row(model: SequenceModel, genome: Genome, record: str, piece: int) -> dict[str, Any]:
    """One pass over the record in pieces of one size: its rate and its peak of GPU memory."""
    span = genome.span(record)
    bf16 = torch.autocast("cuda", dtype=torch.bfloat16)
    with bf16:
        streamed(model, genome, (span[0], min(span[1], span[0] + 2 * piece + 1)), piece)  # compiles
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    start_time = time.perf_counter()
    with bf16:
        losses = streamed(model, genome, span, piece)
    rate = len(losses) / (time.perf_counter() - start_time) / 1e6
    peak = torch.cuda.max_memory_reserved() / 2**30
    print(f"pieces of {piece:>9,}: {rate:6.2f} Mbase/s, {peak:.2f} GiB reserved", flush=True)
    return {
        "model": "d128x12",
        "record": record,
        "bases": len(losses),
        "piece": piece,
        "mbase_per_s": rate,
        "peak_gib": peak,
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
