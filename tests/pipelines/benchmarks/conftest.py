"""Genomes for benchmark tests."""

from tests.bio.conftest import make_genome

__all__ = ["make_genome"]
