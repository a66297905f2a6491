"""Segments: the opened sequences of each species in each split.

A set with `join: true` concatenates the records of a file (or the blocks of a group) and removes N. A run of
N then cannot identify an assembly, and windows can span the contigs of a draft assembly. In return, every few
thousand bases two bases are adjacent that are not adjacent in the genome.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bio.genome.genome import Genome, Record, open_genome
from bio.genome.vocabulary import Bytes, N, without_mask
from bio.species.species_set import BlockSplit, SpeciesFiles, SpeciesSet, fasta_of, records_of
from bio.windows.splits import SPLITS


class Segment(NamedTuple):
    """Contiguous bases of one species.

    name: chromosome, record, file or group of blocks. bases: (length,) packed bytes.
    """

    name: str
    bases: Bytes


@dataclass(frozen=True)
class SpeciesData:
    """Opened sequences of a set of species.

    names: class names. segments: split -> segments of each class; only splits that have any.
    sha256: checksum over all FASTA files.
    """

    names: list[str]
    segments: dict[str, list[list[Segment]]]
    sha256: str


def open_species(species_set: SpeciesSet, folder: str | Path) -> SpeciesData:
    """Open the segments of a set with files under `folder`; each FASTA is packed on first use.

    Raises FileNotFoundError and ValueError for a bad FASTA, a missing record, a record without a block
    number, a species without sequences in a split that others have, and one file under two names.
    """
    opened = {name: _open(name, species, Path(folder)) for name, species in species_set.species.items()}
    _check_contents(opened)
    segments: dict[str, list[list[Segment]]] = {split: [] for split in SPLITS}
    for name, species in species_set.species.items():
        by_split = _segments(species_set, species, opened[name])
        if species_set.valid_fraction:
            _hold_out_ends(by_split, species_set.valid_fraction)
        for split, class_segments in by_split.items():
            segments[split].append(class_segments)
    for split, by_class in list(segments.items()):
        if not any(by_class):
            del segments[split]
        elif not all(by_class):
            missing = [name for name, some in zip(species_set.names, by_class, strict=True) if not some]
            raise ValueError(
                f"The splits are unequal: {', '.join(missing)} have no sequence in split {split}, but the "
                "others do. Give every species the same splits."
            )
    checksums = "".join(genome.sha256 for genomes in opened.values() for genome in genomes.values())
    return SpeciesData(species_set.names, segments, hashlib.sha256(checksums.encode()).hexdigest())


def concatenate(segments: Iterable[Bytes]) -> Bytes:
    """Concatenate packed bytes of any lengths and remove N."""
    bases = np.concatenate([np.zeros(0, np.uint8), *segments])
    return bases[without_mask(bases) != N]


def _open(name: str, species: SpeciesFiles, folder: Path) -> dict[str, Genome]:
    """Return file -> genome. ValueError and FileNotFoundError name the species."""
    files = [file for files in species.by_split.values() for file in files] or [fasta_of(species)]
    try:
        return {file: open_genome(folder / file) for file in files}
    except FileNotFoundError as error:
        download = f" python -m bio.download {species.source} fetches it." if species.source else ""
        raise FileNotFoundError(
            f"Species {name}: {error} data.folder names the folder of the files.{download}"
        ) from error
    except ValueError as error:
        raise ValueError(f"Species {name}: {error}") from error


def _check_contents(opened: dict[str, dict[str, Genome]]) -> None:
    """Raise ValueError for two files with the same bytes."""
    first: dict[str, str] = {}
    for name, genomes in opened.items():
        for file, genome in genomes.items():
            if genome.sha256 in first:
                raise ValueError(
                    f"{first[genome.sha256]} and {file} of {name} are the same file under "
                    "two names: list it once."
                )
            first[genome.sha256] = f"{file} of {name}"


def _segments(
    species_set: SpeciesSet, species: SpeciesFiles, genomes: dict[str, Genome]
) -> dict[str, list[Segment]]:
    """Return split -> segments of one species."""
    if species_set.split:
        (genome,) = genomes.values()
        return {
            split: _record_segments(genome, records_of(species_set, species, split))
            if species_set.split.get(split)
            else []
            for split in SPLITS
        }
    if species_set.blocks is not None:
        (genome,) = genomes.values()
        return _block_segments(genome, species_set.blocks, species_set.join)
    return {
        split: [
            segment for file in files for segment in _file_segments(file, genomes[file], species_set.join)
        ]
        for split, files in species.by_split.items()
    }


def _record_segments(genome: Genome, records: dict[str, str]) -> list[Segment]:
    return [Segment(name, _bases(genome, genome.resolve(record))) for name, record in records.items()]


def _file_segments(file: str, genome: Genome, join: bool) -> list[Segment]:
    records = [Segment(record.name, _bases(genome, record)) for record in genome.records.values()]
    if not join:
        return records
    return [Segment(Path(file).name.split(".fa")[0], concatenate(segment.bases for segment in records))]


def _block_segments(genome: Genome, blocks: BlockSplit, join: bool) -> dict[str, list[Segment]]:
    """Return the blocks in the order of their numbers; with `join` a group is one segment."""
    numbered = sorted((_number(genome, record), record) for record in genome.records.values())
    by_split: dict[str, list[Segment]] = {split: [] for split in SPLITS}
    for group, members in groupby(numbered, lambda entry: entry[0] // blocks.group):
        records = [record for _, record in members]
        split = blocks.split_of(group * blocks.group)
        if join:
            name = f"blocks {group * blocks.group} to {(group + 1) * blocks.group - 1}"
            by_split[split].append(Segment(name, concatenate(_bases(genome, record) for record in records)))
        else:
            by_split[split] += [Segment(record.name, _bases(genome, record)) for record in records]
    return by_split


def _number(genome: Genome, record: Record) -> int:
    digits = re.search(r"\d+", record.name)
    if digits is None:
        raise ValueError(
            f"Record {record.name} of {genome.name} has no block number in its name: name blocks by number, "
            "the same in every species."
        )
    return int(digits.group())


def _bases(genome: Genome, record: Record) -> Bytes:
    return genome.bases[record.offset : record.offset + record.length]


def _hold_out_ends(by_split: dict[str, list[Segment]], fraction: float) -> None:
    """Move the end of every training segment to validation."""
    train = by_split["train"]
    ends = [round(len(segment.bases) * (1 - fraction)) for segment in train]
    by_split["train"] = [Segment(s.name, s.bases[:end]) for s, end in zip(train, ends, strict=True)]
    by_split["valid"] = by_split["valid"] + [
        Segment(s.name, s.bases[end:]) for s, end in zip(train, ends, strict=True)
    ]
