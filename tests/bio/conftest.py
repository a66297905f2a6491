"""Genomes for the tests."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from bio.genome.genome import Genome, open_genome

# Examples are slow on a busy machine.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

MakeGenome = Callable[[Mapping[str, str]], Genome]


@pytest.fixture(scope="session", autouse=True)
def one_cpu_thread() -> Iterator[None]:
    """Run tiny models on one thread; two threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_genome(tmp_path_factory: pytest.TempPathFactory) -> MakeGenome:
    """Make a genome from records as text; session scope, so that hypothesis can call it repeatedly."""

    def make(records: Mapping[str, str]) -> Genome:
        return open_genome(write_fasta(tmp_path_factory.mktemp("genome") / "genome.fa", records))

    return make


@pytest.fixture
def run_fasta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """FASTA of 3000 and 2000 bases, outside the new and empty working folder."""
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    return write_fasta(tmp_path / "tiny.fa", {"chr1": random_bases(3000, 1), "chr2": random_bases(2000, 2)})


def write_fasta(path: Path, records: Mapping[str, str], width: int = 60) -> Path:
    """Write records as FASTA in lines of `width` bases."""
    lines = []
    for name, sequence in records.items():
        lines.append(f">{name}")
        lines += [sequence[start : start + width] for start in range(0, len(sequence), width)]
    path.write_text("\n".join(lines) + "\n")
    return path


def random_bases(length: int, seed: int = 0, letters: str = "ACGT") -> str:
    """Return a random sequence of `letters`."""
    return "".join(np.random.default_rng(seed).choice(list(letters), length))
