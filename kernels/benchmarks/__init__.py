"""Benchmarks of the kernels and of the official packages."""
