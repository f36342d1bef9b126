"""The table of what is trained: one line per document, a token range of a shard.

examples of a shard  --whole_documents-->  documents  --cut_documents(policy)-->  documents
"""

import numpy as np

from pipeline.trainer.data.cutoff import DocumentPolicy, TokenSpan, cut
from pipeline.trainer.data.prefix_tree import LossSpans
from pipeline.trainer.data.shard import KEY_BYTES, Shard, edges

DOCUMENT = np.dtype(
    [
        ("shard", "<u4"),
        ("start", "<u4"),  # tokens [start, start + length) of the shard
        ("length", "<u4"),
        ("shared", "<u4"),  # how many of them, from the first on, the document before it has, too
        ("trained_from", "<u4"),  # token of the shard before which no loss counts
        ("first_span", "<u4"),  # loss spans [first_span, last_span) of the shard
        ("last_span", "<u4"),
        ("dataset", "<u4"),
        ("row", "<u4"),  # of the dataset, from 0
        ("trained_tokens", "<u4"),
        ("loss_weight", "<f8"),  # sum over the tokens
        ("score", "<f8"),  # of the row; NaN: it has none
        ("row_key", "u1", (KEY_BYTES,)),
    ]
)


def loss_spans(shard: Shard, document: np.void) -> LossSpans:
    """What of the shard's spans lies in the document, behind `trained_from`."""
    start = int(document["start"])
    chosen = slice(int(document["first_span"]), int(document["last_span"]))
    bounds = int(document["trained_from"]), start + int(document["length"])
    starts, ends = (side[chosen].clip(*bounds) for side in (shard.span_starts, shard.span_ends))
    inside = ends > starts
    weights = shard.span_weights[chosen]
    return LossSpans(starts[inside] - start, ends[inside] - start, weights[inside])


def whole_documents(shard: Shard, number: int, dataset: int, first_row: int) -> np.ndarray:
    """One document per example, uncut; `number` and `dataset` are places in lists of the store."""
    row_examples = shard.table("row_examples")
    lengths = shard.table("lengths").astype(np.int64)
    spans = edges(shard.table("span_counts"))
    rows = np.repeat(np.arange(len(row_examples)), row_examples)
    documents = np.zeros(len(lengths), dtype=DOCUMENT)
    documents["shard"], documents["dataset"] = number, dataset
    documents["start"] = documents["trained_from"] = np.cumsum(lengths) - lengths
    documents["length"] = lengths
    documents["shared"] = shard.shared
    documents["first_span"], documents["last_span"] = spans[:-1], spans[1:]
    documents["row"] = first_row + rows
    documents["score"] = shard.table("row_scores")[rows]
    documents["row_key"] = shard.table("row_keys")[rows]
    span_tokens = shard.span_ends - shard.span_starts
    documents["trained_tokens"] = _sums(span_tokens, spans)
    documents["loss_weight"] = _sums(span_tokens * shard.span_weights, spans)
    return documents


def cut_documents(
    shard: Shard, whole: np.ndarray, policy: DocumentPolicy, cutoff_len: int
) -> np.ndarray:
    """The documents that a policy makes of whole ones, in the same order."""
    cuts = [cut_document(shard, document, policy, cutoff_len) for document in whole]
    return np.concatenate(cuts) if cuts else whole


def with_shared(whole: np.ndarray, left: np.ndarray) -> np.ndarray:
    """`left`, made of the examples `whole` and in their order, with `shared` between neighbours.

    Only documents that begin where their example begins share anything.
    """
    left = left.copy()
    examples = np.searchsorted(whole["start"], left["start"], side="right") - 1
    begins = left["start"] == whole["start"][examples]
    is_related = begins[1:] & begins[:-1] & (left["row"][1:] == left["row"][:-1])
    first = np.flatnonzero(is_related)
    # Examples in between may be gone: what two share, all between them have as well.
    between = np.stack([examples[first] + 1, examples[first + 1] + 1], axis=1).ravel()
    shared = np.minimum.reduceat(np.append(whole["shared"], 0), between)[::2]
    lengths = np.minimum(left["length"][first], left["length"][first + 1])
    left["shared"] = 0
    left["shared"][first + 1] = np.minimum(shared, lengths)
    return left


def cut_document(
    shard: Shard, whole: np.void, policy: DocumentPolicy, cutoff_len: int
) -> np.ndarray:
    """None, one or several documents of one."""
    spans = loss_spans(shard, whole)
    pieces = cut(policy, int(whole["length"]), turns(spans), cutoff_len)
    documents = np.repeat(np.asarray(whole).reshape(1), len(pieces))
    for document, piece in zip(documents, pieces, strict=True):
        document["start"] += piece.start
        document["length"] = piece.end - piece.start
        document["trained_from"] += piece.trained_from
        tokens = loss_spans(shard, document)
        lengths = tokens.ends - tokens.starts
        document["trained_tokens"] = lengths.sum()
        document["loss_weight"] = (lengths * tokens.weights).sum()
    return documents


def first_turn_ends(shard: Shard, whole: np.ndarray) -> np.ndarray:
    """(documents,) tokens of each up to the end of its first trained turn"""
    ends = shard.span_ends
    is_last = np.append(_ends_turn(shard.span_starts, ends, shard.span_weights), True)
    is_last[whole["last_span"].astype(np.int64) - 1] = True
    last_spans = np.flatnonzero(is_last)
    first = last_spans[np.searchsorted(last_spans, whole["first_span"])]
    return ends[first] - whole["start"]


def turns(spans: LossSpans) -> list[TokenSpan]:
    """The trained turns of a document; spans that touch and weigh differently are one (Example)."""
    if not len(spans.starts):
        return []
    breaks = _ends_turn(*spans)
    starts = spans.starts[np.append(True, breaks)]
    ends = spans.ends[np.append(breaks, True)]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _ends_turn(starts: np.ndarray, ends: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(spans - 1,) whether each span but the last is the end of its turn."""
    return (starts[1:] != ends[:-1]) | (weights[1:] == weights[:-1])


def _sums(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Sum of values[bounds[i]:bounds[i + 1]], none of them empty, for every i."""
    return np.add.reduceat(values, bounds[:-1]) if len(bounds) > 1 else np.zeros(0)
