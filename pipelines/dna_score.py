"""Score sequences under a pretrained model: how many bits each base costs, given those before it.

    python -m pipelines.dna_score checkpoint=runs/mine fasta=genome.fa.gz
    python -m pipelines.dna_score checkpoint=runs/mine fasta=hg38.fa.gz records=[chr20] bedgraph=20.bedGraph
    python -m pipelines.dna_score checkpoint=runs/mine fasta=hg38.fa.gz bed=exons.bed context=10000

Each record, or each region of a BED file, is read once from its start, however long it is. The table has a
row for each: how many A, C, G and T were scored (all that have a base before them), their bits per base and
perplexity, and the same of its repeats (soft-masked, lower-case bases) and of its unique sequence.
"""

import json
import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tqdm import tqdm

from bio.genome.genome import Genome, open_genome
from bio.genome.interval import Region, read_regions
from bio.genome.spans import Spans, as_spans
from bio.scoring.likelihood import Score
from bio.scoring.streaming import PIECE_BASES, repeat_and_unique, stream_losses
from bio.scoring.track import BedGraph, LikelihoodTrack
from core.models.sequence import SequenceModel
from core.storage.atomic import replaced_atomically
from core.training import TrainingConfig, single_process_world
from core.training.report import peak_memory_gib
from core.training.step import autocast
from pipelines.common.cli import command
from pipelines.common.config import parse_config
from pipelines.common.dna import trained_model

FORMATS = (".tsv", ".json")


