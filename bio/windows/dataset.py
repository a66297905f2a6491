"""Batches of windows, one byte a base: widened only on the device.

Windows are read as packed bytes (bio.genome.vocabulary), (rows, length + 1) uint8, which hold
inputs, targets and
the repeat mask together. Row i of step s depends on (seed, length, s, i) alone.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from bio.genome.genome import Genome
from bio.genome.spans import Integers, contains
from bio.genome.vocabulary import COMPLEMENT, SOFT_MASK, TOKEN_BITS, A, N, T
from bio.windows.window import TiledWindows, Windows
from core.random import random_uniform, random_words

STRAND_STREAM, LENGTH_STREAM = 2, 3
NOT_A_TARGET = -100


class GenomeDataset:
    """The training batches of a genome: dataset(step, rows) gives these rows of the global batch of a step.

    batch_size: rows of the global batch. reverse_complement: read each window from the strand that a coin of
    its own chooses. Windows of another length come from other places in another order, so that the stages of
    a length warm-up do not repeat each other.
    """

    def __init__(
        self,
        genome: Genome,
        windows: Windows,
        batch_size: int,
        seed: int = 0,
        reverse_complement: bool = False,
    ) -> None:
        self.genome = genome
        self.windows = windows
        self.batch_size = batch_size
        self.seed = int(random_words(seed, LENGTH_STREAM, np.array([windows.length]))[0])
        self.reverse_complement = reverse_complement

    def __len__(self) -> int:
        """Steps in an epoch, the last one included that runs into the next."""
        return -(-len(self.windows) // self.batch_size)

    def __call__(self, step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs uint8 and targets int8 (rows, length); a target that is none is NOT_A_TARGET."""
        return inputs_and_targets(self.packed(step, rows))

    def packed(self, step: int, rows: range) -> torch.Tensor:
        """The same rows as packed bytes (rows, length + 1)."""
        counter = step * self.batch_size + np.arange(rows.start, rows.stop, rows.step)
        starts = self.windows.sample(counter, self.seed)
        is_reverse = np.zeros(len(starts), np.bool_)
        if self.reverse_complement:
            is_reverse = random_uniform(self.seed, STRAND_STREAM, counter) < 0.5
        return read_windows(self.genome, self.windows, starts, is_reverse)


def evaluation_batches(
    genome: Genome, windows: TiledWindows, batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[torch.Tensor]:
    """The windows of one of `world` ranks, in order, forward strand: packed bytes (batch_size, length + 1).

    The ranks together see every window once. Batches are filled up with rows of N, which have no target, so
    that all ranks see equally many of one shape.
    """
    for first in range(0, len(windows), batch_size * world):
        begin = first + rank * batch_size
        starts = windows.starts[begin : begin + batch_size]
        batch = torch.full((batch_size, windows.length + 1), N, dtype=torch.uint8)
        batch[: len(starts)] = read_windows(genome, windows, starts, np.zeros(len(starts), np.bool_))
        yield batch


def read_windows(
    genome: Genome, windows: Windows, starts: Integers, is_reverse: npt.NDArray[np.bool_]
) -> torch.Tensor:
    """The windows at `starts` (rows,), or their other strand where `is_reverse` (rows,), as packed bytes.

    (rows, length + 1) uint8. A window whose extra base may not be read ends in N on either strand.
    """
    length, bases = windows.length, genome.bases
    rows = np.empty((len(starts), length + 1), np.uint8)
    for row, start in zip(rows, starts.tolist(), strict=True):
        row[:] = bases[start : start + length + 1]
    lacks_extra = ~contains(windows.readable, starts + length)
    rows[lacks_extra, length] = N
    if is_reverse.any():
        rows[is_reverse] = COMPLEMENT.take(rows[is_reverse][:, ::-1])
        turned = is_reverse & lacks_extra
        rows[turned] = np.roll(rows[turned], -1, axis=1)
    return torch.from_numpy(rows)


def inputs_and_targets(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs uint8 and targets int8, both (rows, length), of packed bytes (rows, length + 1) on any device.

    Target t is the base after input t; anything but A, C, G, T is NOT_A_TARGET.
    """
    following = packed[:, 1:]
    targets = torch.index_select(_target_table(packed.device), 0, following.reshape(-1).int())
    return packed[:, :-1] & TOKEN_BITS, targets.view(following.shape)


def target_repeats(packed: torch.Tensor) -> torch.Tensor:
    """Which targets (rows, length) of packed bytes (rows, length + 1) are soft-masked, as bool."""
    return packed[:, 1:] >= SOFT_MASK


@cache
def _target_table(device: torch.device) -> torch.Tensor:
    """(256,) int8 from a packed byte to a target: a table lookup is the fastest way to mask."""
    table = torch.full((256,), NOT_A_TARGET, dtype=torch.int8)
    for base in range(A, T + 1):
        table[[base, base | SOFT_MASK]] = base
    return table.to(device)
