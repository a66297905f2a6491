"""Benchmarks of training, sampling, scoring and data loading."""
