"""Finds trajectories that say the same, exactly or nearly, in a run over all trials and sources.

Exactly: `exact_key` is a hash of the conversation without what only a log makes up (ids of calls).
Nearly: `signature` is a MinHash of the set of all 5-word runs in what is trained, that is, in the
reasoning, text, tool names and arguments of the assistant turns of weight above 0, in order. Two
attempts at one task share the prompt and much tool output, and two chains of a trial share turns
that one of them trains; all this is left out. What is left they share only if they are copies. The
share of equal positions in two signatures estimates the Jaccard similarity of the two sets, for 128
positions with a standard error of at most 0.045.

MinHash with one permutation: a hash puts each run into one of the positions, which keeps the least
of its runs. A position without runs takes the value of another, chosen by its own number alone, so
that equal sets stay equal everywhere (optimal densification, Shrivastava 2017). That costs one pass
and one sort, whatever the number of positions.
"""

import functools
from collections.abc import Iterator
from hashlib import blake2b
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from pipeline.jsonl import encode_json
from pipeline.trajectory import Message, Trajectory

_RUN_WORDS = 5
_MIN_WORDS = 30
"""Fewer words may be equal by chance: "All tests pass now." """
_BLOCK_BYTES = 1 << 16
_BASE = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse modulo 2^64."""
_MAX_MISSED = 0.01
"""Share of the pairs at the threshold that banding may miss."""

Hashes = NDArray[np.uint64]


def exact_key(messages: list[Message]) -> bytes:
    """16 bytes that are equal for equal conversations: roles, texts, reasoning and calls.

    Ids of calls, weights and error flags are left out; results count in their order.
    """
    digest = blake2b(digest_size=16)
    for message in messages:
        texts = [message.role, message.content, message.reasoning_content]
        for call in message.tool_calls:
            texts += [call.name, call.arguments]
        for text in texts:
            data = _encoded(text)
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        digest.update(len(texts).to_bytes(8, "little"))
    return digest.digest()


def prompt_key(trajectory: Trajectory) -> bytes:
    """16 bytes that are equal for conversations whose model was asked the same with the same tools:
    `exact_key` of what stands before its first turn, and the tools."""
    asked = list(takewhile(lambda message: message.role != "assistant", trajectory.messages))
    tools = Message(role="system", content=encode_json(trajectory.tools).decode())
    return exact_key([*asked, tools])


def signature(messages: list[Message], num_hashes: int = 128) -> bytes:
    """The MinHash of what is trained: `num_hashes` 32-bit numbers, the same on all machines.

    `num_hashes`: a power of two, at least 2.
    Returns: b"", which resembles nothing, if there are fewer than 30 words.
    """
    words = _word_hashes(b"\n".join(_trained(messages)))
    if len(words) < _MIN_WORDS:
        return b""
    runs = _runs(words)
    shift = np.uint64(64 - (num_hashes.bit_length() - 1))
    edges = np.arange(num_hashes, dtype=np.uint64) << shift
    first = np.searchsorted(runs, edges)
    is_filled = np.append(first[1:], len(runs)) > first
    # The bits that choose the position say nothing within it.
    least = (runs[np.minimum(first, len(runs) - 1)] << np.uint64(64 - int(shift))) >> np.uint64(32)
    donors = _donors(num_hashes)
    for position in np.flatnonzero(~is_filled):
        row = donors[position]
        filled = row[is_filled[row]]
        least[position] = least[filled[0]]
    return least.astype("<u4").tobytes()


def similarity(one: bytes, other: bytes) -> float:
    """The estimated similarity of two signatures of one length, from 0 to 1."""
    if not one or not other:
        return 0.0
    return float(np.mean(np.frombuffer(one, "<u4") == np.frombuffer(other, "<u4")))


class DuplicateFinder:
    """Tells of each trajectory whether it duplicates one that came before it.

    Signatures are cut into bands; trajectories that agree in a whole band are compared. Memory is
    one signature and one entry per band for each trajectory that is no duplicate. The answers
    depend on the order of the calls, and on nothing else.
    """

    def __init__(self, threshold: float, num_hashes: int = 128) -> None:
        """`threshold`: lowest similarity of a near-duplicate, above 0; 1.0: only exact ones and
        those whose signatures are equal. `num_hashes`: as the signatures have."""
        self._threshold = threshold
        self._num_hashes = num_hashes
        self._rows = _rows_per_band(threshold, num_hashes)
        self._names: list[str] = []
        self._signatures = np.empty((64, num_hashes), dtype="<u4")
        self._by_key: dict[bytes, str] = {}
        self._first: dict[int, int] = {}
        self._later: dict[int, list[int]] = {}
        """Hash of a band -> rows of `_signatures`; nearly all bands have but one."""

    def add(self, key: bytes, signature: bytes, name: str) -> str | None:
        """The name of the trajectory that this one duplicates; None, and it is remembered, if none.

        Of several, the one with the same key, then the most similar, then the earliest.
        """
        if key in self._by_key:
            return self._by_key[key]
        found = self._nearest(signature) if signature else None
        if found is not None:
            # Its exact copies are copies of the same.
            self._by_key[key] = found
            return found
        self._by_key[key] = name
        if signature:
            self._remember(signature, name)
        return None

    def _nearest(self, signature: bytes) -> str | None:
        candidates: set[int] = set()
        for band in self._bands(signature):
            if band in self._first:
                candidates.add(self._first[band])
                candidates.update(self._later.get(band, ()))
        if not candidates:
            return None
        rows = np.array(sorted(candidates))
        same = np.mean(self._signatures[rows] == np.frombuffer(signature, "<u4"), axis=1)
        best = int(np.argmax(same))
        return self._names[rows[best]] if same[best] >= self._threshold else None

    def _remember(self, signature: bytes, name: str) -> None:
        row = len(self._names)
        if row == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[row] = np.frombuffer(signature, "<u4")
        self._names.append(name)
        for band in self._bands(signature):
            if self._first.setdefault(band, row) != row:
                self._later.setdefault(band, []).append(row)

    def _bands(self, signature: bytes) -> Iterator[int]:
        width = 4 * self._rows
        for start in range(0, 4 * self._num_hashes, width):
            data = start.to_bytes(4, "little") + signature[start : start + width]
            yield int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _rows_per_band(threshold: float, num_hashes: int) -> int:
    """The longest bands that miss at most 1 % of the pairs whose similarity is the threshold."""
    rows = num_hashes
    while rows > 1 and (1 - threshold**rows) ** (num_hashes // rows) > _MAX_MISSED:
        rows //= 2
    return rows


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _trained(messages: list[Message]) -> Iterator[bytes]:
    for message in messages:
        if message.role == "assistant" and message.weight > 0:
            yield _encoded(message.reasoning_content)
            yield _encoded(message.content)
            for call in message.tool_calls:
                yield _encoded(call.name)
                yield _encoded(call.arguments)


def _runs(words: Hashes) -> Hashes:
    """The distinct hashes of all runs of 5 words, sorted. There are at least so many words."""
    count = len(words) - _RUN_WORDS + 1
    mixed = words[:count].copy()
    for offset in range(1, _RUN_WORDS):
        mixed *= np.uint64(_BASE)
        mixed += words[offset : offset + count]
    mixed = _scattered(mixed)
    mixed.sort()
    is_new = np.ones(count, dtype=bool)
    is_new[1:] = mixed[1:] != mixed[:-1]
    return mixed[is_new]


def _word_hashes(data: bytes) -> Hashes:
    """A hash of each word, that is, of each run of ASCII letters, digits, `_` and other bytes
    above ASCII: the polynomial over its bytes, from one running sum over each block."""
    hashes: list[Hashes] = []
    start = 0
    while start < len(data):
        end = _block_end(data, start)
        hashes.append(_block_hashes(np.frombuffer(data, np.uint8, end - start, start)))
        start = end
    return np.concatenate(hashes) if hashes else np.empty(0, np.uint64)


def _block_end(data: bytes, start: int) -> int:
    """The end of a block that cuts no word, unless the word is as long as a block."""
    end = start + _BLOCK_BYTES
    if end >= len(data):
        return len(data)
    cut = max(data.rfind(b" ", start, end), data.rfind(b"\n", start, end))
    return cut + 1 if cut >= start else end


def _block_hashes(block: NDArray[np.uint8]) -> Hashes:
    powers, inverses = _powers()
    is_word = _WORD_BYTES[block]
    edges = np.flatnonzero(np.diff(is_word, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    sums = np.zeros(len(block) + 1, dtype=np.uint64)
    # The byte plus one, so that a word of zeros has a hash too.
    np.cumsum((block.astype(np.uint64) + np.uint64(1)) * powers[: len(block)], out=sums[1:])
    return _scattered((sums[ends] - sums[starts]) * inverses[starts])


@functools.cache
def _powers() -> tuple[Hashes, Hashes]:
    """Powers of the base, and of its inverse, for every place of a block."""
    inverse = pow(_BASE, -1, 1 << 64)
    both = []
    for base in (_BASE, inverse):
        factors = np.full(_BLOCK_BYTES, base, dtype=np.uint64)
        factors[0] = 1
        both.append(np.cumprod(factors))
    return both[0], both[1]


@functools.cache
def _donors(num_hashes: int) -> NDArray[np.int64]:
    """For each position, all positions in the order in which it borrows from them."""
    numbers = np.arange(num_hashes * num_hashes, dtype=np.uint64).reshape(num_hashes, -1)
    return np.argsort(_scattered(numbers), axis=1)


def _scattered(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of the value (the finalizer of SplitMix64)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


_WORD_BYTES = np.array(
    [code >= 0x80 or chr(code).isalnum() or chr(code) == "_" for code in range(256)]
)
