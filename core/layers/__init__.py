"""Layers of models: mixers, residual blocks, embeddings, pooling."""
