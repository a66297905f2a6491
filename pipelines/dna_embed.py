"""Embeddings of DNA: what a trained Mamba makes of records, windows or regions, as vectors and as a picture.

    python -m pipelines.dna_embed checkpoint=runs/mine fasta=[genome.fa.gz] window=10000
    python -m pipelines.dna_embed checkpoint=runs/mine fasta=[human.fa,mouse.fa,dog.fa] window=1024
    python -m pipelines.dna_embed checkpoint=runs/mine fasta=[genome.fa.gz] bed=exons.bed per_base=true

The checkpoint is one of dna_pretrain or dna_classify. The .npy has a row for each region (float32), or with
per_base one for each of its bases; the .tsv beside it says which rows are which region's. A picture of the
first two principal components, a colour a FASTA, region name or record, lies beside them.
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

from bio.genome.genome import Genome, open_genome
from bio.genome.interval import Region, read_regions
from core.checkpoints.checkpoint import read_header, resolve_checkpoint
from core.models.classifier import CHUNK_TOKENS, hidden_chunks, pooled_hidden
from core.models.sequence import SequenceModel
from core.storage.atomic import replaced_atomically
from core.training import TrainingConfig, single_process_world
from core.training.step import autocast
from pipelines.common.cli import command
from pipelines.common.config import parse_config
from pipelines.common.dna import trained_model
from pipelines.common.dna_classifier import trained_classifier
from pipelines.common.species_pictures import draw_components

MOST_GROUPS, OTHERS = 9, "others"


@dataclass(frozen=True)
class Config:
    checkpoint: str = field(metadata={"help": "a run folder (its best checkpoint), or a checkpoint file"})
    fasta: list[str] = field(metadata={"help": "FASTA files, plain, gzip or bgzip; packed beside them once"})
    bed: str | None = field(
        default=None, metadata={"help": "a BED file of the regions to embed, of a single FASTA"}
    )
    window: int | None = field(
        default=None,
        metadata={"help": "cut every region into windows of this many bases; null: leave it whole"},
    )
    per_base: bool = field(default=False, metadata={"help": "a vector for each base, and not for a region"})
    pooling: Literal["mean", "last"] = field(
        default="mean", metadata={"help": "a region's vector: the mean over its bases, or the last base's"}
    )
    output: str = field(default="embeddings.npy", metadata={"help": "the .npy to write"})
    precision: Literal["auto", "fp32", "bf16"] = field(
        default="auto", metadata={"help": "of matrix products; auto: bf16 on a GPU, fp32 on a CPU"}
    )

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1, or null.")
        if not self.fasta:
            raise ValueError("fasta names no file; give one or more, as fasta=[genome.fa].")
        if self.bed is not None and len(self.fasta) > 1:
            raise ValueError(f"bed names regions of one FASTA, but there are {len(self.fasta)}: give one.")
        if Path(self.output).suffix != ".npy":
            raise ValueError(f"output is {self.output}; its name must end in .npy.")


class Place(NamedTuple):
    """A region of one of the genomes."""

    genome: Genome
    region: Region

    @property
    def length(self) -> int:
        return self.region.end - self.region.start


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_embed", __doc__ or "")
    shape = embed(config)
    print(f"{shape[0]:,} vectors of {shape[1]:,} numbers are in {config.output}; its .tsv says whose.")


def embed(config: Config) -> tuple[int, int]:
    """Write the vectors, their index and the picture, each there whole or not at all; the vectors' shape."""
    world = single_process_world()
    backbone = trained_backbone(Path(config.checkpoint), world.device)
    places = chosen_places(config)
    rows = [place.length if config.per_base else 1 for place in places]
    shape = (sum(rows), backbone.config.d_model)
    output = Path(config.output)
    with ExitStack() as files:
        vectors = files.enter_context(replaced_atomically(output))
        index = files.enter_context(replaced_atomically(output.with_suffix(".tsv")))
        stored = np.lib.format.open_memmap(vectors, "w+", np.float32, shape)
        with autocast(TrainingConfig(precision=config.precision), world.device):
            fill(stored, config, backbone, places)
        stored.flush()
        index.write_text(index_text(config, places, rows), encoding="utf-8")
        if not config.per_base and len(places) > 2:
            draw_components(components(stored), groups(config, places), output.with_suffix(".png"))
    return shape


