"""Genomes: FASTA files, packed bases, intervals, vocabulary."""
