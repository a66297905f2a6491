"""Generate DNA from a pretrained model, as FASTA with the log-likelihood of each record.

    python -m pipelines.dna_generate checkpoint=runs/mine count=4 length=2000 sampling.temperature=0.9

Sequence k of a seed is the same whatever the count and the batch. Only A, C, G and T are drawn. The header's
log_likelihood is that of the bases under the model, in nats, before temperature and filters.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bio.vocabulary import A, T, decode, encode
from core.files import replaced_atomically
from core.generation import stream
from core.model import SequenceModel
from core.sampling import SamplingConfig
from core.training import joined_world
from pipelines.cli import command
from pipelines.config import parse_config
from pipelines.dna import trained_model

LINE = 60


@dataclass
class Config:
    checkpoint: str = field(metadata={"help": "a run folder (its latest checkpoint), or a checkpoint file"})
    output: str | None = field(
        default=None, metadata={"help": "FASTA file to write; null: generated.fa in the run folder"}
    )
    count: int = field(default=1, metadata={"help": "sequences"})
    length: int = field(default=1000, metadata={"help": "bases in a sequence, the prompt not counted"})
    prompt: str | None = field(
        default=None, metadata={"help": "DNA to continue; a record holds what follows it"}
    )
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = field(default=0, metadata={"help": "of the draws"})
    batch_size: int = field(default=64, metadata={"help": "sequences that are drawn at once"})

    def __post_init__(self) -> None:
        for name in ("count", "length", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_generate", __doc__ or "")
    output = generate(config)
    print(f"{config.count:,} sequence(s) of {config.length:,} bases are in {output}.")


def generate(config: Config) -> Path:
    """Write the sequences of a configuration and return their file, which is there whole or not at all."""
    checkpoint = Path(config.checkpoint)
    with joined_world() as world:
        model = trained_model(checkpoint, world.device)
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    output = Path(config.output) if config.output is not None else folder / "generated.fa"
    with replaced_atomically(output) as temporary, temporary.open("w", encoding="ascii") as file:
        file.writelines(records(model, config))
    return output


def records(model: SequenceModel, config: Config) -> Iterator[str]:
    """The FASTA records in order, each as text, with a progress bar on stderr."""
    prompt = None if config.prompt is None else torch.from_numpy(encode(config.prompt))
    bases = torch.arange(A, T + 1)
    with progress_bar(config.count * config.length) as bar:
        for first in range(0, config.count, config.batch_size):
            count = min(config.batch_size, config.count - first)
            steps = []
            for step in stream(
                model, count, config.length, prompt, config.sampling, config.seed, first, bases
            ):
                steps.append(step)
                bar.update(count)
            tokens = torch.stack([token for token, _ in steps], dim=1)
            nats = torch.stack([log.double() for _, log in steps], dim=1).sum(dim=1)
            for number, (row, log_likelihood) in enumerate(zip(tokens, nats, strict=True), first):
                yield fasta_record(number, row, float(log_likelihood), config)


def progress_bar(bases: int) -> tqdm:
    """A bar with the rate in bases a second; where stderr is a file, a line every ten seconds."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=bases, unit="base", unit_scale=True, dynamic_ncols=True, mininterval=interval)


def fasta_record(number: int, tokens: Tensor, log_likelihood: float, config: Config) -> str:
    """One record: a header with all that makes it again, then lines of 60 bases."""
    bits = -log_likelihood / math.log(2) / len(tokens)
    header = (
        f">sample_{number} length={len(tokens)} log_likelihood={log_likelihood:.3f} bits_per_base={bits:.4f} "
        f"seed={config.seed} temperature={config.sampling.temperature}"
    )
    text = decode(tokens.cpu().numpy())
    return "\n".join([header, *(text[start : start + LINE] for start in range(0, len(text), LINE)), ""])


if __name__ == "__main__":
    sys.exit(main())
