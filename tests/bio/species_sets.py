"""Sets of species made of random or Markov sequences, for the tests."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from bio.species.segments import SpeciesData, open_species
from bio.species.species_set import read_species
from tests.bio.conftest import random_bases, write_fasta

NAMES = ("human", "chimpanzee", "bonobo", "gorilla", "orangutan")


def write_set(folder: Path, content: Mapping[str, object]) -> Path:
    """A file of a set of species."""
    path = folder / "set.yaml"
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
    return path


def opened(folder: Path, content: Mapping[str, object]) -> SpeciesData:
    """A set of species whose files are in `folder`."""
    return open_species(read_species(str(write_set(folder, content))), folder)


def two_species(folder: Path, lengths: Mapping[str, int], **rule: object) -> dict[str, object]:
    """The content of a set of two species with random records of these lengths."""
    for seed, name in enumerate(("one", "two")):
        records = {record: random_bases(length, seed) for record, length in lengths.items()}
        write_fasta(folder / f"{name}.fa", records)
    return {"species": {name: {"fasta": f"{name}.fa"} for name in ("one", "two")}, **rule}


def markov_species(folder: Path, bases: int, order: int = 2) -> Path:
    """Five species, each with its own Markov chain; records c1, c2, c3 are the splits."""
    for seed, name in enumerate(NAMES):
        text = _chain(seed, bases, order)
        half, rest = bases // 2, bases * 3 // 4
        write_fasta(folder / f"{name}.fa", {"c1": text[:half], "c2": text[half:rest], "c3": text[rest:]})
    split = {"train": ["c1"], "valid": ["c2"], "test": ["c3"]}
    return write_set(folder, {"species": {name: {"fasta": f"{name}.fa"} for name in NAMES}, "split": split})


def _chain(seed: int, length: int, order: int) -> str:
    random = np.random.default_rng(seed)
    odds = np.exp(0.8 * random.normal(size=(4**order, 4)))
    cumulative = (odds / odds.sum(axis=1, keepdims=True)).cumsum(axis=1)
    context, bases = 0, []
    for uniform in random.random(length):
        base = min(3, int((cumulative[context] < uniform).sum()))
        bases.append("ACGT"[base])
        context = (context * 4 + base) % 4**order
    return "".join(bases)
