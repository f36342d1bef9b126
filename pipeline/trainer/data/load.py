"""Documents of a store to the micro-batch that trains them: the only way from one to the other."""

from pipeline.trainer.data.collate import MicroBatch, collate, collate_trees
from pipeline.trainer.data.example_trees import ExampleTrees


def load_micro_batch(data: ExampleTrees, documents: list[int], *, concatenates: bool) -> MicroBatch:
    """The tensors, on the host, of some documents by index."""
    pad_token_id = data.store.pad_token_id
    if concatenates:
        return collate_trees([data.tree(index) for index in documents], pad_token_id)
    examples = [example for index in documents for example in data.examples(index)]
    return collate(examples, pad_token_id)
