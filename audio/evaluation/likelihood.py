"""Held-out likelihood: bits per sample over all real samples, and by position in the window.

Bits by position show the benefit of context: the first sample of a window has no context, the last has
the whole window.
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
from core.statistics import context_edges
from core.training import IGNORED, World

CHUNK_SAMPLES = 1 << 17
"""Samples per forward pass: enough to fill a GPU at any window length."""


@dataclass(frozen=True)
class Likelihood:
    """Total nats and number of samples, by position in the window.

    edges: (bins + 1,). nats, samples: (bins,); bin i covers the positions edges[i] to edges[i + 1] - 1,
    counted from 1.
    """

    edges: list[int]
    nats: list[float]
    samples: list[int]

    @property
    def loss(self) -> float:
        """Nats per sample."""
        return sum(self.nats) / sum(self.samples)

    @property
    def bits(self) -> float:
        """Bits per sample: the negative log-likelihood in base 2."""
        return self.loss / log(2)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of a validation: `loss` (nats per sample) and `bits_per_sample`."""
        return {"loss": self.loss, "bits_per_sample": self.bits}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per nonempty bin: first and last (positions from 1), samples, bits_per_sample."""
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
    chunk: int = CHUNK_SAMPLES,
    unscored: int = 0,
    advance: Callable[[int], object] = lambda windows: None,
) -> Likelihood:
    """Measure the likelihood of windows under a model on the world's device; the ranks share the windows.

    Windows longer than `chunk` samples run in chunks with carried state, so memory does not grow with their
    length. The first `unscored` samples of each window serve as context only. `advance` is called after each
    batch with its number of windows. Raises ValueError if no sample is scored.
    """
    longest = int(windows.lengths.max())
    rows = max(1, min(chunk // longest, -(-len(windows) // world.size)))
    done = 0
    totals = torch.zeros(2, longest, dtype=torch.float64, device=world.device)
    for inputs, targets in evaluation_batches(audio, windows, rows, world.rank, world.size, conditional):
        targets[:, :unscored] = IGNORED
        state = model.initial_state(rows)
        for first in range(0, inputs.shape[1], chunk):
            chunk_inputs, chunk_targets = (
                tensor[:, first : first + chunk].to(world.device) for tensor in (inputs, targets)
            )
            logits, state = model(chunk_inputs, state)
            is_scored = chunk_targets != IGNORED
            sums = torch.stack([sample_losses(logits, chunk_targets), is_scored]).sum(1, dtype=torch.float64)
            totals[:, first : first + chunk][:, : sums.shape[1]] += sums
        advance(min(rows * world.size, len(windows) - done))
        done += rows * world.size
    nats, samples = world.sum(totals).cpu().numpy()
    if not samples.any():
        raise ValueError(f"No window has more than {unscored:,} samples, so no sample is scored.")
    edges = context_edges(longest)
    return Likelihood(
        edges.tolist(),
        np.add.reduceat(nats, edges[:-1] - 1).tolist(),
        np.add.reduceat(samples, edges[:-1] - 1).astype(int).tolist(),
    )


def sample_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log p of each target in nats, (rows, length) float32; 0 for ignored targets.

    logits: (rows, length, vocabulary); targets: (rows, length), any integer dtype.
    """
    losses = cross_entropy(
        logits.float().flatten(0, 1), targets.flatten().long(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(targets.shape)
