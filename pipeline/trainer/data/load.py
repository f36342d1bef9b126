"""Documents of a store to the micro-batch that trains them: the only way from one to the other."""

from pipeline.trainer.data.collate import MicroBatch, collate, collate_packed
from pipeline.trainer.data.store import TokenStore


def load_micro_batch(store: TokenStore, documents: list[int], *, packs: bool) -> MicroBatch:
    """The tensors, on the host, of some documents by index."""
    examples = [store[index] for index in documents]
    return (collate_packed if packs else collate)(examples, store.pad_token_id)
