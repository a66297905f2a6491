"""Genomes for the tests."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from bio.genome.genome import Genome, open_genome

# A busy machine makes an example slow, which says nothing of the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

MakeGenome = Callable[[Mapping[str, str]], Genome]


@pytest.fixture(scope="session", autouse=True)
def one_cpu_thread() -> Iterator[None]:
    """Tiny models run on one thread: two spend most of their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_genome(tmp_path_factory: pytest.TempPathFactory) -> MakeGenome:
    """A genome of records given as text; in session scope, so that hypothesis may call it again and again."""

    def make(records: Mapping[str, str]) -> Genome:
        return open_genome(write_fasta(tmp_path_factory.mktemp("genome") / "genome.fa", records))

    return make


def write_fasta(path: Path, records: Mapping[str, str], width: int = 60) -> Path:
    """Write records as FASTA in lines of `width` bases."""
    lines = []
    for name, sequence in records.items():
        lines.append(f">{name}")
        lines += [sequence[start : start + width] for start in range(0, len(sequence), width)]
    path.write_text("\n".join(lines) + "\n")
    return path


def random_bases(length: int, seed: int = 0, letters: str = "ACGT") -> str:
    """A random sequence of `letters`."""
    return "".join(np.random.default_rng(seed).choice(list(letters), length))
