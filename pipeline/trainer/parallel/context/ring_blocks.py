"""Which queries of one rank see which keys of another: rectangles, so that no mask is needed.

The tokens of a segment (prefix_tree.py) see all of its ancestors, and of the segment itself what
stands before them: causally in the same chunk, all of an earlier one, nothing of a later one.
"""

from functools import lru_cache
from typing import NamedTuple

from pipeline.trainer.data.prefix_tree import Segment, TokenRange
from pipeline.trainer.parallel.context.layout import Layout


class Block(NamedTuple):
    """Queries of one rank that see keys of another: [first, end) in each rank's own tokens."""

    queries: slice
    keys: slice
    is_causal: bool
    """A square of which the upper right half is masked; else nothing is."""


@lru_cache(maxsize=256)
def blocks_between(
    segments: tuple[Segment, ...], layout: Layout, rank: int, owner: int
) -> tuple[Block, ...]:
    """What the queries of `rank` see of the keys of `owner`; the segments cover the sequence."""
    size = segments[-1].end // layout.num_chunks
    found = []
    for query_place, query_chunk in enumerate(layout.chunks(rank)):
        to_query = (query_place - query_chunk) * size  # from the sequence to the rank
        for segment in segments:
            queries = _common((segment.start, segment.end), _chunk(query_chunk, size))
            for key_place, key_chunk in enumerate(layout.chunks(owner)) if queries else ():
                to_key = (key_place - key_chunk) * size
                own = [(segment.start, segment.end)] if key_chunk <= query_chunk else []
                for seen in (*segment.ancestors, *own):
                    keys = _common(seen, _chunk(key_chunk, size))
                    if queries and keys:
                        found.append(
                            Block(
                                slice(queries[0] + to_query, queries[1] + to_query),
                                slice(keys[0] + to_key, keys[1] + to_key),
                                is_causal=seen in own and key_chunk == query_chunk,
                            )
                        )
    return tuple(found)


@lru_cache(maxsize=256)
def needed_hops(segments: tuple[Segment, ...], layout: Layout) -> tuple[int, ...]:
    """The distances in the ring, from 1, over which some rank needs the keys of another.

    Short documents need their neighbours' only, and one that ends with its chunk needs none.
    """
    ranks = range(layout.num_ranks)
    return tuple(
        hop
        for hop in ranks[1:]
        if any(
            blocks_between(segments, layout, rank, (rank - hop) % layout.num_ranks)
            for rank in ranks
        )
    )


def _chunk(number: int, size: int) -> TokenRange:
    return number * size, (number + 1) * size


def _common(one: TokenRange, other: TokenRange) -> TokenRange | None:
    first, last = max(one[0], other[0]), min(one[1], other[1])
    return (first, last) if first < last else None
