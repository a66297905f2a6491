"""Losses of any part of a genome in one pass and constant memory, at any length.

The spans to score are laid end to end and cut into chunks of one size, which run one after the other. A
span that continues in the next chunk carries its state (convolution and scan). Spans in one chunk are packed
and do not see each other. The losses equal those of one forward pass over each span.

The host prepares chunks ahead of the device and reads results behind it, so the device never waits.
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

CHUNK_BASES = 1 << 17
MAX_SEGMENTS = 256
"""Segments per chunk; the state of each takes as much memory as the activations of about fifty bases."""
IN_FLIGHT = 2


class ScoredBases(NamedTuple):
    """Consecutive bases of one span.

    span: number of the span. start: position of the first base in the pack. losses: (bases,) -ln p of each
    base given the bases before it; NaN for N, and for a base without bases before it.
    """

    span: int
    start: int
    losses: npt.NDArray[np.floating]


class Segment(NamedTuple):
    """Part of a span in one chunk: positions start .. end - 1 in the pack."""

    span: int
    start: int
    end: int


def stream_losses(
    model: SequenceModel, genome: Genome, spans: Spans, context: int = 0, chunk: int = CHUNK_BASES
) -> Iterator[ScoredBases]:
    """Yield the loss of every base of spans (n, 2), in order, each base once.

    context: unscored bases of the record read before each span; fewer at the start of the record.
    chunk: bases per forward pass. Each span lies within a record. Use torch.autocast for bf16.
    Raises ValueError if the model gives a base a probability that is not finite.
    """
    index = np.searchsorted(genome.record_spans[:, 0], spans[:, 0], side="right") - 1
    starts = np.maximum(spans[:, 0] - context, genome.record_spans[index, 0])
    read_spans = np.stack([starts, spans[:, 1]], axis=1)
    state: SequenceState | None = None
    in_flight: deque[tuple[list[Segment], Tensor, torch.cuda.Event | None]] = deque()
    for segments in cut_spans(read_spans, chunk):
        losses, state = _run(model, genome, segments, state, read_spans)
        in_flight.append((segments, *_to_host(losses)))
        if len(in_flight) > IN_FLIGHT:
            yield from _score(*in_flight.popleft(), genome, spans, read_spans)
    while in_flight:
        yield from _score(*in_flight.popleft(), genome, spans, read_spans)


def cut_spans(spans: Spans, chunk: int) -> Iterator[list[Segment]]:
    """Cut spans (n, 2), end to end, into chunks of `chunk` positions and at most MAX_SEGMENTS segments."""
    segments: list[Segment] = []
    room = chunk
    for span, (start, end) in enumerate(spans.tolist()):
        while start < end:
            stop = min(end, start + room)
            segments.append(Segment(span, start, stop))
            room -= stop - start
            start = stop
            if room == 0 or len(segments) == MAX_SEGMENTS:
                yield segments
                segments, room = [], chunk
    if segments:
        yield segments


def repeat_and_unique(genome: Genome, scored: ScoredBases) -> tuple[Score, Score]:
    """Return the sums over the soft-masked bases and over the others."""
    is_repeat = genome.bases[scored.start : scored.start + len(scored.losses)] >= SOFT_MASK
    has_loss = ~np.isnan(scored.losses)
    parts = (scored.losses[has_loss & mask] for mask in (is_repeat, ~is_repeat))
    repeat, unique = (Score(float(losses.sum(dtype=np.float64)), losses.size) for losses in parts)
    return repeat, unique


@torch.no_grad()
def _run(
    model: SequenceModel,
    genome: Genome,
    segments: list[Segment],
    state: SequenceState | None,
    read_spans: Spans,
) -> tuple[Tensor, SequenceState | None]:
    """Return the losses (positions,) of the base after each position of a chunk, and the last state.

    state: state of the previous chunk's last segment, if its span continues here. The returned state is that
    of the last segment, or None if its span ends. The loss at the last position of a span has no meaning.
    """
    device = model.embedding.weight.device
    last = segments[-1]
    bases = [genome.bases[segment.start : segment.end] for segment in segments]
    packed = np.concatenate([*bases, genome.bases[last.end : last.end + 1]])
    inputs, targets = inputs_and_targets(to_device(torch.from_numpy(packed)[None], device))
    cu_seqlens = None
    if len(segments) > 1:
        ends = np.cumsum([0, *(len(part) for part in bases)])
        cu_seqlens = to_device(torch.from_numpy(ends), device)
    losses, state = base_losses(model, inputs, targets, _states(model, len(segments), state), cu_seqlens)
    if last.end == read_spans[last.span, 1]:
        return losses[0], None
    return losses[0], tuple(MambaState(block.conv[-1:], block.ssm[-1:]) for block in state)


def _states(model: SequenceModel, count: int, first: SequenceState | None) -> SequenceState:
    """Return initial states of `count` segments; `first` replaces the state of the first segment."""
    initial = model.initial_state(count)
    if first is None:
        return initial
    return tuple(
        MambaState(*(torch.cat([left, new[1:]]) for left, new in zip(own, others, strict=True)))
        for own, others in zip(first, initial, strict=True)
    )


def _to_host(losses: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start a copy to host memory; return it with the event of its arrival, if it is asynchronous."""
    host = losses.to("cpu", non_blocking=True)
    if not losses.is_cuda:
        return host, None
    arrival = torch.cuda.Event()
    arrival.record()
    return host, arrival


def _score(
    segments: list[Segment],
    host: Tensor,
    arrival: torch.cuda.Event | None,
    genome: Genome,
    spans: Spans,
    read_spans: Spans,
) -> Iterator[ScoredBases]:
    """Yield the losses of a chunk by base, without the context."""
    if arrival is not None:
        arrival.synchronize()
    ends = np.cumsum([segment.end - segment.start for segment in segments])
    for (span, start, _), losses in zip(segments, np.split(host.numpy(), ends[:-1]), strict=True):
        read_start, (first, end) = read_spans[span, 0], spans[span]
        base_loss = _losses_by_base(genome, start + 1, losses[: end - start - 1])
        if start == read_start:
            base_loss = np.append(np.full(1, np.nan, losses.dtype), base_loss)
        else:
            start += 1
        skipped = max(0, int(first) - start)
        if len(base_loss) > skipped:
            yield ScoredBases(span, start + skipped, base_loss[skipped:])


def _losses_by_base(genome: Genome, start: int, losses: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Return the losses of the positions from `start` on, NaN for N.

    Raises ValueError for a base with a loss that is not finite.
    """
    tokens = without_mask(genome.bases[start : start + len(losses)])
    is_base = (tokens >= A) & (tokens <= T)
    if (bad := np.flatnonzero(is_base & ~np.isfinite(losses))).size:
        name, base = genome.locate(start + bad[0])
        raise ValueError(
            f"The model gives base {base + 1:,} of {name} no finite probability. Its parameters are not "
            "finite, or bf16 is too coarse for it. Try precision=fp32, or an earlier checkpoint."
        )
    return np.where(is_base, losses, np.array(np.nan, losses.dtype))
