"""Genomes: FASTA files, packed once and memory-mapped, and positions in them."""
