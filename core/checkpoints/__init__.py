"""Checkpoints: the project's own files and the published layouts."""
