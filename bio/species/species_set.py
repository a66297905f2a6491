"""Sets of species: a YAML file with the sequences of each species and their splits.

    species:                       # the classes, in this order
      human:
        fasta: human.fa.gz         # under the data folder; or `source`: a name in bio/sources.yaml
        chromosomes: {"1": chr1}   # a name in `split` -> the record; without it they are the record's names
    split:                         # one of three rules: the records of each split ...
      train: ["1", "2"]
      test: ["5"]
    aliases: {"2": [2A, 2B]}       # a name in `split` -> its parts, in species that have it in parts
    blocks: {group: 50, of: 10, valid: [8], test: [9]}   # ... or groups of blocks, see BlockSplit
    join: true                     # close the gaps between records and at runs of N, see bio.species.segments
    valid_fraction: 0.1            # the end of every training sequence, held out for validation

The third rule is by whole files: every species lists its own under `train`, `valid` and `test` instead of
`fasta`. The sets shipped with Helixwave are in bio/species.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bio.windows.splits import SPLITS
from core.storage.download import read_sources
from core.suggestion import did_you_mean

SETS = Path(__file__).parent
SOURCES = Path(__file__).parents[1] / "sources.yaml"


@dataclass
class BlockSplit:
    """Splits by block number: homologous blocks have the same number in the record names of every species.

    `group` consecutive numbers form a group. In each `of` consecutive groups, those at the positions `valid`
    and `test` (from 0) are held out. A block is in the same split in every species.
    """

    group: int = 50
    of: int = 10
    valid: list[int] = field(default_factory=list)
    test: list[int] = field(default_factory=list)

    def split_of(self, number: int) -> str:
        """Return the split of a block."""
        place = number // self.group % self.of
        return "valid" if place in self.valid else "test" if place in self.test else "train"


@dataclass
class SpeciesFiles:
    """Files of one species; the module docstring explains the keys."""

    fasta: str | None = None
    source: str | None = None
    chromosomes: dict[str, str] = field(default_factory=dict)
    train: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    assembly: str | None = None
    accession: str | None = None

    @property
    def by_split(self) -> dict[str, list[str]]:
        """Files of each split, for a split by whole files."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


@dataclass
class SpeciesSet:
    """Content of the YAML file of a set."""

    species: dict[str, SpeciesFiles] = field(default_factory=dict)
    split: dict[str, list[str]] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    blocks: BlockSplit | None = None
    join: bool = False
    valid_fraction: float = 0.0

    @property
    def names(self) -> list[str]:
        """Class names in order."""
        return list(self.species)


def read_species(name: str) -> SpeciesSet:
    """Read the set of a name in bio/species, or of a YAML file.

    Raises FileNotFoundError, and ValueError naming the file and the key or species, for another file format,
    clashing class names, a file listed twice, and unequal splits.
    """
    path = _find(name)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(SpeciesSet), OmegaConf.load(path))
        species_set: SpeciesSet = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except (OmegaConfBaseException, yaml.YAMLError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is not a set of species: {reason}. bio/species/species_set.py lists the keys."
        ) from error
    try:
        _check(species_set)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return species_set


def fasta_of(species: SpeciesFiles) -> str:
    """Return the FASTA file of a species under the data folder: its own, or the file of its source."""
    return species.fasta if species.fasta is not None else read_sources(SOURCES)[str(species.source)].file


def records_of(species_set: SpeciesSet, species: SpeciesFiles, split: str) -> dict[str, str]:
    """Return the records of a species in a split by records, by their names in the split."""
    chromosomes = species.chromosomes
    parts = [
        part
        for name in species_set.split[split]
        for part in _part_names(name, species_set.aliases, chromosomes)
    ]
    return {name: chromosomes.get(name, name) for name in parts if not chromosomes or name in chromosomes}


def set_names() -> list[str]:
    """Return the names of the shipped sets."""
    return sorted(path.stem for path in SETS.glob("*.yaml"))


def _part_names(name: str, aliases: Mapping[str, list[str]], chromosomes: Mapping[str, str]) -> list[str]:
    whole = not chromosomes or name in chromosomes
    return [name] if whole else aliases.get(name, [name])


def _find(name: str) -> Path:
    shipped = SETS / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if not Path(name).is_file():
        hint = did_you_mean(name, set_names())
        raise FileNotFoundError(
            f"There is no set of species {name}: no such file, and none in bio/species. "
            f"{hint + ' ' if hint else ''}Shipped sets: {', '.join(set_names())}."
        )
    return Path(name)


