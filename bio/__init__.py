"""Genomes: packing, windows, vocabulary, scoring."""
