"""Leakage: the share of held-out k-mers that also occur in the training bases, on either strand.

Two assemblies of one chromosome, or two records of one file (`chr1` and `chr1_alt`), hold nearly the same
sequence at other coordinates, so coordinates cannot show leakage. Shared sequence has shared k-mers; K is so
long that unrelated sequence shares only k-mers of young repeats.
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
MAX_SHARED = 0.02
"""Limit of the share; two distant parts of human chromosome 20 share 0.002."""
SAMPLED = 16
"""One k-mer in SAMPLED is looked up; its hash decides, so both sequences sample the same k-mers."""
CHUNK_BASES = 1 << 17

Hashes = npt.NDArray[np.uint64]


def shared_kmers(train: Genome, train_spans: Spans, held_out: Genome, held_out_spans: Spans) -> float:
    """Return the share of held-out K-mers that also occur in the training bases, on either strand.

    Each spans (n, 2) belong to their genome. The share is nan if no held-out K-mer was sampled.
    """
    with ThreadPoolExecutor() as pool:
        held_out_hashes = pool.map(_sample_hashes, _chunks(held_out, held_out_spans))
        hashes, inverse = np.unique(
            np.concatenate([np.empty(0, np.uint64), *held_out_hashes]), return_inverse=True
        )
        if not hashes.size:
            return float("nan")
        is_shared = np.zeros(hashes.size, np.bool_)
        for train_hashes in pool.map(_sample_hashes, _both_strands(_chunks(train, train_spans))):
            index = np.minimum(np.searchsorted(hashes, train_hashes), hashes.size - 1)
            is_shared[index[hashes[index] == train_hashes]] = True
    return float(is_shared[inverse].mean())


def _chunks(genome: Genome, spans: Spans) -> Iterator[Bytes]:
    """Yield the tokens of spans in chunks that overlap by K - 1, so each K-mer is whole in one chunk."""
    for start, end in spans.tolist():
        for first in range(start, end - K + 1, CHUNK_BASES):
            yield without_mask(genome.bases[first : min(first + CHUNK_BASES + K - 1, end)])


def _both_strands(chunks: Iterable[Bytes]) -> Iterator[Bytes]:
    for tokens in chunks:
        yield tokens
        yield reverse_complement(tokens)


def _sample_hashes(tokens: Bytes) -> Hashes:
    """Return the hashes (n,) of the sampled K-mers of tokens (length,), without K-mers that hold an N."""
    words = (tokens - np.uint8(A)).astype(np.uint64)
    unknown = (tokens < A) | (tokens > T)
    for width in (1, 2, 4, 8, 16):  # exact: 32 bases fill a word of 64 bits
        words = (words[:-width] << np.uint64(2 * width)) | words[width:]
    for width in (32, 64):
        words = _mix(_mix(words[:-width]) + words[width:])
    before = np.concatenate([[0], np.cumsum(unknown)])
    is_whole = before[K:] == before[:-K]
    return words[is_whole & (words % np.uint64(SAMPLED) == 0)]


def _mix(words: Hashes) -> Hashes:
    """Permute 64-bit words so that no pattern of bases remains (SplitMix64, Steele et al. 2014)."""
    return hash_bits(words.view(np.int64)).view(np.uint64)
