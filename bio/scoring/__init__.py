"""Scores of DNA: likelihood, tracks, Markov baselines, k-mer spectra, scaling laws, and their plots."""
