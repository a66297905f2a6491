"""The vocabulary: one token a base, with the ids of HyenaDNA's character tokenizer, in 16 embedding rows.

A byte of a packed genome is a token with the soft-mask flag in its highest bit, so that one uint8 array
carries bases and repeats together; `& TOKEN_BITS` gives the token, `& SOFT_MASK` the repeat flag.
"""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

CLS, SEP, BOS, MASK, PAD, RESERVED, UNK = range(7)
A, C, G, T, N = range(7, 12)

VOCABULARY_SIZE = 12
PADDED_VOCABULARY_SIZE = 16
BASES = slice(A, T + 1)
"""The columns of A, C, G, T in logits (..., 16): the only symbols that DNA is scored or generated over."""

SOFT_MASK = 0x80
TOKEN_BITS = 0x7F
INVALID = 0xFF
"""What ENCODE holds for a character that is no nucleotide code."""

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
"""(256,) from an ASCII code to a packed byte: IUPAC codes to N, U to T; lower case sets SOFT_MASK."""

COMPLEMENT = _complement_table()
"""(256,) from a packed byte to its complement; N, the specials and the soft-mask flag stay as they are."""


def encode(sequence: str) -> Bytes:
    """Tokens (length,) of a sequence; upper and lower case are one, IUPAC codes are N, U is T.

    Raises ValueError naming the first character that is no nucleotide code.
    """
    packed = ENCODE[np.frombuffer(sequence.encode("ascii", "replace"), np.uint8)]
    if (bad := np.flatnonzero(packed == INVALID)).size:
        raise ValueError(
            f"Character {sequence[bad[0]]!r} at position {bad[0] + 1} is not a nucleotide code: "
            "write the sequence in A, C, G, T, U, N and the IUPAC codes."
        )
    return without_mask(packed)


def without_mask(packed: Bytes) -> Bytes:
    """The tokens of packed bytes (any shape)."""
    return np.bitwise_and(packed, np.uint8(TOKEN_BITS))


def decode(tokens: npt.ArrayLike) -> str:
    """The text of tokens (length,): bases as letters, specials by name in brackets.

    Raises ValueError naming the first id outside the vocabulary.
    """
    ids = np.asarray(tokens).astype(np.int64)
    if (bad := np.flatnonzero((ids < 0) | (ids >= VOCABULARY_SIZE))).size:
        raise ValueError(
            f"Token {ids[bad[0]]} at position {bad[0] + 1} is not in the vocabulary of {VOCABULARY_SIZE}: "
            "restrict the logits to the bases before sampling."
        )
    return "".join(np.asarray(SYMBOLS, dtype=object)[ids])


def reverse_complement(tokens: Bytes) -> Bytes:
    """The other strand of tokens or packed bytes (..., length), read in its own direction."""
    return COMPLEMENT[tokens[..., ::-1]]
