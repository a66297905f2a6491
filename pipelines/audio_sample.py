"""Sample waveforms from a trained model: WAV files, and an index that ranks them by likelihood.

    python -m pipelines.audio_sample checkpoint=runs/digits count=8 seconds=1 sampling.temperature=0.95
    python -m pipelines.audio_sample checkpoint=runs/digits prompt=beginning.wav seconds=10 output=whole.wav
    python -m pipelines.audio_sample checkpoint=runs/digits seconds=60 output=- | aplay -

Files grow during sampling, in constant memory, and are valid WAV at any moment. After Ctrl-C or a kill, the
same command with resume=true continues with bit-identical output. Sample k of a seed is the same in any
batch. A prompt is any WAV, FLAC or OGG file; each output file starts with the quantized prompt. The
log-likelihood is that of the samples after the prompt, under the model, in nats, before temperature and
filters.
"""

import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from audio.data.clips import SUFFIXES
from audio.data.quantizer import LEVELS, decode, encode
from audio.data.sample_index import (
    Row,
    create_output,
    ranked_rows,
    read_index,
    sample_files,
    write_index,
)
from audio.data.waveform import LARGEST, as_pcm, read_recording, stream_header, write_samples
from audio.models import AudioCheckpoint, trained_model
from core.decoding.sampling_run import SamplingRun, SamplingTask, WriteTokens
from core.training import single_process_world
from pipelines.common.cli import command
from pipelines.common.config import parse_config
from pipelines.common.sampling import STDOUT, SamplingOptions, check_output, run_to_stdout, sampling_settings


