"""Benchmarks of the kernels beside the official packages."""
