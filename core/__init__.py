"""Mamba mixers, blocks and models, their training and their sampling."""
