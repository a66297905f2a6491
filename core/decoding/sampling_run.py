"""Long sampling runs: batches of samples, written in segments, with a state file for resuming.

Sample k of a seed is the same in any batch. Each segment of tokens is written and then dropped, so memory
does not grow with the length. A resumed run gives the same bits as an uninterrupted one.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from core.decoding.decoder import Decoder
from core.decoding.sampling import SamplingConfig
from core.decoding.sampling_state import SavedState, load_state, save_state
from core.decoding.state import Model
from core.training import TrainingConfig
from core.training.run_folder import HOW_TO_RESUME
from core.training.step import autocast
from core.training.stopping import StopRequest

OUT_OF_MEMORY = ("out of memory", "can't allocate memory")

# A segment takes between SHORT and LONG seconds on any machine: playback starts soon, and Ctrl-C acts soon.
SHORTEST_SEGMENT, FIRST_SEGMENT, LONGEST_SEGMENT = 16, 256, 4096  # tokens per sample
SHORT, LONG = 0.1, 0.4


class WriteTokens(Protocol):
    def __call__(self, first: int, position: int, tokens: Tensor) -> None:
        """Write tokens (rows, steps) uint8 of samples first, first + 1, ..., from `position` on.

        Tokens that a sample already has from `position` on are replaced.
        """


@dataclass(frozen=True)
class SamplingTask:
    """Samples of one length, and the function that writes their segments.

    length: tokens per sample, prompt excluded. unit: name of a token in the progress bar.
    allowed: (symbols,) int64, the tokens that may be sampled.
    prompts: returns the prompt of a range of samples, (prompt length,) or (rows, prompt length), or None.
    """

    length: int
    unit: str
    allowed: Tensor
    prompts: Callable[[range], Tensor | None]
    write: WriteTokens


class SamplingRun:
    """Sampling of a task, from the first sample or from a saved state.

    count: number of samples. sampling, seed: as in Decoder.
    batch_size: samples per batch; it is halved if a batch does not fit into memory.
    save_every: seconds between saved states.
    state_path: file of the saved state; None for a run that cannot be resumed.
    settings: plain values that determine the samples; a state with other settings is rejected.
    resume: continue the state in state_path if it exists.

    Attributes: `finished`, the number of complete samples; `log_likelihood` (count,) float64, nats of each
    sample so far; `seconds`, the time of this process in `run`.

    Raises ValueError for a damaged state or a state with other settings.
    """

    def __init__(
        self,
        model: Model,
        task: SamplingTask,
        count: int,
        sampling: SamplingConfig,
        seed: int,
        batch_size: int,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        save_every: float = 60.0,
        state_path: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.model, self.task = model, task
        self.count, self.sampling, self.seed = count, sampling, seed
        self.precision, self.save_every = precision, save_every
        self.state_path, self.settings = state_path, settings or {}
        saved = load_state(state_path, self.settings) if resume and state_path is not None else None
        if saved is None:
            saved = SavedState(0, 0, batch_size, torch.zeros(count, dtype=torch.float64), {})
        self.finished, self._position, self._batch_size, self.log_likelihood, self._decoder_state = saved
        self._earlier_tokens = self._total_tokens()
        self._saved_at = self.seconds = 0.0
        self._segment = FIRST_SEGMENT

    @property
    def tokens(self) -> int:
        """Number of tokens that this process sampled."""
        return self._total_tokens() - self._earlier_tokens

    def run(self) -> None:
        """Sample the remaining tokens, with a progress bar on stderr.

        After Ctrl-C or SIGTERM, finish the segment, save the state and raise KeyboardInterrupt. Raises
        ValueError if one sample does not fit into memory.
        """
        start = self._saved_at = time.perf_counter()
        precision = TrainingConfig(precision=self.precision)
        try:
            with (
                autocast(precision, self.model.embedding.weight.device),
                StopRequest() as stop,
                progress_bar(self.count * self.task.length, self._total_tokens(), self.task.unit) as bar,
            ):
                while self.finished < self.count:
                    if self._sample_batch(stop, bar):
                        self.finished, self._position = self._rows().stop, 0
                    else:
                        self._halve_batch(bar)
        finally:
            self.seconds = time.perf_counter() - start

    def _total_tokens(self) -> int:
        """Return the number of tokens so far, earlier processes included."""
        return self.finished * self.task.length + self._position * len(self._rows())

    def _rows(self) -> range:
        """Return the samples of the current batch."""
        return range(self.finished, min(self.finished + self._batch_size, self.count))

    def _sample_batch(self, stop: StopRequest, bar: tqdm) -> bool:
        """Sample the rest of the current batch; return False if it does not fit into memory."""
        try:
            self._sample_segments(self._new_decoder(), stop, bar)
        except RuntimeError as error:
            if not any(text in str(error) for text in OUT_OF_MEMORY):
                raise
            return False
        return True

    def _sample_segments(self, decoder: Decoder, stop: StopRequest, bar: tqdm) -> None:
        rows = self._rows()
        while self._position < self.task.length:
            start, steps = time.perf_counter(), min(self._segment, self.task.length - self._position)
            tokens, log_probability = decoder.advance(steps)
            self.task.write(rows.start, self._position, tokens.to(torch.uint8).cpu())
            # on the CPU the summation order of a row does not depend on the batch
            self.log_likelihood[rows.start : rows.stop] += log_probability.cpu().double().sum(dim=1)
            self._position += steps
            bar.update(steps * len(rows))
            self._segment = next_segment(self._segment, time.perf_counter() - start)
            if stop.is_requested or time.perf_counter() - self._saved_at >= self.save_every:
                self._save(decoder)
            if stop.is_requested and (self._position < self.task.length or rows.stop < self.count):
                bar.write(self._stop_message(), file=sys.stderr)
                raise KeyboardInterrupt

    def _new_decoder(self) -> Decoder:
        """Return a decoder of the current batch at its current position."""
        rows = self._rows()
        decoder = Decoder(self.model, len(rows), self.sampling, self.seed, rows.start, self.task.allowed)
        if self._position:
            decoder.load_state_dict(self._decoder_state)
        elif (prompt := self.task.prompts(rows)) is not None:
            decoder.prefill(prompt)
        self._decoder_state = {}
        return decoder

    def _save(self, decoder: Decoder) -> None:
        if self.state_path is not None:
            progress = self.finished, self._position, self._batch_size, self.log_likelihood
            save_state(self.state_path, self.settings, SavedState(*progress, decoder.state_dict()))
        self._saved_at = time.perf_counter()

    def _stop_message(self) -> str:
        rows = self._rows()
        text = (
            f"Stopped after {self._position:,} of {self.task.length:,} {self.task.unit}s in samples "
            f"{rows.start} to {rows.stop - 1} of {self.count:,}."
        )
        return text if self.state_path is None else f"{text} {HOW_TO_RESUME}"

    def _halve_batch(self, bar: tqdm) -> None:
        """Restart the current batch with half as many samples."""
        rows = self._rows()
        if len(rows) == 1:
            raise ValueError(
                "One sample does not fit into memory. Use a shorter prompt, or free memory of other programs."
            )
        bar.write(
            f"{len(rows)} samples at once do not fit into memory; continuing with {len(rows) // 2}.",
            file=sys.stderr,
        )
        bar.update(-self._position * len(rows))
        self.log_likelihood[rows.start : rows.stop] = 0
        self._position, self._batch_size, self._decoder_state = 0, len(rows) // 2, {}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def next_segment(segment: int, seconds: float) -> int:
    """Return the tokens of the next segment, given the seconds that the last one took."""
    if seconds < SHORT:
        return min(2 * segment, LONGEST_SEGMENT)
    return max(segment // 2, SHORTEST_SEGMENT) if seconds > LONG else segment


def progress_bar(total: int, done: int, unit: str) -> tqdm:
    """Return a bar with the rate in units per second; in a file it prints a line every ten seconds."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, initial=done, unit=unit, unit_scale=True, dynamic_ncols=True, mininterval=interval
    )
