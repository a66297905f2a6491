"""Sets of species: a YAML file that says which sequences each species has and how they are split.

    species:                       # the classes, in this order
      human:
        fasta: human.fa.gz         # under the data folder; or `source`: a name in bio/sources.yaml
        chromosomes: {"1": chr1}   # a name in `split` -> the record; without it they are the record's names
    split:                         # one of three rules: the records of each split ...
      train: ["1", "2"]
      test: ["5"]
    aliases: {"2": [2A, 2B]}       # a name in `split` -> its pieces, where a species has it in pieces
    blocks: {group: 50, of: 10, valid: [8], test: [9]}   # ... or groups of blocks, see BlockSplit
    join: true                     # close the gaps between records and at runs of N, see bio.species.segments
    valid_fraction: 0.1            # the end of every training sequence, held out for validation

The third rule is by whole files: every species lists its own under `train`, `valid` and `test` in place of
`fasta`. The sets that Helixwave ships are the files in bio/species.
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
    """Splits by the number of a record, which is that of the same block in every species.

    `group` consecutive numbers make a group; of each `of` consecutive groups those at the places `valid` and
    `test` (from 0) are held out. No block is in one split in one species and in another in the next.
    """

    group: int = 50
    of: int = 10
    valid: list[int] = field(default_factory=list)
    test: list[int] = field(default_factory=list)

    def split_of(self, number: int) -> str:
        """The split of a block."""
        place = number // self.group % self.of
        return "valid" if place in self.valid else "test" if place in self.test else "train"


@dataclass
class SpeciesFiles:
    """What a set says of one species; the comment at the top of this file explains the keys."""

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
        """The files of each split, where they are split by whole files."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


@dataclass
class SpeciesSet:
    """A set of species as its file has it, checked."""

    species: dict[str, SpeciesFiles] = field(default_factory=dict)
    split: dict[str, list[str]] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    blocks: BlockSplit | None = None
    join: bool = False
    valid_fraction: float = 0.0

    @property
    def names(self) -> list[str]:
        """The classes in their order."""
        return list(self.species)


