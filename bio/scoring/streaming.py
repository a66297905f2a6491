"""Any stretch of a genome under a model, in one pass and constant memory, whatever its length.

The spans to score stand end to end, and the whole is cut into pieces of one size that run one after the
other. A span that a cut divides goes on with the state (convolution and scan) that its first part left; spans
that share a piece are packed, and none sees its neighbour. What comes out is that of one forward over each.

The host prepares pieces ahead of the device and reads results behind it, so that the device never waits.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bio.genome.genome import Genome
from bio.genome.spans import Spans
from bio.genome.vocabulary import SOFT_MASK, A, T, without_mask
from bio.scoring.likelihood import Score, base_losses, to_device
from bio.windows.dataset import inputs_and_targets
from core.layers.mamba import MambaState
from core.models.sequence import SequenceModel, SequenceState

PIECE_BASES = 1 << 17
MOST_STRETCHES = 256
"""In a piece: each has a state of its own, which takes as much memory as the rest of some fifty bases."""
IN_FLIGHT = 2


class ScoredBases(NamedTuple):
    """Consecutive bases of one span.

    span: its number. start: position of the first of them in the pack. losses: (bases,) -ln p of each, given
    the bases before it; NaN for N, and for a base that has none before it.
    """

    span: int
    start: int
    losses: npt.NDArray[np.floating]


class Stretch(NamedTuple):
    """What of one span a piece reads: positions start .. end - 1 in the pack."""

    span: int
    start: int
    end: int


def stream_losses(
    model: SequenceModel, genome: Genome, spans: Spans, context: int = 0, piece: int = PIECE_BASES
) -> Iterator[ScoredBases]:
    """The loss of every base of spans (n, 2), in order, each base once.

    context: bases of the record that are read before each span and not scored; fewer where it begins.
    piece: bases that are run at once. Each span lies within a record. Run it under torch.autocast for bf16.
    Raises ValueError where the model gives a base no finite probability.
    """
    index = np.searchsorted(genome.record_spans[:, 0], spans[:, 0], side="right") - 1
    begins = np.maximum(spans[:, 0] - context, genome.record_spans[index, 0])
    reach = np.stack([begins, spans[:, 1]], axis=1)
    state: SequenceState | None = None
    in_flight: deque[tuple[list[Stretch], Tensor, torch.cuda.Event | None]] = deque()
    for stretches in cut(reach, piece):
        losses, state = _run(model, genome, stretches, state, reach)
        in_flight.append((stretches, *_to_host(losses)))
        if len(in_flight) > IN_FLIGHT:
            yield from _scored(*in_flight.popleft(), genome, spans, reach)
    while in_flight:
        yield from _scored(*in_flight.popleft(), genome, spans, reach)


def cut(spans: Spans, piece: int) -> Iterator[list[Stretch]]:
    """Spans (n, 2), end to end, in pieces of `piece` positions; shorter where MOST_STRETCHES fill one."""
    stretches: list[Stretch] = []
    room = piece
    for span, (start, end) in enumerate(spans.tolist()):
        while start < end:
            stop = min(end, start + room)
            stretches.append(Stretch(span, start, stop))
            room -= stop - start
            start = stop
            if room == 0 or len(stretches) == MOST_STRETCHES:
                yield stretches
                stretches, room = [], piece
    if stretches:
        yield stretches


def repeat_and_unique(genome: Genome, scored: ScoredBases) -> tuple[Score, Score]:
    """The sums over the soft-masked bases and over the others."""
    is_repeat = genome.bases[scored.start : scored.start + len(scored.losses)] >= SOFT_MASK
    has_loss = ~np.isnan(scored.losses)
    sides = (scored.losses[has_loss & side] for side in (is_repeat, ~is_repeat))
    repeat, unique = (Score(float(losses.sum(dtype=np.float64)), losses.size) for losses in sides)
    return repeat, unique


@torch.no_grad()
def _run(
    model: SequenceModel,
    genome: Genome,
    stretches: list[Stretch],
    state: SequenceState | None,
    reach: Spans,
) -> tuple[Tensor, SequenceState | None]:
    """The losses (positions,) of the bases that follow each of a piece, and the state that its last stretch
    leaves to the next piece: None where its span ends. `state` is what the piece before left.

    The last position of a span has no base to predict: its loss means nothing.
    """
    device = model.embedding.weight.device
    last = stretches[-1]
    read = [genome.bases[stretch.start : stretch.end] for stretch in stretches]
    packed = np.concatenate([*read, genome.bases[last.end : last.end + 1]])
    inputs, targets = inputs_and_targets(to_device(torch.from_numpy(packed)[None], device))
    bounds = None
    if len(stretches) > 1:
        ends = np.cumsum([0, *(len(bases) for bases in read)])
        bounds = to_device(torch.from_numpy(ends), device)
    losses, state = base_losses(model, inputs, targets, _states(model, len(stretches), state), bounds)
    if last.end == reach[last.span, 1]:
        return losses[0], None
    return losses[0], tuple(MambaState(block.conv[-1:], block.ssm[-1:]) for block in state)


def _states(model: SequenceModel, count: int, first: SequenceState | None) -> SequenceState:
    """The states of `count` stretches, of which only the first may go on with another piece's."""
    fresh = model.initial_state(count)
    if first is None:
        return fresh
    return tuple(
        MambaState(*(torch.cat([left, new[1:]]) for left, new in zip(own, others, strict=True)))
        for own, others in zip(first, fresh, strict=True)
    )


def _to_host(losses: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The losses in host memory, and what to wait for until they have arrived."""
    host = losses.to("cpu", non_blocking=True)
    if not losses.is_cuda:
        return host, None
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived


def _scored(
    stretches: list[Stretch],
    host: Tensor,
    arrived: torch.cuda.Event | None,
    genome: Genome,
    spans: Spans,
    reach: Spans,
) -> Iterator[ScoredBases]:
    """Give the losses of a piece to their bases, and leave out the context."""
    if arrived is not None:
        arrived.synchronize()
    read = np.cumsum([stretch.end - stretch.start for stretch in stretches])
    for (span, start, _), losses in zip(stretches, np.split(host.numpy(), read[:-1]), strict=True):
        begin, (first, end) = reach[span, 0], spans[span]
        of_bases = _of_bases(genome, start + 1, losses[: end - start - 1])
        if start == begin:
            of_bases = np.append(np.full(1, np.nan, losses.dtype), of_bases)
        else:
            start += 1
        skipped = max(0, int(first) - start)
        if len(of_bases) > skipped:
            yield ScoredBases(span, start + skipped, of_bases[skipped:])


def _of_bases(genome: Genome, start: int, losses: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The losses of the positions from `start` on, NaN where there is no base.

    Raises ValueError for a base whose loss is not finite.
    """
    tokens = without_mask(genome.bases[start : start + len(losses)])
    is_base = (tokens >= A) & (tokens <= T)
    if (bad := np.flatnonzero(is_base & ~np.isfinite(losses))).size:
        name, base = genome.locate(start + bad[0])
        raise ValueError(
            f"The model gives base {base + 1:,} of {name} no finite probability: its parameters are not "
            "finite, or bf16 is too coarse for it. Try precision=fp32, or an earlier checkpoint."
        )
    return np.where(is_base, losses, np.array(np.nan, losses.dtype))
