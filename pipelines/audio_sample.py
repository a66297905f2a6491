"""Sample waveforms from a trained model: WAV files, and an index that ranks them by their likelihood.

    python -m pipelines.audio_sample checkpoint=runs/digits count=8 seconds=1 sampling.temperature=0.95
    python -m pipelines.audio_sample checkpoint=runs/digits prompt=beginning.wav seconds=10 output=whole.wav
    python -m pipelines.audio_sample checkpoint=runs/digits seconds=60 output=- | aplay -

Files grow while they are drawn, in constant memory, and are valid WAV at any moment. After Ctrl-C or a kill
the same command with resume=true continues to the same bits. Sample k of a seed is the same in any batch.
A prompt is any WAV, FLAC or OGG file; a sample holds it, as the model's codes have it, and what follows. The
log-likelihood is that of what follows, under the model, in nats, before temperature and filters.
"""

import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
import torch
from torch import Tensor

from audio.data.clips import SUFFIXES
from audio.data.quantizer import LEVELS, decode, encode
from audio.data.stream import LARGEST, piped_header, write_samples
from audio.data.waveform import as_pcm, read_waveform
from core.training import single_process_world
from pipelines.common.audio_data import AudioCheckpoint, trained_model
from pipelines.common.audio_index import Row, begin_output, ranked_rows, read_index, sample_files, write_index
from pipelines.common.cli import command
from pipelines.common.config import parse_config
from pipelines.common.sampling import (
    STDOUT,
    SamplingOptions,
    SamplingRun,
    Task,
    Write,
    check_output,
    draw_to_stdout,
    sampling_settings,
)


