"""Batches of waveforms for training and evaluation: inputs are codes, targets the next codes.

Inputs are the codes after a first SILENCE, so every sample of a window is a target. For a conditional model
the symbol of the window's class, 256 + label, replaces SILENCE, and inputs are int16. Row i of step s depends
on (seed, s, i) alone.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from audio.data.pack import PackedAudio
from audio.data.quantizer import LEVELS, SILENCE
from audio.data.windows import Windows
from core.random import Integers, shuffled
from core.training import IGNORED, Batch

ORDER_STREAM = 1


class AudioDataset:
    """Training batches of packed audio: dataset(step, rows) returns these rows of the step's global batch.

    Windows come in shuffled epochs. Every rank pads its rows to the longest window of the global batch.
    conditional: start each window with the symbol of its class.
    """

    def __init__(
        self,
        audio: PackedAudio,
        windows: Windows,
        batch_size: int,
        seed: int = 0,
        conditional: bool = False,
    ) -> None:
        self.audio = audio
        self.windows = windows
        self.batch_size = batch_size
        self.seed = seed
        self.conditional = conditional

    def __len__(self) -> int:
        """Number of steps per epoch, including a last step that reaches into the next epoch."""
        return -(-len(self.windows) // self.batch_size)

    def __call__(self, step: int, rows: range) -> tuple[Tensor, Tensor]:
        """Return padded inputs and targets (rows, width), as from read_padded."""
        width = int(self.windows.lengths[self._indices(step, range(self.batch_size))].max())
        return read_padded(self.audio, self.windows, self._indices(step, rows), width, self.conditional)

    def packed(self, step: int, rows: range, frame: int = 1) -> Batch:
        """Return the same windows concatenated, as from read_packed."""
        return read_packed(self.audio, self.windows, self._indices(step, rows), frame, self.conditional)

    def padding_share(self, steps: int) -> float:
        """Return the share of padding in the first `steps` batches."""
        widths = [self.windows.lengths[self._indices(step, range(self.batch_size))] for step in range(steps)]
        computed = sum(int(lengths.max()) * self.batch_size for lengths in widths)
        return 1 - sum(int(lengths.sum()) for lengths in widths) / computed

    def labels(self, step: int, rows: range) -> Tensor:
        """Return the classes (rows,) int64 of the same windows; NO_LABEL without classes."""
        return torch.from_numpy(self.windows.labels[self._indices(step, rows)])

    def _indices(self, step: int, rows: range) -> Integers:
        """Return the indices (rows,) of the windows of these rows."""
        counter = step * self.batch_size + np.arange(rows.start, rows.stop, rows.step)
        return shuffled(counter, len(self.windows), self.seed, ORDER_STREAM)


def evaluation_batches(
    audio: PackedAudio,
    windows: Windows,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    conditional: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets (batch_size, width) of the windows of one rank, in order.

    Each window belongs to one rank of `world`. The last batches are filled with rows without targets, so all
    ranks have the same number of batches with the same shapes.
    """
    for first in range(0, len(windows), batch_size * world):
        global_lengths = windows.lengths[first : first + batch_size * world]
        begin = first + rank * batch_size
        index = np.arange(begin, min(begin + batch_size, len(windows)))
        inputs, targets = read_padded(audio, windows, index, int(global_lengths.max()), conditional)
        missing = batch_size - len(index)
        yield (
            torch.nn.functional.pad(inputs, (0, 0, 0, missing), value=SILENCE),
            torch.nn.functional.pad(targets, (0, 0, 0, missing), value=IGNORED),
        )


def read_padded(
    audio: PackedAudio, windows: Windows, index: Integers, width: int, conditional: bool = False
) -> tuple[Tensor, Tensor]:
    """Return padded inputs and targets (rows, width) of the windows `index` (rows,).

    Inputs are uint8 (conditional: int16), targets int16. Targets after the end of a window are IGNORED.
    """
    lengths = windows.lengths[index]
    codes = np.full((len(index), width), SILENCE, np.uint8)
    for row, start, length in zip(codes, windows.starts[index].tolist(), lengths.tolist(), strict=True):
        row[:length] = audio.codes[start : start + length]
    inputs, targets = inputs_and_targets(torch.from_numpy(codes))
    if conditional:
        inputs = inputs.short()
        inputs[:, 0] = class_symbols(windows, index)
    is_padding = torch.arange(width) >= torch.from_numpy(lengths)[:, None]
    return inputs, targets.masked_fill(is_padding, IGNORED)


def read_packed(
    audio: PackedAudio, windows: Windows, index: Integers, frame: int = 1, conditional: bool = False
) -> Batch:
    """Return the windows `index` (rows,) concatenated, for models with `cu_seqlens`.

    Inputs are uint8 (conditional: int16) and targets int16, (1, total). cu_seqlens (rows + 1,) int32 has
    multiples of `frame`; targets between the end of a window and the next multiple are IGNORED.
    """
    starts, lengths = windows.starts[index], windows.lengths[index]
    bounds = np.concatenate([[0], np.cumsum(-(-lengths // frame) * frame)])
    codes = np.full(bounds[-1], SILENCE, np.uint8)
    is_real = np.zeros(bounds[-1], bool)
    for place, start, length in zip(bounds.tolist(), starts.tolist(), lengths.tolist(), strict=False):
        codes[place : place + length] = audio.codes[start : start + length]
        is_real[place : place + length] = True
    inputs, targets = inputs_and_targets(torch.from_numpy(codes)[None])
    if conditional:
        inputs = inputs.short()
    inputs[0, bounds[:-1]] = class_symbols(windows, index) if conditional else SILENCE
    targets = targets.masked_fill(torch.from_numpy(~is_real), IGNORED)
    return Batch(inputs, targets, torch.from_numpy(bounds.astype(np.int32)))


def inputs_and_targets(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return inputs uint8 and targets int16 for codes (rows, length), in the same shape."""
    return torch.nn.functional.pad(codes[:, :-1], (1, 0), value=SILENCE), codes.to(torch.int16)


def class_symbols(windows: Windows, index: Integers) -> Tensor:
    """Return the class symbols (rows,) int16 of the windows `index` (rows,)."""
    return torch.from_numpy(LEVELS + windows.labels[index]).short()
