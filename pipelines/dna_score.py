"""Score sequences under a pretrained model: bits per base, given the bases before each base.

    python -m pipelines.dna_score checkpoint=runs/mine fasta=genome.fa.gz
    python -m pipelines.dna_score checkpoint=runs/mine fasta=hg38.fa.gz records=[chr20] bedgraph=20.bedGraph
    python -m pipelines.dna_score checkpoint=runs/mine fasta=hg38.fa.gz bed=exons.bed context=10000

Each record, or each interval of a BED file, is read once from its start, at any length. The table has a row
for each: the number of scored bases (A, C, G and T with a base before them), their bits per base and
perplexity, and bases and bits of its repeats (soft-masked, lower-case bases) and of its unique sequence.
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

from bio.dna_model import load_model
from bio.genome.genome import Genome, open_genome
from bio.genome.interval import Interval, read_intervals, record_intervals
from bio.genome.spans import Spans, as_spans
from bio.scoring.likelihood import Score
from bio.scoring.streaming import CHUNK_BASES, repeat_and_unique, stream_losses
from bio.scoring.track import BedGraph, LikelihoodTrack
from core.models.sequence import SequenceModel
from core.storage.atomic import replaced_atomically
from core.training import TrainingConfig, single_process_world
from core.training.report import peak_memory_gib
from core.training.step import autocast
from pipelines.common.checkpoints import CHECKPOINT, chosen_checkpoint
from pipelines.common.cli import command
from pipelines.common.config import parse_config
from pipelines.common.outputs import OVERWRITE, is_special, new_outputs

FORMATS = (".tsv", ".json")


@dataclass(frozen=True)
class Config:
    checkpoint: str = field(metadata={"help": CHECKPOINT})
    fasta: str = field(metadata={"help": "FASTA file, plain, gzip or bgzip; packed on first use"})
    records: list[str] = field(
        default_factory=list, metadata={"help": "records to score; empty: all records of the FASTA"}
    )
    bed: str | None = field(
        default=None, metadata={"help": "BED file of the intervals to score, instead of records"}
    )
    context: int = field(
        default=0, metadata={"help": "bases of the record read before each interval and not scored"}
    )
    output: str = field(default="score.tsv", metadata={"help": "table to write, .tsv or .json"})
    overwrite: bool = field(default=False, metadata={"help": OVERWRITE})
    likelihood: str | None = field(
        default=None,
        metadata={"help": ".npy file to write: ln p of every base (float32), in the order of the table"},
    )
    bedgraph: str | None = field(
        default=None, metadata={"help": "bedGraph to write: bits per base in bins along the genome"}
    )
    bin: int = field(default=1000, metadata={"help": "bin size of the bedGraph (bases)"})
    piece: int = field(default=CHUNK_BASES, metadata={"help": "bases per forward pass; memory grows with it"})
    precision: Literal["auto", "fp32", "bf16"] = field(
        default="auto", metadata={"help": "precision of matrix products; auto: bf16 on a GPU, fp32 on a CPU"}
    )

    def __post_init__(self) -> None:
        if self.context < 0:
            raise ValueError(f"context is {self.context}; it must be at least 0.")
        for name in ("bin", "piece"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.bed is not None and self.records:
            raise ValueError("Both bed and records are set. Give one of the two.")
        if Path(self.output).suffix not in FORMATS and not is_special(Path(self.output)):
            raise ValueError(f"output is {self.output}; its name must end in {' or '.join(FORMATS)}.")


class IntervalScore(NamedTuple):
    """An interval, and the scores of its soft-masked and its other bases."""

    interval: Interval
    repeat: Score
    unique: Score


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "dna_score", __doc__ or "")
    print(f"{report(score(config))}; the table is in {config.output}.")


def score(config: Config) -> list[IntervalScore]:
    """Score the sequences and write the output files, each atomically."""
    names = (config.output, config.likelihood, config.bedgraph)
    with new_outputs(*(Path(name) for name in names if name is not None), overwrite=config.overwrite):
        return write_scores(config)


def write_scores(config: Config) -> list[IntervalScore]:
    """Score the sequences and write the files, after the check of the outputs."""
    world = single_process_world()
    model = load_model(chosen_checkpoint(config.checkpoint), world.device)
    genome = open_genome(config.fasta)
    intervals = select_intervals(config, genome)
    with ExitStack() as files:
        table = files.enter_context(replaced_atomically(Path(config.output)))
        table.touch()  # fails now if the folder cannot be written
        with autocast(TrainingConfig(precision=config.precision), world.device):
            scores = stream(config, model, genome, intervals, files)
        table.write_text(table_text(scores, config), encoding="utf-8")
    return scores


def select_intervals(config: Config, genome: Genome) -> list[Interval]:
    """Return the intervals of the BED, or the records as intervals."""
    if config.bed is not None:
        return read_intervals(config.bed, genome)
    if not config.records:
        return record_intervals(genome)
    records = [genome.resolve(name) for name in config.records]
    return [Interval(record.name, 0, record.length, "") for record in records]


def stream(
    config: Config, model: SequenceModel, genome: Genome, intervals: list[Interval], files: ExitStack
) -> list[IntervalScore]:
    """Score the intervals in one pass and write the tracks, with a progress bar on stderr."""
    spans = as_spans(genome.span(*interval[:3]) for interval in intervals)
    tracks = open_tracks(config, genome, spans, files)
    scores = [IntervalScore(interval, Score(0.0, 0), Score(0.0, 0)) for interval in intervals]
    bases = int((spans[:, 1] - spans[:, 0]).sum())
    with tqdm(total=bases, unit="base", unit_scale=True, dynamic_ncols=True) as bar:
        for scored in stream_losses(model, genome, spans, config.context, config.piece):
            repeat, unique = repeat_and_unique(genome, scored)
            interval, repeat_sum, unique_sum = scores[scored.span]
            scores[scored.span] = IntervalScore(interval, repeat_sum + repeat, unique_sum + unique)
            for track in tracks:
                track.write(scored)
            bar.update(len(scored.losses))
        if (peak := peak_memory_gib(model.embedding.weight.device)) is not None:
            bar.set_postfix_str(f"{peak:.2f} GiB of GPU memory")
    return scores


def open_tracks(
    config: Config, genome: Genome, spans: Spans, files: ExitStack
) -> list[LikelihoodTrack | BedGraph]:
    """Open the tracks of the configuration; `files` closes and renames them."""
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


def table_text(scores: list[IntervalScore], config: Config) -> str:
    """Return the rows as tab-separated text, or as JSON with their total; no value is empty or null."""
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


def row(score: IntervalScore) -> dict[str, Any]:
    """Return a row of the table: record, start, end, name, then the columns."""
    return {**score.interval._asdict(), **columns(score.repeat, score.unique)}


def columns(repeat: Score, unique: Score) -> dict[str, int | float | None]:
    """Return bases, bits per base and perplexity, and bases and bits of repeats and of unique sequence."""
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
    """Return a number rounded for the table; None if it is not finite."""
    return round(value, 6) if math.isfinite(value) else None


def total(scores: list[IntervalScore]) -> tuple[Score, Score]:
    """Return the sums over all intervals of the scores of repeats and of unique sequence."""
    repeat = sum((score.repeat for score in scores), Score(0.0, 0))
    return repeat, sum((score.unique for score in scores), Score(0.0, 0))


def report(scores: list[IntervalScore]) -> str:
    """Return the total of the table as a sentence."""
    repeat, unique = total(scores)
    both = repeat + unique
    if not both.bases:
        return f"No base to score in {len(scores):,} interval(s): only N, or single bases"
    text = f"{both.bits_per_base:.4f} bits per base over {both.bases:,} bases of {len(scores):,} interval(s)"
    if not (repeat.bases and unique.bases):
        return text
    return (
        f"{text}: {repeat.bits_per_base:.4f} in repeats ({repeat.bases / both.bases:.1%} of the bases), "
        f"{unique.bits_per_base:.4f} in unique sequence"
    )


if __name__ == "__main__":
    sys.exit(main())
