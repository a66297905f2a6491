"""Batches of windows with one byte per base, widened on the device.

A batch of windows is packed bytes (bio.genome.vocabulary), (rows, length + 1) uint8; it holds inputs, targets
and the repeat mask together. Row i of step s depends only on (seed, length, s, i).
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
    """Training batches of a genome: dataset(step, rows) returns these rows of the global batch of a step.

    batch_size: rows of the global batch. reverse_complement: sample the strand of each window.
    The random streams of two lengths differ, so the stages of a length warm-up read different windows.
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
        """Return the number of steps per epoch, including a last step that continues in the next epoch."""
        return -(-len(self.windows) // self.batch_size)

    def __call__(self, step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs uint8 and targets int8 (rows, length); a position without target is NOT_A_TARGET."""
        return inputs_and_targets(self.packed(step, rows))

    def packed(self, step: int, rows: range) -> torch.Tensor:
        """Return the same rows as packed bytes (rows, length + 1)."""
        counter = step * self.batch_size + np.arange(rows.start, rows.stop, rows.step)
        starts = self.windows.sample(counter, self.seed)
        is_reverse = np.zeros(len(starts), np.bool_)
        if self.reverse_complement:
            is_reverse = random_uniform(self.seed, STRAND_STREAM, counter) < 0.5
        return read_windows(self.genome, self.windows, starts, is_reverse)


def evaluation_batches(
    genome: Genome, windows: TiledWindows, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[torch.Tensor]:
    """Yield the windows of one rank in order, forward strand, as packed bytes (batch_size, length + 1).

    Together the ranks read every window once. Batches are padded with rows of N, which have no target, so
    every rank yields the same number of batches of one shape.
    """
    for first in range(0, len(windows), batch_size * world_size):
        begin = first + rank * batch_size
        starts = windows.starts[begin : begin + batch_size]
        batch = torch.full((batch_size, windows.length + 1), N, dtype=torch.uint8)
        batch[: len(starts)] = read_windows(genome, windows, starts, np.zeros(len(starts), np.bool_))
        yield batch


def read_windows(
    genome: Genome, windows: Windows, starts: Integers, is_reverse: npt.NDArray[np.bool_]
) -> torch.Tensor:
    """Read the windows at `starts` (rows,), reverse complemented where `is_reverse` (rows,) is True.

    Returns packed bytes (rows, length + 1) uint8. The last base of a row is N if the extra base of its window
    is not readable, on either strand.
    """
    length, bases = windows.length, genome.bases
    rows = np.empty((len(starts), length + 1), np.uint8)
    for row, start in zip(rows, starts.tolist(), strict=True):
        row[:] = bases[start : start + length + 1]
    lacks_extra = ~contains(windows.readable, starts + length)
    rows[lacks_extra, length] = N
    if is_reverse.any():
        rows[is_reverse] = COMPLEMENT.take(rows[is_reverse][:, ::-1])
        begins_with_n = is_reverse & lacks_extra
        rows[begins_with_n] = np.roll(rows[begins_with_n], -1, axis=1)
    return torch.from_numpy(rows)


def inputs_and_targets(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs uint8 and targets int8 (rows, length) of packed bytes (rows, length + 1), on any device.

    Target t is the base after input t; any byte other than A, C, G, T becomes NOT_A_TARGET.
    """
    following = packed[:, 1:]
    targets = torch.index_select(_target_table(packed.device), 0, following.reshape(-1).int())
    return packed[:, :-1] & TOKEN_BITS, targets.view(following.shape)


def target_repeats(packed: torch.Tensor) -> torch.Tensor:
    """Return the soft mask (rows, length) of the targets of packed bytes (rows, length + 1), as bool."""
    return packed[:, 1:] >= SOFT_MASK


@cache
def _target_table(device: torch.device) -> torch.Tensor:
    """Return a table (256,) int8 from packed byte to target; a table lookup is the fastest mask."""
    table = torch.full((256,), NOT_A_TARGET, dtype=torch.int8)
    for base in range(A, T + 1):
        table[[base, base | SOFT_MASK]] = base
    return table.to(device)
