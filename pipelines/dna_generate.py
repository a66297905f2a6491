"""Generate DNA from a pretrained model, as FASTA with the log-likelihood of each record.

    python -m pipelines.dna_generate checkpoint=runs/mine count=4 length=2000 sampling.temperature=0.9
    python -m pipelines.dna_generate checkpoint=runs/mine length=1000000 output=- | gzip > sampled.fa.gz

Sequence k of a seed is the same for any count and batch size. Only A, C, G and T are sampled.

log_likelihood in the header is the log-likelihood of the bases under the model (nats), before temperature and
filters, over all symbols of the vocabulary. Without a prompt, the first base is uniform over the four and
costs nothing. Records on stdout have no log_likelihood, because their header comes first.

Memory does not grow with the length. The file appears when it is complete; after Ctrl-C or a kill, the same
command with resume=true continues with bit-identical output.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from bio.dna_model import load_model
from bio.genome.fasta_writer import FastaWriter, wrap_bases
from bio.genome.vocabulary import A, T, decode, encode
from core.decoding.sampling_run import SamplingTask, WriteTokens
from core.models.sequence import SequenceModel
from core.storage.atomic import replaced_atomically
from core.training import single_process_world
from pipelines.common.cli import command
from pipelines.common.config import parse_config
from pipelines.common.outputs import OVERWRITE, is_special, new_outputs
from pipelines.common.sampling import STDOUT, SamplingOptions, check_output, run_to_stdout, sampling_settings

MAX_NATS = 1000.0  # per base; sets the width of the header


@dataclass(frozen=True)
class Config(SamplingOptions):
    output: str | None = field(
        default=None,
        metadata={"help": "FASTA file to write, - for stdout; null: generated.fa"},
    )
    length: int = field(default=1000, metadata={"help": "length of each sequence without the prompt (bases)"})
    prompt: str | None = field(
        default=None, metadata={"help": "DNA to continue; a record holds only the continuation"}
    )
    overwrite: bool = field(default=False, metadata={"help": OVERWRITE})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise ValueError(f"length is {self.length}; it must be at least 1.")
        check_output(self.output, self.resume)

    @property
    def path(self) -> Path:
        """Output file; - for stdout."""
        return Path("generated.fa" if self.output is None else self.output)

    @property
    def files(self) -> list[Path]:
        """Output files, none for stdout."""
        return [] if self.output == STDOUT else [self.path]


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_generate", __doc__ or "")
    path = generate(config)
    if config.output != STDOUT:
        print(f"{config.count:,} sequence(s) of {config.length:,} bases are in {path}.")


def generate(config: Config) -> Path:
    """Write the sequences atomically and return their file."""
    with new_outputs(*config.files, overwrite=config.overwrite, resume=config.resume):
        return write_sequences(config)


def write_sequences(config: Config) -> Path:
    """Sample and write the sequences, after the check of the output."""
    if config.resume and config.path.exists() and not config.overwrite and not state_path(config).exists():
        raise FileExistsError(
            f"The output {config.path} already exists, and no interrupted run of it is left to resume. Give "
            "overwrite=true to replace it, or another output."
        )
    checkpoint = config.checkpoint_file
    world = single_process_world()
    model = load_model(checkpoint, world.device)
    prompt = None if config.prompt is None else torch.from_numpy(encode(config.prompt))
    if config.output == STDOUT:
        write_stream(model, config, prompt, sys.stdout)
    elif is_special(config.path):
        with config.path.open("w", encoding="ascii") as pipe:
            write_stream(model, config, prompt, pipe)
    else:
        settings = {"length": config.length, "prompt": config.prompt}
        write_file(model, config, prompt, sampling_settings(config, checkpoint, world.device) | settings)
    return config.path


def write_stream(model: SequenceModel, config: Config, prompt: Tensor | None, stream: TextIO) -> None:
    """Sample one sequence after the other to stdout, a pipe or a device."""
    write = pipe_writer(config, stream)
    run_to_stdout(replace(config, batch_size=1).sampling_run(model, task(config, prompt, write), None, None))


def write_file(model: SequenceModel, config: Config, prompt: Tensor | None, settings: dict[str, Any]) -> None:
    """Sample into `NAME.part`, and rename it when it is complete."""
    part = config.path.with_name(f"{config.path.name}.part")
    state = state_path(config)
    if not config.resume:
        state.unlink(missing_ok=True)
    if state.exists() and not part.exists():
        raise ValueError(f"{part} is missing, but {state} exists. Delete {state.name} to start again.")
    try:
        with FastaWriter(part, config.length, header_width(config), keep=state.exists()) as fasta:
            run = config.sampling_run(model, task(config, prompt, file_writer(fasta)), state, settings)
            run.run()
            for number, nats in enumerate(run.log_likelihood.tolist()):
                fasta.write_header(number, header(number, config, nats))
    except BaseException:
        if not state.exists():
            part.unlink(missing_ok=True)
        raise
    with replaced_atomically(config.path) as temporary:
        part.replace(temporary)
    state.unlink(missing_ok=True)


def state_path(config: Config) -> Path:
    """Return the file of the saved state of an interrupted run."""
    return config.path.with_name(f"{config.path.name}.state.safetensors")


def task(config: Config, prompt: Tensor | None, write: WriteTokens) -> SamplingTask:
    """Return the sampling task: bases after a prompt (prompt length,), if there is one."""
    return SamplingTask(config.length, "base", torch.arange(A, T + 1), lambda rows: prompt, write)


def file_writer(fasta: FastaWriter) -> WriteTokens:
    """Return a function that writes each sequence to its record."""

    def write(first: int, position: int, tokens: Tensor) -> None:
        for record, row in enumerate(tokens, first):
            fasta.write_bases(record, position, decode(row.numpy()))
        fasta.flush()

    return write


def pipe_writer(config: Config, stream: TextIO) -> WriteTokens:
    """Return a function that writes one sequence after the other to a stream."""

    def write(first: int, position: int, tokens: Tensor) -> None:
        before = header(first, config) if position == 0 else ""
        after = "\n" if position + tokens.shape[1] == config.length else ""
        stream.write(before + wrap_bases(decode(tokens[0].numpy()), position) + after)
        stream.flush()

    return write


def header(number: int, config: Config, nats: float | None = None) -> str:
    """Return the header of a record: the settings that reproduce it, and its log-likelihood if given."""
    likelihood = "" if nats is None else f" log_likelihood={nats:.3f} bits_per_base={bits(nats, config):.4f}"
    settings = f"seed={config.seed} temperature={config.sampling.temperature}"
    return f">sample_{number} length={config.length}{likelihood} {settings}"


def header_width(config: Config) -> int:
    """Return the number of characters that hold any header."""
    return len(header(config.count - 1, config, -MAX_NATS * config.length))


def bits(nats: float, config: Config) -> float:
    """Return bits per base of a sequence from its log-likelihood."""
    return -nats / math.log(2) / config.length


if __name__ == "__main__":
    sys.exit(main())
