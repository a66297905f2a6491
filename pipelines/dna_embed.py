"""Embed records, windows or intervals of DNA with a trained Mamba, as vectors and as a plot.

    python -m pipelines.dna_embed checkpoint=runs/mine fasta=[genome.fa.gz] window=10000
    python -m pipelines.dna_embed checkpoint=runs/mine fasta=[human.fa,mouse.fa,dog.fa] window=1024
    python -m pipelines.dna_embed checkpoint=runs/mine fasta=[genome.fa.gz] bed=exons.bed per_base=true

The checkpoint comes from dna_pretrain or dna_classify. The .npy has one row per interval (float32), or one
per base with per_base=true. A .tsv of the same name lists the rows of each interval. A .png of the same name
plots the first two principal components, coloured by FASTA, interval name or record.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

from bio.dna_model import load_model
from bio.genome.genome import Genome, open_genome
from bio.genome.interval import Interval, read_intervals, record_intervals
from bio.species.classifier import load_classifier
from bio.species.plots import draw_components
from core.checkpoints.checkpoint import read_header
from core.models.classifier import CHUNK_TOKENS, hidden_chunks, pooled_hidden
from core.models.sequence import SequenceModel
from core.storage.atomic import replaced_atomically
from core.training import TrainingConfig, single_process_world
from core.training.step import autocast
from pipelines.common.checkpoints import CHECKPOINT, chosen_checkpoint
from pipelines.common.cli import command
from pipelines.common.config import parse_config
from pipelines.common.outputs import OVERWRITE, is_special, new_outputs

MAX_GROUPS, OTHERS = 9, "others"


@dataclass(frozen=True)
class Config:
    checkpoint: str = field(metadata={"help": CHECKPOINT})
    fasta: list[str] = field(metadata={"help": "FASTA files, plain, gzip or bgzip; packed on first use"})
    bed: str | None = field(
        default=None, metadata={"help": "BED file of the intervals to embed; needs a single FASTA"}
    )
    window: int | None = field(
        default=None,
        metadata={"help": "window length (bases) to cut intervals into; null: whole intervals"},
    )
    per_base: bool = field(default=False, metadata={"help": "one vector per base instead of per interval"})
    pooling: Literal["mean", "last"] = field(
        default="mean", metadata={"help": "vector of an interval: mean over its bases, or the last base"}
    )
    output: str = field(default="embeddings.npy", metadata={"help": ".npy file to write"})
    overwrite: bool = field(default=False, metadata={"help": OVERWRITE})
    precision: Literal["auto", "fp32", "bf16"] = field(
        default="auto", metadata={"help": "precision of matrix products; auto: bf16 on a GPU, fp32 on a CPU"}
    )

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1, or null.")
        if not self.fasta:
            raise ValueError("fasta is empty; give one file or more: fasta=[genome.fa].")
        if self.bed is not None and len(self.fasta) > 1:
            raise ValueError(f"bed needs a single FASTA, but fasta has {len(self.fasta)}. Give one.")
        if Path(self.output).suffix != ".npy":
            raise ValueError(f"output is {self.output}; its name must end in .npy.")
        if is_special(Path(self.output)):
            raise ValueError(f"output {self.output} is a device or a pipe. Embeddings need a regular file.")


class GenomeInterval(NamedTuple):
    """An interval of one of the genomes."""

    genome: Genome
    interval: Interval

    @property
    def length(self) -> int:
        """Number of bases."""
        return self.interval.end - self.interval.start


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_embed", __doc__ or "")
    shape = embed(config)
    print(
        f"{shape[0]:,} vectors of {shape[1]:,} numbers are in {config.output}, their intervals in the .tsv."
    )


def embed(config: Config) -> tuple[int, int]:
    """Write the vectors, their index and the plot, each atomically; return the shape of the vectors."""
    output = Path(config.output)
    files = [output, output.with_suffix(".tsv"), *([] if config.per_base else [output.with_suffix(".png")])]
    with new_outputs(*files, overwrite=config.overwrite):
        return write_embeddings(config, output)


def write_embeddings(config: Config, output: Path) -> tuple[int, int]:
    """Write the files after the check of the outputs; return the shape of the vectors."""
    world = single_process_world()
    backbone = load_backbone(chosen_checkpoint(config.checkpoint), world.device)
    parts = select_parts(config)
    rows = [part.length if config.per_base else 1 for part in parts]
    shape = (sum(rows), backbone.config.d_model)
    with ExitStack() as files:
        vectors = files.enter_context(replaced_atomically(output))
        index = files.enter_context(replaced_atomically(output.with_suffix(".tsv")))
        stored = np.lib.format.open_memmap(vectors, "w+", np.float32, shape)
        with autocast(TrainingConfig(precision=config.precision), world.device):
            fill(stored, config, backbone, parts)
        stored.flush()
        index.write_text(index_text(config, parts, rows), encoding="utf-8")
        if not config.per_base and len(parts) > 2:
            draw_components(components(stored), groups(config, parts), output.with_suffix(".png"))
    return shape


def load_backbone(path: Path, device: torch.device) -> SequenceModel:
    """Load the backbone of a classifier, or a pretrained model; CheckpointError for any other checkpoint."""
    if "head" in read_header(path).config:
        return load_classifier(path, device).model.backbone
    return load_model(path, device)


def select_parts(config: Config) -> list[GenomeInterval]:
    """Return the intervals of the BED, or all records, whole or in windows; rests below a window are dropped.

    Raises ValueError if no interval is as long as a window.
    """
    genomes = [open_genome(fasta) for fasta in config.fasta]
    whole = [
        GenomeInterval(genome, interval)
        for genome in genomes
        for interval in (
            record_intervals(genome) if config.bed is None else read_intervals(config.bed, genome)
        )
    ]
    if config.window is None:
        return whole
    parts = [
        GenomeInterval(genome, window)
        for genome, interval in whole
        for window in _windows(interval, config.window)
    ]
    if not parts:
        longest = max(part.length for part in whole)
        raise ValueError(
            f"No interval holds a window of {config.window:,} bases: the longest has {longest:,}. Choose a "
            "shorter window."
        )
    return parts


def fill(
    stored: npt.NDArray[np.float32], config: Config, backbone: SequenceModel, parts: Sequence[GenomeInterval]
) -> None:
    """Write the vectors of all intervals into `stored` (rows, d_model), in order, with a progress bar."""
    row = 0
    bases = sum(part.length for part in parts)
    with torch.no_grad(), tqdm(total=bases, unit="base", unit_scale=True, dynamic_ncols=True) as bar:
        for batch in batches(parts):
            tokens = torch.from_numpy(
                np.stack([part.genome.tokens(*part.interval[:3]) for part in batch])
            ).to(backbone.embedding.weight.device)
            for vectors in embed_tokens(config, backbone, tokens):
                stored[row : row + len(vectors)] = vectors.float().cpu().numpy()
                row += len(vectors)
            bar.update(tokens.numel())


def embed_tokens(config: Config, backbone: SequenceModel, tokens: Tensor) -> Iterator[Tensor]:
    """Yield the vectors (rows, d_model) of tokens (batch, length), in order and in chunks."""
    if not config.per_base:
        yield pooled_hidden(backbone, tokens, config.pooling)
        return
    for sequence in tokens:
        for chunk in hidden_chunks(backbone, sequence[None]):
            yield chunk[0]


def batches(parts: Sequence[GenomeInterval]) -> Iterator[Sequence[GenomeInterval]]:
    """Yield batches of consecutive intervals of one length, of at most CHUNK_TOKENS bases."""
    for length, group in itertools.groupby(parts, lambda part: part.length):
        members = list(group)
        rows = max(1, CHUNK_TOKENS // length)
        yield from (members[first : first + rows] for first in range(0, len(members), rows))


def index_text(config: Config, parts: Sequence[GenomeInterval], rows: Sequence[int]) -> str:
    """Return a tab-separated line per interval: fasta, record, start, end, name, first row, row count."""
    lines = [["fasta", "record", "start", "end", "name", "row", "rows"]]
    first = 0
    for part, count in zip(parts, rows, strict=True):
        lines.append([part.genome.name, *map(str, part.interval), str(first), str(count)])
        first += count
    return "".join("\t".join(line) + "\n" for line in lines)


def components(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
    """Return the first two principal components (rows, 2) of vectors (rows, d_model) with scaled channels."""
    return PCA(2, random_state=0).fit_transform(StandardScaler().fit_transform(vectors))


def groups(config: Config, parts: Sequence[GenomeInterval]) -> list[str]:
    """Return the colour group of each interval; all but the most frequent groups become OTHERS."""
    if len(config.fasta) > 1:
        names = [part.genome.name.split(".fa")[0] for part in parts]
    else:
        names = [part.interval.name or part.interval.record for part in parts]
    frequent = sorted(set(names), key=lambda name: -names.count(name))[:MAX_GROUPS]
    return [name if name in frequent else OTHERS for name in names]


def _windows(interval: Interval, window: int) -> Iterator[Interval]:
    for start in range(interval.start, interval.end - window + 1, window):
        yield interval._replace(start=start, end=start + window)


if __name__ == "__main__":
    sys.exit(main())
