"""Stretches: the sequences of each species in each split, opened.

Where a set joins, the records of a file (or the blocks of a group) stand end to end, and runs of N are cut
out: no run of N then tells one assembly from another, and windows are not bound to the pieces of a draft
assembly. The price is a place in every few thousand bases where neighbours are none in the genome.
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


class Stretch(NamedTuple):
    """Bases of one species that follow each other.

    name: of the chromosome, record, file or group of blocks that they are. bases: (length,) packed bytes.
    """

    name: str
    bases: Bytes


@dataclass(frozen=True)
class SpeciesData:
    """The opened sequences of a set of species.

    names: of the classes. stretches: split -> for each class its stretches; only the splits that have some.
    sha256: of all its FASTA files.
    """

    names: list[str]
    stretches: dict[str, list[list[Stretch]]]
    sha256: str


def open_species(found: SpeciesSet, folder: str | Path) -> SpeciesData:
    """The stretches of a set whose files are under `folder`; each FASTA is packed on first use.

    Raises FileNotFoundError and ValueError for a bad FASTA, a record that is not there, a record without a
    block's number, a species without anything in a split that others have, and one file under two names.
    """
    opened = {name: _open(name, species, Path(folder)) for name, species in found.species.items()}
    _check_contents(opened)
    stretches: dict[str, list[list[Stretch]]] = {split: [] for split in SPLITS}
    for name, species in found.species.items():
        of_splits = _stretches(found, species, opened[name])
        if found.valid_fraction:
            _hold_out_ends(of_splits, found.valid_fraction)
        for split, some in of_splits.items():
            stretches[split].append(some)
    for split, of_classes in list(stretches.items()):
        if not any(of_classes):
            del stretches[split]
        elif not all(of_classes):
            lacking = [name for name, some in zip(found.names, of_classes, strict=True) if not some]
            raise ValueError(
                f"The splits are unequal: {', '.join(lacking)} have no sequence in split {split}, the "
                "others do. Give every species the same splits."
            )
    checksums = "".join(genome.sha256 for genomes in opened.values() for genome in genomes.values())
    return SpeciesData(found.names, stretches, hashlib.sha256(checksums.encode()).hexdigest())


def joined(stretches: Iterable[Bytes]) -> Bytes:
    """Packed bytes of any lengths, end to end, without N."""
    bases = np.concatenate([np.zeros(0, np.uint8), *stretches])
    return bases[without_mask(bases) != N]


def _open(name: str, species: SpeciesFiles, folder: Path) -> dict[str, Genome]:
    """File -> its genome; ValueError and OSError name the species."""
    files = [file for files in species.by_split.values() for file in files] or [fasta_of(species)]
    try:
        return {file: open_genome(folder / file) for file in files}
    except FileNotFoundError as error:
        download = f" python -m bio.download {species.source} fetches it." if species.source else ""
        raise FileNotFoundError(
            f"Species {name}: {error} The folder of a set's files is data.folder.{download}"
        ) from error
    except ValueError as error:
        raise ValueError(f"Species {name}: {error}") from error


def _check_contents(opened: dict[str, dict[str, Genome]]) -> None:
    """Raise ValueError for two files of the same bytes."""
    first: dict[str, str] = {}
    for name, genomes in opened.items():
        for file, genome in genomes.items():
            if genome.sha256 in first:
                raise ValueError(
                    f"{first[genome.sha256]} and {file} of {name} are the same file under "
                    "two names: list it once."
                )
            first[genome.sha256] = f"{file} of {name}"


def _stretches(
    found: SpeciesSet, species: SpeciesFiles, genomes: dict[str, Genome]
) -> dict[str, list[Stretch]]:
    """The stretches of one species, by split."""
    if found.split:
        (genome,) = genomes.values()
        return {
            split: _of_records(genome, records_of(found, species, split)) if found.split.get(split) else []
            for split in SPLITS
        }
    if found.blocks is not None:
        (genome,) = genomes.values()
        return _of_blocks(genome, found.blocks, found.join)
    return {
        split: [stretch for file in files for stretch in _of_file(file, genomes[file], found.join)]
        for split, files in species.by_split.items()
    }


def _of_records(genome: Genome, records: dict[str, str]) -> list[Stretch]:
    return [Stretch(name, _bases(genome, genome.resolve(record))) for name, record in records.items()]


def _of_file(file: str, genome: Genome, join: bool) -> list[Stretch]:
    records = [Stretch(record.name, _bases(genome, record)) for record in genome.records.values()]
    if not join:
        return records
    return [Stretch(Path(file).name.split(".fa")[0], joined(stretch.bases for stretch in records))]


def _of_blocks(genome: Genome, blocks: BlockSplit, join: bool) -> dict[str, list[Stretch]]:
    """The blocks in the order of their numbers; joined, a group is one stretch."""
    numbered = sorted((_number(genome, record), record) for record in genome.records.values())
    found: dict[str, list[Stretch]] = {split: [] for split in SPLITS}
    for group, members in groupby(numbered, lambda entry: entry[0] // blocks.group):
        records = [record for _, record in members]
        split = blocks.split_of(group * blocks.group)
        if join:
            name = f"blocks {group * blocks.group} to {(group + 1) * blocks.group - 1}"
            found[split].append(Stretch(name, joined(_bases(genome, record) for record in records)))
        else:
            found[split] += [Stretch(record.name, _bases(genome, record)) for record in records]
    return found


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


def _hold_out_ends(of_splits: dict[str, list[Stretch]], fraction: float) -> None:
    """Move the end of every training stretch to validation."""
    train = of_splits["train"]
    ends = [round(len(stretch.bases) * (1 - fraction)) for stretch in train]
    of_splits["train"] = [Stretch(s.name, s.bases[:end]) for s, end in zip(train, ends, strict=True)]
    of_splits["valid"] = of_splits["valid"] + [
        Stretch(s.name, s.bases[end:]) for s, end in zip(train, ends, strict=True)
    ]