def trained_backbone(checkpoint: Path, device: torch.device) -> SequenceModel:
    """The backbone of a classifier, or a pretrained model; CheckpointError where it is neither."""
    path = resolve_checkpoint(checkpoint, prefer_best=True)
    if "head" in read_header(path).config:
        return trained_classifier(path, device).model.backbone
    return trained_model(path, device)


def chosen_places(config: Config) -> list[Place]:
    """The regions of the BED, or all records, whole or in windows; a rest shorter than a window is left out.

    Raises ValueError where no region is as long as a window.
    """
    genomes = [open_genome(fasta) for fasta in config.fasta]
    whole = [
        Place(genome, region)
        for genome in genomes
        for region in (read_regions(config.bed, genome) if config.bed is not None else _records(genome))
    ]
    if config.window is None:
        return whole
    places = [Place(genome, part) for genome, region in whole for part in _windows(region, config.window)]
    if not places:
        longest = max(place.length for place in whole)
        raise ValueError(
            f"No region has a window of {config.window:,} bases: the longest has {longest:,}. Choose a "
            "shorter window."
        )
    return places


def fill(
    stored: npt.NDArray[np.float32], config: Config, backbone: SequenceModel, places: Sequence[Place]
) -> None:
    """Put the vectors of all places into `stored` (rows, d_model), in order, with a progress bar."""
    row = 0
    bases = sum(place.length for place in places)
    with torch.no_grad(), tqdm(total=bases, unit="base", unit_scale=True, dynamic_ncols=True) as bar:
        for batch in batches(places):
            tokens = torch.from_numpy(
                np.stack([place.genome.tokens(*place.region[:3]) for place in batch])
            ).to(backbone.embedding.weight.device)
            for vectors in vectors_of(config, backbone, tokens):
                stored[row : row + len(vectors)] = vectors.float().cpu().numpy()
                row += len(vectors)
            bar.update(tokens.numel())


def vectors_of(config: Config, backbone: SequenceModel, tokens: Tensor) -> Iterator[Tensor]:
    """The vectors (rows, d_model) of tokens (batch, length), in order and in pieces."""
    if not config.per_base:
        yield pooled_hidden(backbone, tokens, config.pooling)
        return
    for sequence in tokens:
        for piece in hidden_chunks(backbone, sequence[None]):
            yield piece[0]


def batches(places: Sequence[Place]) -> Iterator[Sequence[Place]]:
    """Consecutive places of one length, as many as make CHUNK_TOKENS bases."""
    for length, alike in itertools.groupby(places, lambda place: place.length):
        chosen = list(alike)
        rows = max(1, CHUNK_TOKENS // length)
        yield from (chosen[first : first + rows] for first in range(0, len(chosen), rows))


def index_text(config: Config, places: Sequence[Place], rows: Sequence[int]) -> str:
    """Tab-separated, a line a region: fasta, record, start, end, name, its first row and how many it has."""
    lines = [["fasta", "record", "start", "end", "name", "row", "rows"]]
    first = 0
    for place, count in zip(places, rows, strict=True):
        lines.append([place.genome.name, *map(str, place.region), str(first), str(count)])
        first += count
    return "".join("\t".join(line) + "\n" for line in lines)


def components(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
    """The first two principal components (rows, 2) of vectors (rows, d_model), each channel scaled."""
    return PCA(2, random_state=0).fit_transform(StandardScaler().fit_transform(vectors))


def groups(config: Config, places: Sequence[Place]) -> list[str]:
    """What the picture colours places by; all but the most frequent are one group."""
    if len(config.fasta) > 1:
        names = [place.genome.name.split(".fa")[0] for place in places]
    else:
        names = [place.region.name or place.region.record for place in places]
    frequent = sorted(set(names), key=lambda name: -names.count(name))[:MOST_GROUPS]
    return [name if name in frequent else OTHERS for name in names]


def _records(genome: Genome) -> list[Region]:
    return [Region(record.name, 0, record.length, "") for record in genome.records.values()]


def _windows(region: Region, window: int) -> Iterator[Region]:
    for start in range(region.start, region.end - window + 1, window):
        yield region._replace(start=start, end=start + window)


if __name__ == "__main__":
    sys.exit(main())
