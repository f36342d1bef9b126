"""Which examples stand beside each other, and what each shares with the one before it.

    examples of the store    1 2 3 | 4 5 | 6     rows
    --within_rows-->         1 2 3   4 5   6     as they are
    --across_rows-->         1 6 2 3   4 5       by what they begin with, whatever their row

Rows begin alike where one is a fork of another, where both are attempts at one task, and where they
have a system prompt in common.
"""

from typing import NamedTuple

import numpy as np

from pipeline.trainer.data.prefix_tree import common_prefix
from pipeline.trainer.data.store import TokenStore

_PIECE = 64
"""Tokens that are hashed together; rows that have fewer in common are not worth a branch."""
_WORD = np.dtype(">u8")
_POWERS = np.cumprod(np.full(_PIECE, 0x9E37_79B9_7F4A_7C15, dtype=np.uint64))  # modulo 2^64


class Neighbours(NamedTuple):
    """All examples of a store, one behind the other."""

    examples: np.ndarray  # (examples,) int64, their numbers in the store
    shared: np.ndarray  # (examples,) int64, tokens from the first on that the one before has, too


def separate(store: TokenStore) -> Neighbours:
    """Nothing is shared."""
    return Neighbours(np.arange(len(store)), np.zeros(len(store), dtype=np.int64))


def within_rows(store: TokenStore) -> Neighbours:
    """In the order of the store; only examples of one row share."""
    return Neighbours(np.arange(len(store)), store.documents["shared"].astype(np.int64))


def across_rows(store: TokenStore, held_out: np.ndarray) -> Neighbours:
    """Examples of a dataset that begin alike beside each other; one dataset after the other.

    `held_out` are numbers of rows (`store.rows`); they share nothing with the others. Reads every
    token of the store, of one or two examples at a time, and keeps 8 bytes for 64 tokens.
    """
    parts = 2 * store.datasets + np.isin(store.rows, held_out)
    digests = [_digests(store.ids(example)) for example in range(len(store))]
    order = sorted(range(len(store)), key=lambda example: (parts[example], digests[example]))
    shared = np.zeros(len(store), dtype=np.int64)
    for place, (before, example) in enumerate(zip(order, order[1:], strict=False), start=1):
        if parts[before] == parts[example]:
            same = _num_same(digests[before], digests[example])
            # Hashes may agree by chance: what counts is the tokens, up to where they tell apart.
            end = (same + 1) * _PIECE
            found = common_prefix(store.ids(before, end=end), store.ids(example, end=end))
            shared[place] = found if found >= _PIECE else 0
    return Neighbours(np.array(order, dtype=np.int64), shared)


def _digests(ids: np.ndarray) -> bytes:
    """One word per piece: what begins with the same pieces is together when sorted."""
    pieces = np.zeros((-(-len(ids) // _PIECE), _PIECE), dtype=np.uint64)
    pieces.ravel()[: len(ids)] = ids
    return (pieces @ _POWERS).astype(_WORD).tobytes()


def _num_same(one: bytes, other: bytes) -> int:
    return common_prefix(np.frombuffer(one, _WORD), np.frombuffer(other, _WORD))
