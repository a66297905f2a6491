"""The benchmark compares streaming with one forward pass, and stops if they differ."""

import math

import pytest
import torch

from pipelines.benchmarks import scoring
from tests.bio.conftest import MakeGenome, random_bases
from tests.bio.scoring.test_likelihood import model_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streaming_is_checked_from_the_first_known_base(
    make_genome: MakeGenome,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(scoring, "WINDOW", 300)
    monkeypatch.setattr(scoring, "CHUNK_BASES", 64)
    genome = make_genome({"chr1": "N" * 50 + random_bases(400)})
    largest = scoring.check_difference(model_of(), genome, "chr1", dtype)
    assert math.isfinite(largest)
    assert "over 299 bases differ by at most" in capsys.readouterr().out
    monkeypatch.setitem(scoring.LARGEST_DIFFERENCE, dtype, -1.0)
    with pytest.raises(SystemExit, match=r"exceeds -1\.0 nats"):
        scoring.check_difference(model_of(), genome, "chr1", dtype)


def test_missing_gpu_is_reported(make_genome: MakeGenome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="needs a GPU"):
        scoring.main(["genome.fa"])
