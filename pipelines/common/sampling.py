"""Sampling in batches and pieces: what audio_sample and dna_generate share.

Sample k of a seed is the same in any batch. Tokens are handed on piece by piece, so that memory does not grow
with their number, and the state between two pieces is saved now and then: a run that was killed continues to
the same bits.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from core.checkpoints.checkpoint import resolve_checkpoint, run_folder_of
from core.decoding.decoder import Decoder
from core.decoding.sampling import SamplingConfig
from core.decoding.state import Model
from core.training import TrainingConfig
from core.training.run_folder import HOW_TO_RESUME
from core.training.step import autocast
from core.training.stopping import StopRequest
from pipelines.common.sampling_state import SavedState, load_state, save_state

STDOUT = "-"
NO_MEMORY = ("out of memory", "can't allocate memory")

# Tokens of a sample that are drawn before they are written: as many as take between SHORT and LONG seconds,
# so that a player gets its sound in time and Ctrl-C is heard soon, on a fast machine and on a slow one.
SHORTEST_PIECE, FIRST_PIECE, LONGEST_PIECE = 16, 256, 4096
SHORT, LONG = 0.1, 0.4


@dataclass(frozen=True)
class SamplingOptions:
    """What every sampling pipeline can be told."""

    checkpoint: str = field(metadata={"help": "a run folder (its latest checkpoint), or a checkpoint file"})
    count: int = field(default=1, metadata={"help": "samples to draw"})
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = field(default=0, metadata={"help": "of the draws; sample k of a seed is always the same"})
    batch_size: int = field(
        default=128, metadata={"help": "samples that are drawn at once; halved where they do not fit"}
    )
    precision: Literal["auto", "fp32", "bf16"] = field(
        default="auto", metadata={"help": "of matrix products; auto: bf16 on a GPU, fp32 on a CPU"}
    )
    save_every: float = field(
        default=60.0, metadata={"help": "seconds after which the state is saved, to be resumed from"}
    )
    resume: bool = field(
        default=False, metadata={"help": "continue what an interrupted or killed run has begun"}
    )

    def __post_init__(self) -> None:
        for name in ("count", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.save_every >= 0:
            raise ValueError(f"save_every is {self.save_every}; it must be at least 0.")

    @property
    def run_folder(self) -> Path:
        """Where results go that are not told where to go."""
        return run_folder_of(Path(self.checkpoint))

    @property
    def checkpoint_file(self) -> Path:
        """The checkpoint itself. Raises CheckpointError for a folder that holds none."""
        checkpoint = Path(self.checkpoint)
        return resolve_checkpoint(checkpoint)


def check_output(output: str | None, resume: bool) -> None:
    """Raise ValueError where what is to be resumed went to stdout."""
    if output == STDOUT and resume:
        raise ValueError("What went to stdout cannot be resumed: name a file as output.")


class Write(Protocol):
    def __call__(self, first: int, position: int, tokens: Tensor) -> None:
        """Keep tokens (rows, steps) uint8 of samples first, first + 1, ...: theirs from `position` on.

        What a sample had from there on before is replaced.
        """


@dataclass(frozen=True)
class Task:
    """What is drawn: `length` tokens a sample, of `unit`, written in pieces of at most LONGEST_PIECE.

    allowed: (symbols,) int64. prompts: what the samples numbered so begin with, (prompt length,) or (rows,
    prompt length), or None.
    """

    length: int
    unit: str
    allowed: Tensor
    prompts: Callable[[range], Tensor | None]
    write: Write


class SamplingRun:
    """Draws the samples of a task, from the first or from a saved state on.

    state_path: where the state is saved; None for a run that cannot be resumed.
    settings: all that the samples depend on, plain values; a state of other settings is refused.

    `finished` samples are complete; `log_likelihood` (count,) float64 holds the nats of each, so far.
    `drawn` tokens took `seconds` in this process.

    Raises ValueError for a state of other settings, or a damaged one.
    """

    def __init__(
        self, model: Model, options: SamplingOptions, task: Task, state_path: Path | None, settings: Any
    ) -> None:
        self.model, self.options, self.task = model, options, task
        self.state_path, self.settings = state_path, settings
        nothing = SavedState(0, 0, options.batch_size, torch.zeros(options.count, dtype=torch.float64), {})
        saved = load_state(state_path, settings) if options.resume and state_path is not None else None
        self.finished, self._position, self._batch_size, self.log_likelihood, self._decoder = saved or nothing
        self._tokens_before = self._tokens()
        self._saved_at = self.seconds = 0.0
        self._piece = FIRST_PIECE

    @property
    def drawn(self) -> int:
        return self._tokens() - self._tokens_before

    def draw(self) -> None:
        """Draw what is left, with a bar on stderr.

        At Ctrl-C or SIGTERM the piece is finished, the state saved and KeyboardInterrupt raised. Raises
        ValueError where not even one sample fits into the memory.
        """
        began = self._saved_at = time.perf_counter()
        total = self.options.count * self.task.length
        precision = TrainingConfig(precision=self.options.precision)
        try:
            with (
                autocast(precision, self.model.embedding.weight.device),
                StopRequest() as stop,
                progress_bar(total, self._tokens(), self.task.unit) as bar,
            ):
                while self.finished < self.options.count:
                    if self._draw_batch(stop, bar):
                        self.finished, self._position = self._rows().stop, 0
                    else:
                        self._halve(bar)
        finally:
            self.seconds = time.perf_counter() - began

    def _tokens(self) -> int:
        """Tokens that are drawn, by earlier processes too."""
        return self.finished * self.task.length + self._position * len(self._rows())

    def _rows(self) -> range:
        """The samples of the present batch."""
        return range(self.finished, min(self.finished + self._batch_size, self.options.count))

    def _draw_batch(self, stop: StopRequest, bar: tqdm) -> bool:
        """Draw what is left of the present batch; False if it does not fit into the memory."""
        try:
            decoder = self._begun()
            self._draw_pieces(decoder, stop, bar)
        except RuntimeError as error:
            if not any(text in str(error) for text in NO_MEMORY):
                raise
            return False
        return True

    def _draw_pieces(self, decoder: Decoder, stop: StopRequest, bar: tqdm) -> None:
        rows = self._rows()
        while self._position < self.task.length:
            began, steps = time.perf_counter(), min(self._piece, self.task.length - self._position)
            tokens, log_probability = decoder.advance(steps)
            self.task.write(rows.start, self._position, tokens.to(torch.uint8).cpu())
            # summed on the CPU, where the order of a row's sum does not depend on the batch
            self.log_likelihood[rows.start : rows.stop] += log_probability.cpu().double().sum(dim=1)
            self._position += steps
            bar.update(steps * len(rows))
            self._piece = next_piece(self._piece, time.perf_counter() - began)
            if stop.is_requested or time.perf_counter() - self._saved_at >= self.options.save_every:
                self._save(decoder)
            if stop.is_requested and (self._position < self.task.length or rows.stop < self.options.count):
                bar.write(self._where_it_stopped(), file=sys.stderr)
                raise KeyboardInterrupt

    def _begun(self) -> Decoder:
        """A decoder that stands at the present position of the batch."""
        rows, options = self._rows(), self.options
        decoder = Decoder(
            self.model, len(rows), options.sampling, options.seed, rows.start, self.task.allowed
        )
        if self._position:
            decoder.load_state_dict(self._decoder)
        elif (prompt := self.task.prompts(rows)) is not None:
            decoder.prefill(prompt)
        self._decoder = {}
        return decoder

    def _save(self, decoder: Decoder) -> None:
        if self.state_path is not None:
            present = self.finished, self._position, self._batch_size, self.log_likelihood
            save_state(self.state_path, self.settings, SavedState(*present, decoder.state_dict()))
        self._saved_at = time.perf_counter()

    def _where_it_stopped(self) -> str:
        rows = self._rows()
        text = (
            f"Stopped after {self._position:,} of {self.task.length:,} {self.task.unit}s in samples "
            f"{rows.start} to {rows.stop - 1} of {self.options.count:,}."
        )
        return text if self.state_path is None else f"{text} {HOW_TO_RESUME}"

    def _halve(self, bar: tqdm) -> None:
        """Begin the present batch again with half as many samples."""
        rows = self._rows()
        if len(rows) == 1:
            raise ValueError(
                "Not even one sample fits into the memory: give a shorter prompt, or stop what else uses it."
            )
        bar.write(
            f"{len(rows)} samples at once do not fit into the memory; going on with {len(rows) // 2}.",
            file=sys.stderr,
        )
        bar.update(-self._position * len(rows))
        self.log_likelihood[rows.start : rows.stop] = 0
        self._position, self._batch_size, self._decoder = 0, len(rows) // 2, {}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def next_piece(piece: int, seconds: float) -> int:
    """How many tokens to draw at once after a piece that took so long."""
    if seconds < SHORT:
        return min(2 * piece, LONGEST_PIECE)
    return max(piece // 2, SHORTEST_PIECE) if seconds > LONG else piece


def draw_to_stdout(run: SamplingRun) -> None:
    """Draw until all is complete, or nobody reads any more."""
    try:
        run.draw()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more


def sampling_settings(options: SamplingOptions, checkpoint: Path, device: torch.device) -> dict[str, Any]:
    """What all samples depend on, as plain values: those of another device have other roundings."""
    return {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": file_sha256(checkpoint),
        "device": device.type,
        "precision": options.precision,
        "count": options.count,
        "seed": options.seed,
        "sampling": asdict(options.sampling),
    }


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def progress_bar(total: int, done: int, unit: str) -> tqdm:
    """A bar with the rate in units a second; where stderr is a file, a line every ten seconds."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, initial=done, unit=unit, unit_scale=True, dynamic_ncols=True, mininterval=interval
    )
