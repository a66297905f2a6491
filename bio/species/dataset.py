"""Batches of species windows, one byte per base: by step for training, by index for evaluation.

Row i of step s depends on (seed, length, s, i) alone, and window i of an evaluation on i, never on workers,
ranks or earlier calls.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from bio.genome.vocabulary import A, Bytes, N, T, reverse_complement
from bio.species.windows import SpeciesWindows, Window
from bio.windows.dataset import LENGTH_STREAM, STRAND_STREAM, inputs_and_targets
from core.random import random_uniform, random_words

MUTATION_STREAM = 14


class SpeciesDataset:
    """Training batches of a split: dataset(step, rows) returns (inputs, targets) of these rows.

    batch_size: rows of the global batch. next_base: targets are the next bases, as in pretraining, instead of
    the class. reverse_complement: sample the strand of each window. mutation: per-base rate of random
    substitutions, different at each reading, against memorization.
    """

    def __init__(
        self,
        windows: SpeciesWindows,
        batch_size: int,
        seed: int = 0,
        reverse_complement: bool = True,
        mutation: float = 0.0,
        next_base: bool = False,
    ) -> None:
        if not 0 <= mutation < 1:
            raise ValueError(f"mutation is {mutation}; it must be at least 0 and less than 1.")
        self.windows = windows
        self.batch_size = batch_size
        self.seed = int(random_words(seed, LENGTH_STREAM, np.array([windows.length]))[0])
        self.reverse_complement = reverse_complement
        self.mutation = mutation
        self.next_base = next_base

    def __call__(self, step: int, rows: range) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs uint8 (rows, length) and targets int8 (rows, 1), the classes.

        With next_base the last base of a window is only a target: both are (rows, length - 1).
        """
        counter = step * self.batch_size + np.arange(rows.start, rows.stop, rows.step)
        windows = self.windows.sample(counter, self.seed)
        tokens = np.stack([self.windows.read(window) for window in windows])
        if self.reverse_complement:
            is_reversed = random_uniform(self.seed, STRAND_STREAM, counter) < 0.5
            tokens[is_reversed] = reverse_complement(tokens[is_reversed])
        if self.mutation:
            keys = random_words(self.seed, MUTATION_STREAM, counter)
            for row, key in zip(tokens, keys.tolist(), strict=True):
                _mutate(row, self.mutation, key)
        inputs = torch.from_numpy(tokens)
        if self.next_base:
            return inputs_and_targets(inputs)
        return inputs, torch.tensor([[window.label] for window in windows], dtype=torch.int8)


class WindowList(Dataset[torch.Tensor]):
    """Tokens (length,) uint8 of given windows, or of their first `length` bases, for a DataLoader."""

    def __init__(self, source: SpeciesWindows, windows: Sequence[Window], length: int | None = None) -> None:
        self.source, self.windows, self.length = source, windows, length

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.source.read(self.windows[index], self.length))


def _mutate(tokens: Bytes, rate: float, key: int) -> None:
    """Substitute random bases at a per-base rate in tokens (length,), in place; N stays N."""
    random = np.random.Generator(np.random.Philox(key=key))
    places = np.flatnonzero(random.random(len(tokens), np.float32) < rate)
    places = places[tokens[places] != N]
    tokens[places] = random.integers(A, T + 1, len(places), np.uint8)
