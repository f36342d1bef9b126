"""The valid word nearest to a mistyped one."""

from collections.abc import Iterable
from difflib import SequenceMatcher

# Words of other trainers for the same thing: too far from ours in spelling to be found by it.
_SYNONYMS = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "max_seq_length": "cutoff_len",
    "max_seq_len": "cutoff_len",
    "sequence_len": "cutoff_len",
    "scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "cp_size": "sequence_parallel_size",
    "context_parallel_size": "sequence_parallel_size",
    "ulysses_sequence_parallel_size": "sequence_parallel_size",
    "cp_mode": "sequence_parallel_mode",
    "gpus": "n_gpus_per_node",
    "num_gpus": "n_gpus_per_node",
    "nproc_per_node": "n_gpus_per_node",
}

_CUTOFF = 0.6


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` was probably meant to be; None if none is close."""
    known = list(candidates)
    plain = _plain(word)
    synonym = _SYNONYMS.get(plain)
    if synonym in known:
        return synonym
    # Of equally close candidates the first one wins.
    best = max(known, key=lambda candidate: _likeness(plain, _plain(candidate)), default=None)
    if best is None or _likeness(plain, _plain(best)) < _CUTOFF:
        return None
    return best


def _plain(word: str) -> str:
    return word.strip().lower().replace("-", "_")


def _likeness(word: str, candidate: str) -> float:
    """0 to 1; whole words left out (`train_epochs`) count as near as a slip of the finger."""
    if not word:
        return 0.0
    if set(word.split("_")) < set(candidate.split("_")):
        return 0.8
    return SequenceMatcher(None, word, candidate).ratio()
