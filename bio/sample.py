"""Path of the bundled sample: a megabase of human chromosome 20, for the demo and the tests."""

from pathlib import Path

SAMPLE = Path(__file__).parent / "data" / "human_chr20_40M_41M.fa.gz"