def _check(species_set: SpeciesSet) -> None:
    if not species_set.species:
        raise ValueError("The file names no species. List them under `species`.")
    _check_names(species_set.names)
    _check_rule(species_set)
    _check_files(species_set)
    if not 0 <= species_set.valid_fraction < 1:
        raise ValueError(
            f"valid_fraction is {species_set.valid_fraction}; it must be at least 0 and less than 1."
        )


def _check_names(names: list[str]) -> None:
    """Raise ValueError for a blank name, and for names that differ only in case, spaces or underscores."""
    names_by_key: dict[str, str] = {}
    for name in names:
        key = " ".join(name.casefold().replace("_", " ").split())
        if not key:
            raise ValueError("A species has a blank name. Give it one.")
        if key in names_by_key:
            raise ValueError(
                f"The species {names_by_key[key]!r} and {name!r} have clashing names. Rename one."
            )
        names_by_key[key] = name


def _check_rule(species_set: SpeciesSet) -> None:
    """Raise ValueError unless exactly one rule splits the species, with the same splits for all."""
    by_file = any(files for species in species_set.species.values() for files in species.by_split.values())
    rules = [bool(species_set.split), species_set.blocks is not None, by_file]
    if sum(rules) != 1:
        raise ValueError(
            "One rule must split the sequences, but there are "
            f"{sum(rules)}. Give `split`, or `blocks`, or files under `train`, `valid` and `test` of every "
            "species."
        )
    if by_file:
        _check_shared(species_set)
    else:
        for name, species in species_set.species.items():
            if (species.fasta is None) == (species.source is None):
                raise ValueError(f"Species {name} needs one of `fasta` and `source`.")
    if species_set.split:
        _check_records(species_set)
    if species_set.blocks is not None:
        _check_blocks(species_set.blocks)


def _check_shared(species_set: SpeciesSet) -> None:
    for split in SPLITS:
        having = [name for name, species in species_set.species.items() if species.by_split[split]]
        lacking = [name for name in species_set.names if name not in having]
        if having and lacking:
            raise ValueError(
                f"The splits are unequal: {', '.join(having)} have files for {split}, {', '.join(lacking)} "
                "have none. Give every species the same splits."
            )
    if not all(species.train for species in species_set.species.values()):
        raise ValueError("No species has files for train. List them.")


def _check_records(species_set: SpeciesSet) -> None:
    unknown = [split for split in species_set.split if split not in SPLITS]
    if unknown:
        raise ValueError(f"Split {unknown[0]!r} is unknown; it must be one of {', '.join(SPLITS)}.")
    duplicates = [name for name, count in Counter(chain(*species_set.split.values())).items() if count > 1]
    if duplicates:
        raise ValueError(f"Chromosome {duplicates[0]} is in a split twice or in two splits. Name it once.")
    for split, names in species_set.split.items():
        for chromosome in names:
            parts = {chromosome, *species_set.aliases.get(chromosome, [])}
            if not any(
                not s.chromosomes or parts & s.chromosomes.keys() for s in species_set.species.values()
            ):
                raise ValueError(
                    f"No species has the chromosome {chromosome} of split {split}. Check its name."
                )
        for name, species in species_set.species.items():
            if names and not records_of(species_set, species, split):
                raise ValueError(
                    f"The splits are unequal: species {name} has no chromosome for {split}. Give it one, or "
                    "remove the species."
                )


def _check_blocks(blocks: BlockSplit) -> None:
    held_out = [*blocks.valid, *blocks.test]
    fits = all(0 <= place < blocks.of for place in held_out)
    if blocks.group < 1 or not fits or not len(held_out) == len(set(held_out)) < blocks.of:
        raise ValueError(
            f"blocks hold out the places {held_out} of {blocks.of} groups of {blocks.group} blocks. They "
            "must be different, from 0 to `of` - 1, and leave some for training."
        )


def _check_files(species_set: SpeciesSet) -> None:
    owner: dict[Path, str] = {}
    for name, file in _files(species_set):
        path = Path(file)
        if path in owner:
            raise ValueError(
                f"The file {file} is listed twice, for {owner[path]} and for {name}. List it once."
            )
        owner[path] = name


def _files(species_set: SpeciesSet) -> Iterator[tuple[str, str]]:
    sources = read_sources(SOURCES)
    for name, species in species_set.species.items():
        if species.source is not None and species.source not in sources:
            hint = did_you_mean(species.source, sources)
            message = f"Species {name} names the source {species.source}, which is not in bio/sources.yaml."
            raise ValueError(f"{message} {hint}".rstrip())
        files = [file for split_files in species.by_split.values() for file in split_files]
        yield from ((name, file) for file in files or [fasta_of(species)])
