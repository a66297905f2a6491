"""The seven models of the Mamba paper's DNA experiments (Gu and Dao 2023, section 4.3.1 and table 12)."""

from bio.genome.vocabulary import VOCABULARY_SIZE
from core.models.sequence import SequenceModelConfig

SIZES = {
    "250k": (64, 8),
    "700k": (96, 10),
    "1.4m": (128, 12),
    "3.5m": (192, 14),
    "7m": (256, 16),
    "19.3m": (384, 20),
    "40.7m": (512, 24),
}
"""d_model and blocks by name. The paper counts layers of a Transformer; two Mamba blocks stand for one."""


def sized_model(size: str) -> SequenceModelConfig:
    """The model of that name. Raises ValueError for another name."""
    if size not in SIZES:
        raise ValueError(f"There is no model of size {size!r}: it must be one of {', '.join(SIZES)}.")
    d_model, n_layer = SIZES[size]
    return SequenceModelConfig(vocab_size=VOCABULARY_SIZE, d_model=d_model, n_layer=n_layer)
