"""Batches of waveforms for training: codes of one byte, each the target of the codes before it.

The inputs are the codes shifted by one behind a first SILENCE, so that every sample of a window is a target
and nothing is known before the first. For a conditional model a symbol of the window's class, 256 + label,
takes the place of that SILENCE, and inputs are wider than a byte. Row i of step s depends on (seed, s, i)
alone.
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
    """The training batches of packed audio: dataset(step, rows) gives these rows of a step's global batch.

    Windows come in shuffled epochs. A batch is as wide as its longest window, whoever asks for which rows.
    conditional: whether a window begins with the symbol of its class.
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
        """Steps in an epoch, the last one included that runs into the next."""
        return -(-len(self.windows) // self.batch_size)

    def __call__(self, step: int, rows: range) -> tuple[Tensor, Tensor]:
        """Inputs and targets (rows, width) as read_padded gives them."""
        width = int(self.windows.lengths[self._chosen(step, range(self.batch_size))].max())
        return read_padded(self.audio, self.windows, self._chosen(step, rows), width, self.conditional)

    def packed(self, step: int, rows: range, frame: int = 1) -> Batch:
        """The same windows end to end, as read_packed gives them."""
        return read_packed(self.audio, self.windows, self._chosen(step, rows), frame, self.conditional)

    def padding_share(self, steps: int) -> float:
        """Which share of the first `steps` batches is padding."""
        widths = [self.windows.lengths[self._chosen(step, range(self.batch_size))] for step in range(steps)]
        computed = sum(int(lengths.max()) * self.batch_size for lengths in widths)
        return 1 - sum(int(lengths.sum()) for lengths in widths) / computed

    def labels(self, step: int, rows: range) -> Tensor:
        """The classes (rows,) int64 of the same windows; audio.data.clips.NO_LABEL where there are none."""
        return torch.from_numpy(self.windows.labels[self._chosen(step, rows)])

    def _chosen(self, step: int, rows: range) -> Integers:
        """Which windows (rows,) these rows are."""
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
    """Inputs and targets (batch_size, width) of the windows of one of `world` ranks, in order.

    The ranks together see every window once. Batches are filled up with rows that have no target, so that all
    ranks see equally many, of the same shapes.
    """
    for first in range(0, len(windows), batch_size * world):
        everyone = windows.lengths[first : first + batch_size * world]
        begin = first + rank * batch_size
        chosen = np.arange(begin, min(begin + batch_size, len(windows)))
        inputs, targets = read_padded(audio, windows, chosen, int(everyone.max()), conditional)
        missing = batch_size - len(chosen)
        yield (
            torch.nn.functional.pad(inputs, (0, 0, 0, missing), value=SILENCE),
            torch.nn.functional.pad(targets, (0, 0, 0, missing), value=IGNORED),
        )


def read_padded(
    audio: PackedAudio, windows: Windows, chosen: Integers, width: int, conditional: bool = False
) -> tuple[Tensor, Tensor]:
    """Inputs uint8 (conditional: int16) and targets int16 (rows, width) of the windows numbered `chosen`.

    Beyond the end of a window targets are IGNORED.
    """
    lengths = windows.lengths[chosen]
    codes = np.full((len(chosen), width), SILENCE, np.uint8)
    for row, start, length in zip(codes, windows.starts[chosen].tolist(), lengths.tolist(), strict=True):
        row[:length] = audio.codes[start : start + length]
    inputs, targets = inputs_and_targets(torch.from_numpy(codes))
    if conditional:
        inputs = inputs.short()
        inputs[:, 0] = class_symbols(windows, chosen)
    beyond = torch.arange(width) >= torch.from_numpy(lengths)[:, None]
    return inputs, targets.masked_fill(beyond, IGNORED)


def read_packed(
    audio: PackedAudio, windows: Windows, chosen: Integers, frame: int = 1, conditional: bool = False
) -> Batch:
    """The windows numbered `chosen` (rows,) end to end, for models that take `cu_seqlens`.

    Inputs uint8 (conditional: int16) and targets int16 (1, total); cu_seqlens (rows + 1,) int32, of multiples
    of `frame`: up to there targets are IGNORED beyond the end of a window.
    """
    starts, lengths = windows.starts[chosen], windows.lengths[chosen]
    bounds = np.concatenate([[0], np.cumsum(-(-lengths // frame) * frame)])
    codes = np.full(bounds[-1], SILENCE, np.uint8)
    is_real = np.zeros(bounds[-1], bool)
    for place, start, length in zip(bounds.tolist(), starts.tolist(), lengths.tolist(), strict=False):
        codes[place : place + length] = audio.codes[start : start + length]
        is_real[place : place + length] = True
    inputs, targets = inputs_and_targets(torch.from_numpy(codes)[None])
    if conditional:
        inputs = inputs.short()
    inputs[0, bounds[:-1]] = class_symbols(windows, chosen) if conditional else SILENCE
    targets = targets.masked_fill(torch.from_numpy(~is_real), IGNORED)
    return Batch(inputs, targets, torch.from_numpy(bounds.astype(np.int32)))


def inputs_and_targets(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs uint8 and targets int16 of whole windows of codes (rows, length), both of that shape."""
    return torch.nn.functional.pad(codes[:, :-1], (1, 0), value=SILENCE), codes.to(torch.int16)


def class_symbols(windows: Windows, chosen: Integers) -> Tensor:
    """The symbols (rows,) int16 of the classes of the windows numbered `chosen`: they follow the codes."""
    return torch.from_numpy(LEVELS + windows.labels[chosen]).short()