@dataclass(frozen=True)
class Config:
    checkpoint: str = field(metadata={"help": "a run folder (its latest checkpoint), or a checkpoint file"})
    fasta: str = field(metadata={"help": "genome: a FASTA file, plain, gzip or bgzip; packed beside it once"})
    records: list[str] = field(
        default_factory=list, metadata={"help": "the records to score; none: all of the FASTA"}
    )
    bed: str | None = field(
        default=None, metadata={"help": "instead of records: a BED file of the regions to score"}
    )
    context: int = field(
        default=0, metadata={"help": "bases of its record that are read before each region, and not scored"}
    )
    output: str = field(default="score.tsv", metadata={"help": "the table to write: a .tsv, or a .json"})
    likelihood: str | None = field(
        default=None,
        metadata={"help": "a .npy to write: ln p of every base (float32), rows of the table end to end"},
    )
    bedgraph: str | None = field(
        default=None, metadata={"help": "a bedGraph to write: bits per base in bins along the genome"}
    )
    bin: int = field(default=1000, metadata={"help": "bases in a bin of the bedGraph"})
    piece: int = field(
        default=PIECE_BASES, metadata={"help": "bases that the model runs at once: memory grows with it"}
    )
    precision: Literal["auto", "fp32", "bf16"] = field(
        default="auto", metadata={"help": "of matrix products; auto: bf16 on a GPU, fp32 on a CPU"}
    )

    def __post_init__(self) -> None:
        if self.context < 0:
            raise ValueError(f"context is {self.context}; it must be at least 0.")
        for name in ("bin", "piece"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.bed is not None and self.records:
            raise ValueError("Both bed and records name what to score: give one of the two.")
        if Path(self.output).suffix not in FORMATS:
            raise ValueError(f"output is {self.output}; its name must end in {' or '.join(FORMATS)}.")


class RegionScore(NamedTuple):
    """A region and the scores of its soft-masked and its other bases."""

    region: Region
    repeat: Score
    unique: Score


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_score", __doc__ or "")
    print(f"{report(score(config))}; {config.output} holds the table.")


def score(config: Config) -> list[RegionScore]:
    """Score as configured and write the files, each there whole or not at all."""
    world = single_process_world()
    model = trained_model(Path(config.checkpoint), world.device)
    genome = open_genome(config.fasta)
    regions = chosen_regions(config, genome)
    with ExitStack() as files:
        table = files.enter_context(replaced_atomically(Path(config.output)))
        table.touch()  # where it cannot be written, that is said now
        with autocast(TrainingConfig(precision=config.precision), world.device):
            scores = stream(config, model, genome, regions, files)
        table.write_text(table_text(scores, config), encoding="utf-8")
    return scores


def chosen_regions(config: Config, genome: Genome) -> list[Region]:
    """The regions of the BED, or the records as regions."""
    if config.bed is not None:
        return read_regions(config.bed, genome)
    names = config.records or list(genome.records)
    records = [genome.resolve(name) for name in names]
    return [Region(record.name, 0, record.length, "") for record in records]


def stream(
    config: Config, model: SequenceModel, genome: Genome, regions: list[Region], files: ExitStack
) -> list[RegionScore]:
    """Score the regions in one pass, with a progress bar on stderr, and fill the tracks asked for."""
    spans = as_spans(genome.span(region.record, region.start, region.end) for region in regions)
    tracks = open_tracks(config, genome, spans, files)
    scores = [RegionScore(region, Score(0.0, 0), Score(0.0, 0)) for region in regions]
    bases = int((spans[:, 1] - spans[:, 0]).sum())
    with tqdm(total=bases, unit="base", unit_scale=True, dynamic_ncols=True) as bar:
        for scored in stream_losses(model, genome, spans, config.context, config.piece):
            repeat, unique = repeat_and_unique(genome, scored)
            region, repeat_before, unique_before = scores[scored.span]
            scores[scored.span] = RegionScore(region, repeat_before + repeat, unique_before + unique)
            for track in tracks:
                track.write(scored)
            bar.update(len(scored.losses))
        if (peak := peak_memory_gib(model.embedding.weight.device)) is not None:
            bar.set_postfix_str(f"{peak:.2f} GiB of GPU memory")
    return scores


def open_tracks(
    config: Config, genome: Genome, spans: Spans, files: ExitStack
) -> list[LikelihoodTrack | BedGraph]:
    """The tracks that are asked for; `files` closes them and gives them their names."""
    tracks: list[LikelihoodTrack | BedGraph] = []
    if config.likelihood is not None:
        path = files.enter_context(replaced_atomically(Path(config.likelihood)))
        tracks.append(LikelihoodTrack(files.enter_context(path.open("wb")), spans))
    if config.bedgraph is not None:
        path = files.enter_context(replaced_atomically(Path(config.bedgraph)))
        graph = BedGraph(files.enter_context(path.open("w", encoding="utf-8")), genome, spans, config.bin)
        files.callback(graph.close)
        tracks.append(graph)
    return tracks


def table_text(scores: list[RegionScore], config: Config) -> str:
    """The rows as tab-separated values, or as JSON with their sum; what is of no base is empty, or null."""
    rows = [row(score) for score in scores]
    if Path(config.output).suffix == ".json":
        content = {
            "checkpoint": config.checkpoint,
            "fasta": config.fasta,
            "context": config.context,
            "total": columns(*total(scores)),
            "rows": rows,
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"
    lines = [list(rows[0]), *(row.values() for row in rows)]
    return "".join("\t".join("" if value is None else str(value) for value in line) + "\n" for line in lines)


def row(score: RegionScore) -> dict[str, Any]:
    """A line of the table: record, start, end, name, then the columns."""
    return {**score.region._asdict(), **columns(score.repeat, score.unique)}


def columns(repeat: Score, unique: Score) -> dict[str, int | float | None]:
    """Scored bases, bits a base and perplexity over all; bases and bits of repeats and of unique sequence."""
    both = repeat + unique
    return {
        "bases": both.bases,
        "bits_per_base": rounded(both.bits_per_base),
        "perplexity": rounded(both.perplexity),
        "repeat_bases": repeat.bases,
        "repeat_bits_per_base": rounded(repeat.bits_per_base),
        "unique_bases": unique.bases,
        "unique_bits_per_base": rounded(unique.bits_per_base),
    }


def rounded(value: float) -> float | None:
    """What a table shows of a number; None where it is not finite."""
    return round(value, 6) if math.isfinite(value) else None


def total(scores: list[RegionScore]) -> tuple[Score, Score]:
    """The sums over all regions of the scores of repeats and of unique sequence."""
    repeat = sum((score.repeat for score in scores), Score(0.0, 0))
    return repeat, sum((score.unique for score in scores), Score(0.0, 0))


def report(scores: list[RegionScore]) -> str:
    """The sum of the table in words."""
    repeat, unique = total(scores)
    both = repeat + unique
    if not both.bases:
        return f"No base to score in {len(scores):,} region(s): only N, or single bases"
    text = f"{both.bits_per_base:.4f} bits per base over {both.bases:,} bases of {len(scores):,} region(s)"
    if not (repeat.bases and unique.bases):
        return text
    return (
        f"{text}: {repeat.bits_per_base:.4f} in repeats ({repeat.bases / both.bases:.1%} of the bases), "
        f"{unique.bits_per_base:.4f} in unique sequence"
    )


if __name__ == "__main__":
    sys.exit(main())
