"""Layers: mixers, residual blocks, embedding, pooling, and recomputation in the backward pass."""
