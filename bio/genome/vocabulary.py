"""Vocabulary of DNA: one token per base, with the ids of HyenaDNA's character tokenizer.

A packed byte is a token with the soft-mask flag in its highest bit, so one uint8 array holds bases and
repeats: `& TOKEN_BITS` gives the token, `& SOFT_MASK` the repeat flag. Models have 16 embedding rows.
"""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

CLS, SEP, BOS, MASK, PAD, RESERVED, UNK = range(7)
A, C, G, T, N = range(7, 12)

VOCABULARY_SIZE = 12
PADDED_VOCABULARY_SIZE = 16
BASES = slice(A, T + 1)
"""Columns of A, C, G, T in logits (..., 16); scores and samples use only these symbols."""

SOFT_MASK = 0x80
TOKEN_BITS = 0x7F
INVALID = 0xFF
"""Value in ENCODE of a character that is not a nucleotide code."""

SYMBOLS = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N")
AMBIGUOUS = "RYSWKMBDHVN"


def _encode_table() -> Bytes:
    table = np.full(256, INVALID, np.uint8)
    tokens = dict(zip("ACGTU", (A, C, G, T, T), strict=True)) | dict.fromkeys(AMBIGUOUS, N)
    for character, token in tokens.items():
        table[ord(character)] = token
        table[ord(character.lower())] = token | SOFT_MASK
    return table


def _complement_table() -> Bytes:
    table = np.arange(256, dtype=np.uint8)
    for base, partner in ((A, T), (C, G), (G, C), (T, A)):
        table[base] = partner
        table[base | SOFT_MASK] = partner | SOFT_MASK
    return table


ENCODE = _encode_table()
"""Table (256,) from ASCII code to packed byte: IUPAC codes give N, U gives T, lower case sets SOFT_MASK."""

COMPLEMENT = _complement_table()
"""Table (256,) from packed byte to complement; N, special tokens and the soft-mask flag do not change."""


def encode(sequence: str) -> Bytes:
    """Return tokens (length,) of a sequence in either case; IUPAC codes become N, U becomes T.

    Raises ValueError with the first character that is not a nucleotide code.
    """
    packed = ENCODE[np.frombuffer(sequence.encode("ascii", "replace"), np.uint8)]
    if (bad := np.flatnonzero(packed == INVALID)).size:
        raise ValueError(
            f"Character {sequence[bad[0]]!r} at position {bad[0] + 1} is not a nucleotide code. "
            "Write the sequence in A, C, G, T, U, N and the IUPAC codes."
        )
    return without_mask(packed)


def without_mask(packed: Bytes) -> Bytes:
    """Return the tokens of packed bytes (any shape)."""
    return np.bitwise_and(packed, np.uint8(TOKEN_BITS))


def decode(tokens: npt.ArrayLike) -> str:
    """Return the text of tokens (length,): bases as letters, special tokens as names in brackets.

    Raises ValueError with the first id outside the vocabulary.
    """
    ids = np.asarray(tokens).astype(np.int64)
    if (bad := np.flatnonzero((ids < 0) | (ids >= VOCABULARY_SIZE))).size:
        raise ValueError(
            f"Token {ids[bad[0]]} at position {bad[0] + 1} is not in the vocabulary of {VOCABULARY_SIZE}. "
            "Restrict the logits to the bases before sampling."
        )
    return "".join(np.asarray(SYMBOLS, dtype=object)[ids])


def reverse_complement(tokens: Bytes) -> Bytes:
    """Return the reverse complement of tokens or packed bytes (..., length)."""
    return COMPLEMENT[tokens[..., ::-1]]
