"""The vocabulary is that of HyenaDNA, its tables agree, and both strands hold the same bases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bio.genome.vocabulary import (
    BASES,
    COMPLEMENT,
    ENCODE,
    INVALID,
    PADDED_VOCABULARY_SIZE,
    SOFT_MASK,
    SYMBOLS,
    TOKEN_BITS,
    VOCABULARY_SIZE,
    decode,
    encode,
    reverse_complement,
    without_mask,
)

bases = st.text("ACGTN", max_size=300)


def test_ids_are_those_of_hyenadna() -> None:
    assert list(enumerate(SYMBOLS)) == [
        (0, "[CLS]"), (1, "[SEP]"), (2, "[BOS]"), (3, "[MASK]"), (4, "[PAD]"), (5, "[RESERVED]"),
        (6, "[UNK]"), (7, "A"), (8, "C"), (9, "G"), (10, "T"), (11, "N"),
    ]  # fmt: skip
    assert (len(SYMBOLS), PADDED_VOCABULARY_SIZE) == (VOCABULARY_SIZE, 16)
    assert SYMBOLS[BASES] == ("A", "C", "G", "T")


@given(bases)
def test_decode_undoes_encode(text: str) -> None:
    assert decode(encode(text)) == text


@given(bases)
def test_lower_case_is_the_same_base(text: str) -> None:
    assert np.array_equal(encode(text.lower()), encode(text))


def test_iupac_codes_are_n_and_u_is_t() -> None:
    assert decode(encode("RYSWKMBDHVNryswkmbdhvn")) == "N" * 22
    assert decode(encode("UuTt")) == "TTTT"


@given(st.characters())
def test_encode_rejects_every_other_character(character: str) -> None:
    if character in "ACGTURYSWKMBDHVNacgturyswkmbdhvn":
        assert encode(character).size == 1
    else:
        with pytest.raises(ValueError, match="position 3 is not a nucleotide code"):
            encode("AC" + character)


@pytest.mark.parametrize("token", [-1, 12, 15, 255])
def test_decode_rejects_tokens_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(ValueError, match=f"Token {token} at position 2 is not in the vocabulary"):
        decode([7, token])


def test_decode_names_specials_and_takes_nothing() -> None:
    assert decode([2, 7, 1]) == "[BOS]A[SEP]"
    assert decode([]) == ""


@given(bases)
def test_reverse_complement_is_its_own_inverse_and_pairs_bases(text: str) -> None:
    other = decode(reverse_complement(encode(text)))
    assert other == text[::-1].translate(str.maketrans("ACGT", "TGCA"))
    assert np.array_equal(reverse_complement(reverse_complement(encode(text))), encode(text))


def test_complement_is_an_involution_that_keeps_the_soft_mask() -> None:
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(COMPLEMENT[COMPLEMENT], every)
    assert np.array_equal(COMPLEMENT[every | SOFT_MASK], COMPLEMENT[every & TOKEN_BITS] | SOFT_MASK)


def test_soft_mask_is_set_for_lower_case_alone() -> None:
    for letter in "ACGTUN":
        upper, lower = ENCODE[ord(letter)], ENCODE[ord(letter.lower())]
        assert upper < SOFT_MASK <= lower < INVALID
        assert without_mask(lower) == upper
