"""Generate DNA from a pretrained model, as FASTA with the log-likelihood of each record.

    python -m pipelines.dna_generate checkpoint=runs/mine count=4 length=2000 sampling.temperature=0.9
    python -m pipelines.dna_generate checkpoint=runs/mine length=1000000 output=- | gzip > drawn.fa.gz

Sequence k of a seed is the same whatever the count and the batch. Only A, C, G and T are drawn. The header's
log_likelihood is that of the bases under the model, in nats, before temperature and filters, and among all
its symbols, not A, C, G and T alone; without a prompt the first base is any of the four, and costs nothing.
What goes to stdout has none there, because its header comes first. Memory does not grow with the length. The
file appears when it is whole; after Ctrl-C or a kill the same command with resume=true continues to the same
bits.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bio.genome.fasta_writer import FastaWriter, wrapped
from bio.genome.vocabulary import A, T, decode, encode
from core.models.sequence import SequenceModel
from core.storage.atomic import replaced_atomically
from core.training import single_process_world
from pipelines.common.cli import command
from pipelines.common.config import parse_config
from pipelines.common.dna import trained_model
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

MOST_NATS = 1000.0  # a base, for the room of its likelihood in the header


@dataclass(frozen=True)
class Config(SamplingOptions):
    output: str | None = field(
        default=None,
        metadata={"help": "FASTA file to write, or - for stdout; null: generated.fa in the run folder"},
    )
    length: int = field(default=1000, metadata={"help": "bases in a sequence, the prompt not counted"})
    prompt: str | None = field(
        default=None, metadata={"help": "DNA to continue; a record holds what follows it"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length < 1:
            raise ValueError(f"length is {self.length}; it must be at least 1.")
        check_output(self.output, self.resume)

    @property
    def path(self) -> Path:
        return self.run_folder / "generated.fa" if self.output is None else Path(self.output)


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_generate", __doc__ or "")
    path = generate(config)
    if config.output != STDOUT:
        print(f"{config.count:,} sequence(s) of {config.length:,} bases are in {path}.")


def generate(config: Config) -> Path:
    """Write the sequences of a configuration and return their file, which is there whole or not at all."""
    checkpoint = config.checkpoint_file
    world = single_process_world()
    model = trained_model(checkpoint, world.device)
    prompt = None if config.prompt is None else torch.from_numpy(encode(config.prompt))
    if config.output == STDOUT:
        one_by_one = replace(config, batch_size=1)
        draw_to_stdout(SamplingRun(model, one_by_one, task(config, prompt, pipe_writer(config)), None, None))
    else:
        settings = {"length": config.length, "prompt": config.prompt}
        write_file(model, config, prompt, sampling_settings(config, checkpoint, world.device) | settings)
    return config.path


def write_file(model: SequenceModel, config: Config, prompt: Tensor | None, settings: dict[str, Any]) -> None:
    """Draw into `NAME.part`, which gets its name when it is whole."""
    part = config.path.with_name(f"{config.path.name}.part")
    state = config.path.with_name(f"{config.path.name}.state.safetensors")
    if not config.resume:
        state.unlink(missing_ok=True)
    if state.exists() and not part.exists():
        raise ValueError(f"{part} is missing, which {state} continues: delete the latter to begin again.")
    try:
        with FastaWriter(part, config.length, header_width(config), keep=state.exists()) as fasta:
            run = SamplingRun(model, config, task(config, prompt, file_writer(fasta)), state, settings)
            run.draw()
            for number, nats in enumerate(run.log_likelihood.tolist()):
                fasta.write_header(number, header(number, config, nats))
    except BaseException:
        if not state.exists():
            part.unlink(missing_ok=True)
        raise
    with replaced_atomically(config.path) as temporary:
        part.replace(temporary)
    state.unlink(missing_ok=True)


def task(config: Config, prompt: Tensor | None, write: Write) -> Task:
    """The drawing of a configuration: bases behind a prompt (prompt length,), if there is one."""
    return Task(config.length, "base", torch.arange(A, T + 1), lambda rows: prompt, write)


def file_writer(fasta: FastaWriter) -> Write:
    """Writes each sequence to its record."""

    def write(first: int, position: int, tokens: Tensor) -> None:
        for record, row in enumerate(tokens, first):
            fasta.write_bases(record, position, decode(row.numpy()))
        fasta.flush()

    return write


def pipe_writer(config: Config) -> Write:
    """Writes one sequence after the other to stdout."""

    def write(first: int, position: int, tokens: Tensor) -> None:
        before = header(first, config) if position == 0 else ""
        after = "\n" if position + tokens.shape[1] == config.length else ""
        sys.stdout.write(before + wrapped(decode(tokens[0].numpy()), position) + after)
        sys.stdout.flush()

    return write


def header(number: int, config: Config, nats: float | None = None) -> str:
    """Of a record: all that makes it again, and its log-likelihood where it is known."""
    known = "" if nats is None else f" log_likelihood={nats:.3f} bits_per_base={bits(nats, config):.4f}"
    drawing = f"seed={config.seed} temperature={config.sampling.temperature}"
    return f">sample_{number} length={config.length}{known} {drawing}"


def header_width(config: Config) -> int:
    """Characters that hold the header of any record."""
    return len(header(config.count - 1, config, -MOST_NATS * config.length))


def bits(nats: float, config: Config) -> float:
    return -nats / math.log(2) / config.length


if __name__ == "__main__":
    sys.exit(main())