@dataclass(frozen=True)
class Config(SamplingOptions):
    output: str | None = field(
        default=None,
        metadata={
            "help": "new folder for WAV files and samples.json, or one .wav file, or - for a WAV stream on "
            "stdout; null: samples in the run folder"
        },
    )
    seconds: float = field(default=1.0, metadata={"help": "length of a sample without the prompt (seconds)"})
    prompt: str | None = field(
        default=None, metadata={"help": "audio file to continue; other sample rates are converted"}
    )
    labels: list[str] = field(
        default_factory=list,
        metadata={"help": "classes of the samples, in turn; empty: all classes of the model"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds is {self.seconds}; it must be above 0 and finite.")
        suffix = self.path.suffix
        if suffix != ".wav" and suffix.lower() in (*SUFFIXES, ".mp3"):
            raise ValueError(
                f"output={self.output} is neither a folder nor a WAV file. Choose a name that ends in .wav."
            )
        if (self.output == STDOUT or suffix == ".wav") and self.count > 1:
            raise ValueError(f"output={self.output} takes one sample, but count is {self.count}.")
        check_output(self.output, self.resume)

    @property
    def path(self) -> Path:
        """Output folder, or output WAV file."""
        return self.run_folder / "samples" if self.output is None else Path(self.output)


class Request(NamedTuple):
    """Model and inputs of a sampling run.

    labels: classes of the samples, in turn; [None] for an unconditional model. prompt: codes (prompt length,)
    uint8. length: codes per sample after the prompt. settings: plain values that determine the samples.
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
            f"{config.path} holds {len(rows):,} clip(s) of {best['seconds']:g} s. The most likely is "
            f"{best['file']} with {best['bits_per_sample']:.4f} bits per sample."
        )


def generate(config: Config) -> list[Row]:
    """Sample as configured and return the rows of the index, the most likely first; report speed on stderr.

    Raises ValueError and OSError for invalid input or a failed disk; existing files stay valid.
    """
    request = read_request(config)
    return write_stream(config, request) if config.output == STDOUT else write_files(config, request)


def read_request(config: Config) -> Request:
    """Load the model, the classes and the prompt of a configuration."""
    path = config.checkpoint_file
    world = single_process_world()
    model = trained_model(path, world.device)
    labels = sample_labels(config.labels, model)
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


def sample_labels(names: Sequence[str], model: AudioCheckpoint) -> list[str | None]:
    """Return the given classes, or all of the model; [None] for an unconditional model.

    Raises ValueError for an unknown class.
    """
    labels: list[str | None] = [*(names or model.classes)] or [None]
    for label in labels:
        model.first_symbol(label)
    return labels


def prompt_codes(file: str, model: AudioCheckpoint) -> Tensor:
    """Return the codes (length,) uint8 of a prompt; warn on stderr about conversion or a very short prompt.

    Raises FileNotFoundError, and ValueError for a file that is empty or not audio.
    """
    waveform, rate, channels = read_recording(file)
    if (rate, channels) != (model.rate, 1):
        print(
            f"The prompt {file} has {rate:,} samples per second and {channels} channel(s); "
            f"it is converted to {model.rate:,} and 1.",
            file=sys.stderr,
        )
    width = getattr(model.model.config, "d_conv", 1)  # WaveNet and SampleRNN have no such key
    if len(waveform) < width:
        print(
            f"The prompt {file} has {len(waveform)} sample(s) at {model.rate:,} Hz, fewer than the {width} "
            "that the model's convolution reads. The continuation hardly depends on it.",
            file=sys.stderr,
        )
    return encode(torch.from_numpy(waveform), model.quantizer)


def write_files(config: Config, request: Request) -> list[Row]:
    """Sample into WAV files, and write the index when all are complete."""
    if len(request.prompt) + request.length > LARGEST:
        raise ValueError(f"seconds is {config.seconds:g}, but a WAV file holds at most 37 hours.")
    files = sample_files(config.path, config.count)
    create_output(config.path, files, config.resume)
    if files.index.exists() and not files.state.exists():
        rows = read_index(files.index, request.settings)
        if all(path.is_file() for path in files.samples):
            return rows
        files.index.unlink()  # it lists missing files, which are sampled again
    task = sampling_task(request, file_writer(request, files.samples))
    run = config.sampling_run(request.model.model, task, files.state, request.settings)
    try:
        run.run()
    finally:
        report_speed(run, request)
    rows = index_rows(request, run, files.samples)
    write_index(files.index, request.settings, rows)
    files.state.unlink(missing_ok=True)
    return rows


def write_stream(config: Config, request: Request) -> list[Row]:
    """Sample to stdout until the sample is complete or the reader closes the pipe."""
    task = sampling_task(request, stream_writer(request))
    run = config.sampling_run(request.model.model, task, None, request.settings)
    try:
        run_to_stdout(run)
    finally:
        report_speed(run, request)
    return index_rows(request, run, [Path(STDOUT)])


def sampling_task(request: Request, write: WriteTokens) -> SamplingTask:
    """Return the task of a request: each sample starts with its class, or silence, and the prompt."""
    labels = request.labels

    def prompts(rows: range) -> Tensor:
        first = torch.tensor([request.model.first_symbol(labels[number % len(labels)]) for number in rows])
        return torch.cat([first[:, None], request.prompt.long().expand(len(rows), -1)], dim=1)

    return SamplingTask(request.length, "sample", torch.arange(LEVELS), prompts, write)


def file_writer(request: Request, files: Sequence[Path]) -> WriteTokens:
    """Return a function that writes each sample to its own WAV file, after the prompt."""
    prompt = decode(request.prompt, request.model.quantizer).numpy()

    def write(first: int, position: int, tokens: Tensor) -> None:
        waveforms = decode(tokens, request.model.quantizer).numpy()
        for path, waveform in zip(files[first:], waveforms, strict=False):
            if position == 0:
                write_samples(path, 0, prompt)
            write_samples(path, len(prompt) + position, waveform)

    return write


def stream_writer(request: Request) -> WriteTokens:
    """Return a function that writes one sample to stdout as a WAV stream, after the prompt."""

    def write(first: int, position: int, tokens: Tensor) -> None:
        codes = tokens[0]
        if position == 0:
            sys.stdout.buffer.write(stream_header())
            codes = torch.cat([request.prompt, codes])
        sys.stdout.buffer.write(as_pcm(decode(codes, request.model.quantizer).numpy()).tobytes())
        sys.stdout.buffer.flush()

    return write


def index_rows(request: Request, run: SamplingRun, files: Sequence[Path]) -> list[Row]:
    """Return the index rows of a finished run."""
    return ranked_rows(files, request.labels, run.log_likelihood, request.length, request.model.rate)


def report_speed(run: SamplingRun, request: Request) -> None:
    """Print the real-time factor on stderr: seconds of audio per second of sampling."""
    audio_seconds = run.tokens / request.model.rate
    if run.tokens > 0:
        print(
            f"real-time factor {audio_seconds / run.seconds:.3g}: {audio_seconds:.2f} s of audio in "
            f"{run.seconds:.2f} s, {run.tokens / run.seconds:,.0f} samples per second",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
