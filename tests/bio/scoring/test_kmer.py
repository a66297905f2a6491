"""k-mer counts equal those of a plain loop; distances have their mathematical properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bio.genome.vocabulary import encode, reverse_complement
from bio.scoring.kmer import (
    jensen_shannon,
    kmer_ids,
    kmer_names,
    kmer_spectrum,
    pearson,
    strandless_columns,
    strandless_spectrum,
)
from tests.bio.conftest import random_bases


@given(text=st.text("ACGTN", max_size=80), k=st.integers(1, 5))
def test_ids_name_every_kmer_and_pass_over_n(text: str, k: int) -> None:
    names = kmer_names(k)
    words = [text[i : i + k] for i in range(len(text) - k + 1)]
    ids = kmer_ids(encode(text), k)
    assert [names[i] if i >= 0 else "N" for i in ids.tolist()] == [
        "N" if "N" in word else word for word in words
    ]


@given(text=st.text("ACGT", min_size=13, max_size=30))
def test_ids_of_the_longest_kmers_fit(text: str) -> None:
    digits = ["ACGT".index(base) for base in text]
    expected = [
        sum(d * 4 ** (12 - j) for j, d in enumerate(digits[i : i + 13])) for i in range(len(text) - 12)
    ]
    assert kmer_ids(encode(text), 13).tolist() == expected


def test_spectrum_is_the_share_of_each_kmer_over_all_rows() -> None:
    rows = np.stack([encode("AAAC"), encode("ACNA")])
    spectrum = kmer_spectrum(rows, 2)
    assert spectrum.shape == (16,)
    assert {name: share for name, share in zip(kmer_names(2), spectrum, strict=True) if share} == {
        "AA": 0.5,
        "AC": 0.5,
    }


def test_no_kmers_and_impossible_k_are_errors() -> None:
    with pytest.raises(ValueError, match="hold no 4-mer of A, C, G, T"):
        kmer_spectrum(encode("ACNGT"), 4)
    for k in (0, 14):
        with pytest.raises(ValueError, match="k must be 1 to 13"):
            kmer_ids(encode("ACGT"), k)


@given(first=st.integers(0, 1000), second=st.integers(0, 1000))
def test_divergence_is_symmetric_bounded_and_zero_for_equals(first: int, second: int) -> None:
    one, other = (kmer_spectrum(encode(random_bases(50, seed)), 3) for seed in (first, second))
    assert jensen_shannon(one, one) == 0
    assert jensen_shannon(one, other) == pytest.approx(jensen_shannon(other, one), abs=1e-12)
    assert 0 <= jensen_shannon(one, other) <= 1 + 1e-12
    assert pearson(one, one) == pytest.approx(1)


def test_disjoint_spectra_are_one_bit_apart() -> None:
    one, other = kmer_spectrum(encode("AAAA"), 2), kmer_spectrum(encode("CCCC"), 2)
    assert jensen_shannon(one, other) == pytest.approx(1)


@given(text=st.text("ACGTN", min_size=8, max_size=60), k=st.integers(1, 5))
def test_a_strandless_spectrum_is_that_of_either_strand(text: str, k: int) -> None:
    tokens = encode(text)
    spectrum = strandless_spectrum(tokens, k)
    np.testing.assert_array_equal(spectrum, strandless_spectrum(reverse_complement(tokens), k))
    palindromes = 4 ** (k // 2) if k % 2 == 0 else 0
    assert spectrum.shape == ((4**k + palindromes) // 2,)
    known = sum("N" not in text[i : i + k] for i in range(len(text) - k + 1))
    assert spectrum.sum() == pytest.approx(1.0 if known else 0.0)


def test_a_k_mer_and_its_reverse_complement_share_a_column() -> None:
    columns = dict(zip(kmer_names(3), strandless_columns(3).tolist(), strict=True))
    assert columns["AAC"] == columns["GTT"]
    assert columns["AAC"] != columns["AAG"]


def test_strandless_spectrum_of_long_kmers_is_an_error_before_allocation() -> None:
    with pytest.raises(ValueError, match="k must be 1 to 13"):
        strandless_spectrum(encode("ACGT"), 20)
