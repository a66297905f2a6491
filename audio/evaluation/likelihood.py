"""Held-out likelihood: bits a sample over all real samples, and by the position in the window.

The position tells whether context helps: the first sample of a window is predicted from nothing, the last
from all the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from audio.data.dataset import evaluation_batches
from audio.data.pack import PackedAudio
from audio.data.windows import Windows
from core.context_bins import context_edges
from core.training import IGNORED, World

PIECE_SAMPLES = 1 << 17
"""Samples that are run at once: enough to fill a GPU, whatever the windows' length."""


@dataclass(frozen=True)
class Likelihood:
    """Nats and number of the samples of all windows.

    edges: (bins + 1,). nats, samples: (bins,); bin i holds the samples from edges[i] to edges[i + 1] - 1 of
    their windows, counted from 1.
    """

    edges: list[int]
    nats: list[float]
    samples: list[int]

    @property
    def loss(self) -> float:
        """Nats a sample."""
        return sum(self.nats) / sum(self.samples)

    @property
    def bits(self) -> float:
        """Bits a sample: the negative log-likelihood in base 2."""
        return self.loss / log(2)

    def metrics(self) -> dict[str, float]:
        """What a validation logs: `loss` (nats a sample) and `bits_per_sample`."""
        return {"loss": self.loss, "bits_per_sample": self.bits}

    def rows(self) -> list[dict[str, Any]]:
        """A row a bin that has samples: first and last (positions from 1), samples, bits_per_sample."""
        return [
            {"first": low, "last": high - 1, "samples": samples, "bits_per_sample": nats / samples / log(2)}
            for (low, high), nats, samples in zip(pairwise(self.edges), self.nats, self.samples, strict=True)
            if samples
        ]


@torch.no_grad()
def likelihood(
    model: Any,
    audio: PackedAudio,
    windows: Windows,
    world: World,
    conditional: bool = False,
    piece: int = PIECE_SAMPLES,
    unscored: int = 0,
    advance: Callable[[int], object] = lambda windows: None,
) -> Likelihood:
    """The likelihood of windows under a model (on the world's device), in one pass that the processes share.

    Windows longer than `piece` run in pieces with carried state: memory does not grow with their length.
    The first `unscored` samples of each window are read and do not count. `advance` is told of each batch how
    many windows it held. Raises ValueError where no sample counts.
    """
    longest = int(windows.lengths.max())
    rows = max(1, min(piece // longest, -(-len(windows) // world.size)))
    read = 0
    totals = torch.zeros(2, longest, dtype=torch.float64, device=world.device)
    for inputs, targets in evaluation_batches(audio, windows, rows, world.rank, world.size, conditional):
        targets[:, :unscored] = IGNORED
        state = model.initial_state(rows)
        for first in range(0, inputs.shape[1], piece):
            part, expected = (
                tensor[:, first : first + piece].to(world.device) for tensor in (inputs, targets)
            )
            logits, state = model(part, state)
            is_real = expected != IGNORED
            sums = torch.stack([sample_losses(logits, expected), is_real]).sum(1, dtype=torch.float64)
            totals[:, first : first + piece][:, : sums.shape[1]] += sums
        advance(min(rows * world.size, len(windows) - read))
        read += rows * world.size
    nats, samples = world.sum(totals).cpu().numpy()
    if not samples.any():
        raise ValueError(f"No window has more than the {unscored:,} samples that do not count.")
    edges = context_edges(longest)
    return Likelihood(
        edges.tolist(),
        np.add.reduceat(nats, edges[:-1] - 1).tolist(),
        np.add.reduceat(samples, edges[:-1] - 1).astype(int).tolist(),
    )


def sample_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of each target in nats, (rows, length) float32: 0 where there is none.

    logits: (rows, length, vocabulary); targets: (rows, length), any integer dtype.
    """
    losses = cross_entropy(
        logits.float().flatten(0, 1), targets.flatten().long(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(targets.shape)
