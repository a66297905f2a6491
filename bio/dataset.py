"""Batches of windows: uint8 on their way to the device, widened there.

A batch is one uint8 array (rows, length + 1) of packed bytes (bio.vocabulary): inputs, targets and repeats
are all in it, in an eighth of the bytes of one int64 tensor. Row i of step s depends on (seed, s, i) alone.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from bio.counter import random_uniform
from bio.genome import Genome
from bio.span import Integers, contains
from bio.vocabulary import COMPLEMENT, SOFT_MASK, TOKEN_BITS, A, N, T
from bio.window import TiledWindows, Windows

STRAND_STREAM = 2
NOT_A_TARGET = -100


class GenomeDataset:
    """Training batches of windows, addressed by step.

    reverse_complement: read each window from the strand that a coin of its own chooses.
    """

    def __init__(
        self, genome: Genome, windows: Windows, seed: int = 0, reverse_complement: bool = False
    ) -> None:
        self.genome = genome
        self.windows = windows
        self.seed = seed
        self.reverse_complement = reverse_complement

    def __len__(self) -> int:
        """Windows in an epoch."""
        return len(self.windows)

    def batch(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> torch.Tensor:
        """The rows of one rank in step `step`: (batch_size / world, length + 1) packed bytes.

        batch_size counts the rows of all ranks. Raises ValueError when it does not divide over them.
        """
        rows = rows_of_rank(batch_size, rank, world)
        counter = step * batch_size + np.arange(rows.start, rows.stop)
        starts = self.windows.sample(counter, self.seed)
        is_reverse = np.zeros(len(starts), np.bool_)
        if self.reverse_complement:
            is_reverse = random_uniform(self.seed, STRAND_STREAM, counter) < 0.5
        return read_windows(self.genome, self.windows, starts, is_reverse)


def evaluation_batches(
    genome: Genome, windows: TiledWindows, batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[torch.Tensor]:
    """Every window once, in order, forward strand: (batch_size / world, length + 1) packed bytes a batch.

    The last batch is filled up with rows of N, which have no target, so that all ranks see equally many
    batches of one shape. Raises ValueError when batch_size does not divide over the ranks.
    """
    rows = rows_of_rank(batch_size, rank, world)
    for first in range(0, len(windows), batch_size):
        starts = windows.starts[first : first + batch_size][rows]
        batch = torch.full((rows.stop - rows.start, windows.length + 1), N, dtype=torch.uint8)
        batch[: len(starts)] = read_windows(genome, windows, starts, np.zeros(len(starts), np.bool_))
        yield batch


def read_windows(
    genome: Genome, windows: Windows, starts: Integers, is_reverse: npt.NDArray[np.bool_]
) -> torch.Tensor:
    """The windows at `starts` (rows,), or their other strand where `is_reverse` (rows,): (rows, length + 1).

    uint8, pinned where there is CUDA. A window whose extra base may not be read ends in N on either strand.
    """
    length, bases = windows.length, genome.bases
    batch = torch.empty(len(starts), length + 1, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    rows = batch.numpy()
    for row, start in zip(rows, starts.tolist(), strict=True):
        row[:] = bases[start : start + length + 1]
    lacks_extra = ~contains(windows.readable, starts + length)
    rows[lacks_extra, length] = N
    if is_reverse.any():
        rows[is_reverse] = COMPLEMENT.take(rows[is_reverse][:, ::-1])
        turned = is_reverse & lacks_extra
        rows[turned] = np.roll(rows[turned], -1, axis=1)
    return batch


def widen(batch: torch.Tensor, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets (rows, length) int64 on `device` of a batch (rows, length + 1) of packed bytes.

    Target t is the base after input t; anything but A, C, G, T is NOT_A_TARGET.
    """
    packed = batch.to(device, non_blocking=True)
    following = packed[:, 1:]
    targets = torch.index_select(_target_table(packed.device), 0, following.reshape(-1).int())
    return (packed[:, :-1] & TOKEN_BITS).long(), targets.view(following.shape)


@cache
def _target_table(device: torch.device) -> torch.Tensor:
    """(256,) int64 from a packed byte to a target: a table lookup is the fastest way to widen and to mask."""
    table = torch.full((256,), NOT_A_TARGET)
    for base in range(A, T + 1):
        table[[base, base | SOFT_MASK]] = base
    return table.to(device)


def target_repeats(batch: torch.Tensor) -> torch.Tensor:
    """Which targets (rows, length) of a batch (rows, length + 1) are soft-masked, as bool."""
    return batch[:, 1:] >= SOFT_MASK


def rows_of_rank(batch_size: int, rank: int, world: int) -> slice:
    """The rows of a global batch that one of `world` ranks has; ValueError when it does not divide."""
    if batch_size % world:
        raise ValueError(
            f"A batch of {batch_size} windows does not divide over {world} ranks: choose a multiple of them."
        )
    rows = batch_size // world
    return slice(rank * rows, (rank + 1) * rows)