@dataclass(frozen=True)
class Config(SamplingOptions):
    output: str | None = field(
        default=None,
        metadata={
            "help": "a new folder for WAV files and samples.json; or one .wav; or - for a WAV to stdout; "
            "null: samples in the run folder"
        },
    )
    seconds: float = field(default=1.0, metadata={"help": "of sound in a sample, the prompt not counted"})
    prompt: str | None = field(
        default=None, metadata={"help": "an audio file to continue; one of another rate is converted"}
    )
    labels: list[str] = field(
        default_factory=list,
        metadata={"help": "classes of the samples, taken in turn; none: all that the model has"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds is {self.seconds}; it must be above 0 and finite.")
        suffix = self.path.suffix
        if suffix != ".wav" and suffix.lower() in (*SUFFIXES, ".mp3"):
            raise ValueError(f"output={self.output} is no folder and no WAV file: end its name in .wav.")
        if (self.output == STDOUT or suffix == ".wav") and self.count > 1:
            raise ValueError(f"output={self.output} takes one sample, but count is {self.count}.")
        check_output(self.output, self.resume)

    @property
    def path(self) -> Path:
        """The folder, or the one WAV file, that is written."""
        return self.run_folder / "samples" if self.output is None else Path(self.output)


class Request(NamedTuple):
    """What is drawn: samples of `length` behind the codes of a prompt (prompt length,) uint8.

    labels: the classes, taken in turn; [None] for a model without classes. settings: all of it, plain values.
    """

    model: AudioCheckpoint
    labels: Sequence[str | None]
    prompt: Tensor
    length: int
    settings: dict[str, Any]


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_sample", __doc__ or "")
    rows = generate(config)
    if config.output != STDOUT:
        best = rows[0]
        print(
            f"{config.path} holds {len(rows):,} clip(s) of {best['seconds']:g} s; the most likely is "
            f"{best['file']} with {best['bits_per_sample']:.4f} bits a sample."
        )


def generate(config: Config) -> list[Row]:
    """Draw as configured, and say on stderr how fast; the rows of the index, the most likely first.

    Raises ValueError and OSError for what cannot be read, drawn or written; files that are there stay valid.
    """
    request = read_request(config)
    return play(config, request) if config.output == STDOUT else write_files(config, request)


def read_request(config: Config) -> Request:
    """The model, the classes and the prompt of a configuration."""
    path = config.checkpoint_file
    world = single_process_world()
    model = trained_model(path, world.device)
    labels = chosen_labels(config.labels, model)
    prompt = torch.zeros(0, dtype=torch.uint8)
    if config.prompt is not None:
        prompt = prompt_codes(config.prompt, model)
    length = max(1, round(config.seconds * model.rate))
    settings = sampling_settings(config, path, world.device) | {
        "quantizer": model.quantizer,
        "rate": model.rate,
        "length": length,
        "labels": labels,
        "prompt": config.prompt,
        "prompt_length": len(prompt),
        "prompt_sha256": hashlib.sha256(prompt.numpy().tobytes()).hexdigest() if len(prompt) else None,
    }
    return Request(model, labels, prompt, length, settings)


def chosen_labels(asked: Sequence[str], model: AudioCheckpoint) -> list[str | None]:
    """The classes that are asked for, or all; [None] for a model without. ValueError for an unknown one."""
    labels: list[str | None] = [*(asked or model.classes)] or [None]
    for label in labels:
        model.first_symbol(label)
    return labels


def prompt_codes(file: str, model: AudioCheckpoint) -> Tensor:
    """The codes (length,) uint8 of a prompt; that it is converted, or very short, is said on stderr.

    Raises FileNotFoundError, and ValueError for what is not audio, or empty.
    """
    waveform = read_waveform(file)
    found = soundfile.info(file)
    if (found.samplerate, found.channels) != (model.rate, 1):
        print(
            f"The prompt {file} has {found.samplerate:,} samples a second and {found.channels} channel(s); "
            f"it is converted to {model.rate:,} and 1.",
            file=sys.stderr,
        )
    width = getattr(model.model.config, "d_conv", 1)  # not every kind of model has a convolution
    if len(waveform) < width:
        print(
            f"The prompt {file} has {len(waveform)} sample(s) at {model.rate:,} Hz, fewer than the {width} "
            "that the model's convolution reads: what follows hardly depends on it.",
            file=sys.stderr,
        )
    return encode(torch.from_numpy(waveform), model.quantizer)


def write_files(config: Config, request: Request) -> list[Row]:
    """Draw into WAV files, and write the index when all are complete."""
    if len(request.prompt) + request.length > LARGEST:
        raise ValueError(f"seconds is {config.seconds:g}, but a WAV file holds at most 37 hours.")
    files = sample_files(config.path, config.count)
    begin_output(config.path, files, config.resume)
    if files.index.exists() and not files.state.exists():
        rows = read_index(files.index, request.settings)
        if all(path.is_file() for path in files.samples):
            return rows
        files.index.unlink()  # what it lists is not all there, until it is drawn again
    drawing = task(request, file_writer(request, files.samples))
    run = SamplingRun(request.model.model, config, drawing, files.state, request.settings)
    try:
        run.draw()
    finally:
        report_speed(run, request)
    rows = rows_of(request, run, files.samples)
    write_index(files.index, request.settings, rows)
    files.state.unlink(missing_ok=True)
    return rows


def play(config: Config, request: Request) -> list[Row]:
    """Draw one sample to stdout, until it is complete or nobody listens any more."""
    drawing = task(request, pipe_writer(request))
    run = SamplingRun(request.model.model, config, drawing, None, request.settings)
    try:
        draw_to_stdout(run)
    finally:
        report_speed(run, request)
    return rows_of(request, run, [Path(STDOUT)])


def task(request: Request, write: Write) -> Task:
    """The drawing of a request: a sample begins with its class, or silence, and the prompt."""
    labels = request.labels

    def prompts(rows: range) -> Tensor:
        first = torch.tensor([request.model.first_symbol(labels[number % len(labels)]) for number in rows])
        return torch.cat([first[:, None], request.prompt.long().expand(len(rows), -1)], dim=1)

    return Task(request.length, "sample", torch.arange(LEVELS), prompts, write)


def file_writer(request: Request, files: Sequence[Path]) -> Write:
    """Writes each sample to its own WAV file, behind the prompt."""
    before = decode(request.prompt, request.model.quantizer).numpy()

    def write(first: int, position: int, tokens: Tensor) -> None:
        waveforms = decode(tokens, request.model.quantizer).numpy()
        for path, waveform in zip(files[first:], waveforms, strict=False):
            if position == 0:
                write_samples(path, 0, before)
            write_samples(path, len(before) + position, waveform)

    return write


def pipe_writer(request: Request) -> Write:
    """Writes one sample as a WAV of unknown length to stdout, behind the prompt."""

    def write(first: int, position: int, tokens: Tensor) -> None:
        codes = tokens[0]
        if position == 0:
            sys.stdout.buffer.write(piped_header())
            codes = torch.cat([request.prompt, codes])
        sys.stdout.buffer.write(as_pcm(decode(codes, request.model.quantizer).numpy()).tobytes())
        sys.stdout.buffer.flush()

    return write


def rows_of(request: Request, run: SamplingRun, files: Sequence[Path]) -> list[Row]:
    return ranked_rows(files, request.labels, run.log_likelihood, request.length, request.model.rate)


def report_speed(run: SamplingRun, request: Request) -> None:
    """Say on stderr how much sound took how long; the real-time factor is seconds of sound in a second."""
    sound = run.drawn / request.model.rate
    if run.drawn > 0:
        print(
            f"real-time factor {sound / run.seconds:.3g}: {sound:.2f} s of sound in {run.seconds:.2f} s, "
            f"{run.drawn / run.seconds:,.0f} samples a second",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