def read_species(name: str) -> SpeciesSet:
    """The set of that name in bio/species, or of a YAML file.

    Raises FileNotFoundError and ValueError, naming the file and the key or species, for a file that is no set
    of species, for class names that clash, a file listed twice, and splits that the species do not share.
    """
    path = _find(name)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(SpeciesSet), OmegaConf.load(path))
        found: SpeciesSet = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except (OmegaConfBaseException, yaml.YAMLError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is not a set of species: {reason}. bio/species/species_set.py names the keys."
        ) from error
    try:
        _check(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return found


def fasta_of(species: SpeciesFiles) -> str:
    """The one FASTA file of a species, under the data folder: its own, or that of its source."""
    return species.fasta if species.fasta is not None else read_sources(SOURCES)[str(species.source)].file


def records_of(found: SpeciesSet, species: SpeciesFiles, split: str) -> dict[str, str]:
    """Name in the split -> record, of what this species has of a split by records."""
    chromosomes = species.chromosomes
    pieces = [piece for name in found.split[split] for piece in _pieces(name, found.aliases, chromosomes)]
    return {name: chromosomes.get(name, name) for name in pieces if not chromosomes or name in chromosomes}


def set_names() -> list[str]:
    """The sets that Helixwave ships."""
    return sorted(path.stem for path in SETS.glob("*.yaml"))


def _pieces(name: str, aliases: Mapping[str, list[str]], chromosomes: Mapping[str, str]) -> list[str]:
    whole = not chromosomes or name in chromosomes
    return [name] if whole else aliases.get(name, [name])


def _find(name: str) -> Path:
    shipped = SETS / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if not Path(name).is_file():
        hint = did_you_mean(name, set_names())
        raise FileNotFoundError(
            f"There is no set of species {name}, neither a file nor one in bio/species. "
            f"{hint + ' ' if hint else ''}There are {', '.join(set_names())}."
        )
    return Path(name)


def _check(found: SpeciesSet) -> None:
    if not found.species:
        raise ValueError("It names no species: list them under species.")
    _check_names(found.names)
    _check_rule(found)
    _check_files(found)
    if not 0 <= found.valid_fraction < 1:
        raise ValueError(f"valid_fraction is {found.valid_fraction}; it must be at least 0 and less than 1.")


def _check_names(names: list[str]) -> None:
    """Raise ValueError for a blank name, and for two that differ in case, spaces or underscores alone."""
    plain: dict[str, str] = {}
    for name in names:
        key = " ".join(name.casefold().replace("_", " ").split())
        if not key:
            raise ValueError("A species has a blank name: give it one.")
        if key in plain:
            raise ValueError(f"The species {plain[key]!r} and {name!r} have clashing names: rename one.")
        plain[key] = name


def _check_rule(found: SpeciesSet) -> None:
    """Raise ValueError unless one rule splits the species, and gives all of them the same splits."""
    by_file = any(files for species in found.species.values() for files in species.by_split.values())
    rules = [bool(found.split), found.blocks is not None, by_file]
    if sum(rules) != 1:
        raise ValueError(
            "One rule must split the sequences, but there are "
            f"{sum(rules)}: give `split`, or `blocks`, or files under `train`, `valid` and `test` of every "
            "species."
        )
    if by_file:
        _check_shared(found)
    else:
        for name, species in found.species.items():
            if (species.fasta is None) == (species.source is None):
                raise ValueError(f"Species {name} needs one of `fasta` and `source`.")
    if found.split:
        _check_records(found)
    if found.blocks is not None:
        _check_blocks(found.blocks)


def _check_shared(found: SpeciesSet) -> None:
    for split in SPLITS:
        having = [name for name, species in found.species.items() if species.by_split[split]]
        lacking = [name for name in found.names if name not in having]
        if having and lacking:
            raise ValueError(
                f"The splits are unequal: {', '.join(having)} have files for {split}, {', '.join(lacking)} "
                "have none. Give every species the same splits."
            )
    if not all(species.train for species in found.species.values()):
        raise ValueError("No species has files for train: list them.")


def _check_records(found: SpeciesSet) -> None:
    unknown = [split for split in found.split if split not in SPLITS]
    if unknown:
        raise ValueError(f"Split {unknown[0]!r} is unknown: it must be one of {', '.join(SPLITS)}.")
    twice = [name for name, count in Counter(chain(*found.split.values())).items() if count > 1]
    if twice:
        raise ValueError(f"Chromosome {twice[0]} is in a split twice or in two splits: name it once.")
    for split, names in found.split.items():
        for chromosome in names:
            pieces = {chromosome, *found.aliases.get(chromosome, [])}
            if not any(not s.chromosomes or pieces & s.chromosomes.keys() for s in found.species.values()):
                raise ValueError(
                    f"No species has the chromosome {chromosome} of split {split}: check its name."
                )
        for name, species in found.species.items():
            if names and not records_of(found, species, split):
                raise ValueError(
                    f"The splits are unequal: species {name} has no chromosome for {split}. Give it one, or "
                    "leave the species out."
                )


def _check_blocks(blocks: BlockSplit) -> None:
    held_out = [*blocks.valid, *blocks.test]
    fits = all(0 <= place < blocks.of for place in held_out)
    if blocks.group < 1 or not fits or not len(held_out) == len(set(held_out)) < blocks.of:
        raise ValueError(
            f"blocks hold out the places {held_out} of {blocks.of} groups of {blocks.group} blocks: they "
            "must be different, from 0 to one less than `of`, and leave some for training."
        )


def _check_files(found: SpeciesSet) -> None:
    owner: dict[Path, str] = {}
    for name, file in _files(found):
        path = Path(file)
        if path in owner:
            raise ValueError(
                f"The file {file} is listed twice, for {owner[path]} and for {name}: list it once."
            )
        owner[path] = name


def _files(found: SpeciesSet) -> Iterator[tuple[str, str]]:
    sources = read_sources(SOURCES)
    for name, species in found.species.items():
        if species.source is not None and species.source not in sources:
            hint = did_you_mean(species.source, sources)
            message = f"Species {name} names the source {species.source}, which is not in bio/sources.yaml."
            raise ValueError(f"{message} {hint}".rstrip())
        listed = [file for files in species.by_split.values() for file in files]
        yield from ((name, file) for file in listed or [fasta_of(species)])
