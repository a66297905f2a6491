"""Mamba layers and models, their training, decoding, checkpoints and storage."""
