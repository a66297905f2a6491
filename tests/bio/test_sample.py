"""The bundled sequences match their README."""

from pathlib import Path

import numpy as np
import pytest

from bio.genome.genome import open_genome
from bio.genome.vocabulary import encode
from bio.sample import SAMPLE

FILES = sorted(SAMPLE.parent.glob("*.fa.gz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_bundled_file_matches_the_readme(path: Path, tmp_path: Path) -> None:
    readme = SAMPLE.with_name("README.md").read_text()
    genome = open_genome(path, tmp_path)
    (record,) = genome.records.values()
    start, end = map(int, record.name.partition(":")[2].split("-"))
    assert record.length == end - start
    counts = [np.count_nonzero(genome.bases == symbol) for symbol in encode("ACGT")]
    assert sum(counts) == record.length
    row = " | ".join(f"{count:,}" for count in counts)
    assert f"| `{path.name}` | `{record.name}` |" in readme
    assert f"| `{path.name}` | {row} |" in readme
    assert f"`{genome.sha256}`" in readme


def test_the_sample_is_among_them() -> None:
    assert SAMPLE in FILES
