"""Whether held-out sequence stands in the training sequence of another file, where coordinates cannot tell.

Two assemblies of one chromosome hold nearly the same sequence under other coordinates. A stretch that both
hold shares its k-mers; k is so long that unrelated sequence shares none but those of young repeats.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from bio.genome.genome import Genome
from bio.genome.spans import Spans
from bio.genome.vocabulary import A, Bytes, T, reverse_complement, without_mask
from core.random import hash_bits

K = 128
MOST_SHARED = 0.02
"""Above this share the same sequence is in both: of two distant parts of human chromosome 20, 0.002 is."""
SAMPLED = 16
"""Of so many k-mers one is looked up, by its hash: the same k-mers in both sequences."""
CHUNK_BASES = 1 << 17

Hashes = npt.NDArray[np.uint64]


def shared_kmers(train: Genome, train_spans: Spans, held_out: Genome, held_out_spans: Spans) -> float:
    """The share of the held-out K-mers that stand in the training bases too, on either strand.

    Spans (n, 2) are of their own genome. nan where no held-out K-mer of A, C, G and T was sampled.
    """
    with ThreadPoolExecutor() as pool:
        wanted = pool.map(_sampled, _chunks(held_out, held_out_spans))
        known, which = np.unique(np.concatenate([np.empty(0, np.uint64), *wanted]), return_inverse=True)
        if not known.size:
            return float("nan")
        is_shared = np.zeros(known.size, np.bool_)
        for found in pool.map(_sampled, _both_strands(_chunks(train, train_spans))):
            place = np.minimum(np.searchsorted(known, found), known.size - 1)
            is_shared[place[known[place] == found]] = True
    return float(is_shared[which].mean())


def _chunks(genome: Genome, spans: Spans) -> Iterator[Bytes]:
    """The tokens of spans, in pieces that overlap by K - 1, so that every K-mer of a span is whole in one."""
    for start, end in spans.tolist():
        for first in range(start, end - K + 1, CHUNK_BASES):
            yield without_mask(genome.bases[first : min(first + CHUNK_BASES + K - 1, end)])


def _both_strands(pieces: Iterable[Bytes]) -> Iterator[Bytes]:
    for tokens in pieces:
        yield tokens
        yield reverse_complement(tokens)


def _sampled(tokens: Bytes) -> Hashes:
    """The hashes (n,) of the sampled K-mers of tokens (length,); none of a K-mer that has an N."""
    words = (tokens - np.uint8(A)).astype(np.uint64)
    unknown = (tokens < A) | (tokens > T)
    for width in (1, 2, 4, 8, 16):  # exact up to here: 32 bases fill a word of 64 bits
        words = (words[:-width] << np.uint64(2 * width)) | words[width:]
    for width in (32, 64):
        words = _mixed(_mixed(words[:-width]) + words[width:])
    before = np.concatenate([[0], np.cumsum(unknown)])
    is_whole = before[K:] == before[:-K]
    return words[is_whole & (words % np.uint64(SAMPLED) == 0)]


def _mixed(words: Hashes) -> Hashes:
    """A permutation of the 64-bit words that leaves no pattern of bases (Steele et al. 2014, SplitMix64)."""
    return hash_bits(words.view(np.int64)).view(np.uint64)
