"""Rows that the loss is measured on and that are not trained: of a dataset, or drawn from all."""

import math

import numpy as np

from pipeline.errors import ConfigError, DataError
from pipeline.trainer.data.plan_input import Documents


def divide(documents: Documents, val_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The documents to train on and those to evaluate on, both in rising order.

    Raises: ConfigError: val_size leaves nothing to train on; DataError: nothing can be trained on,
        or nothing of a dataset evaluated.
    """
    first_evaluated = documents.num_trained_datasets
    if first_evaluated == len(documents.dataset_names):
        return hold_out(documents.rows, val_size, seed)
    trained = np.flatnonzero(documents.datasets < first_evaluated)
    if not len(trained):
        raise DataError("dataset: none of its rows can be trained on, only those of eval_dataset")
    for number, name in enumerate(documents.dataset_names):
        if number >= first_evaluated and number not in documents.datasets:
            raise DataError(f"eval_dataset: no row of {name!r} can be evaluated; leave it out")
    return trained, np.flatnonzero(documents.datasets >= first_evaluated)


def hold_out(rows: np.ndarray, val_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split documents by the row (documents,) that each comes from.

    Whole rows are held out: documents of one conversation share their beginning. `val_size` below
    1 is a share of the rows, rounded up; from 1 on it is their number. The seed alone chooses them.

    Returns: the documents to train on and those to evaluate on, both in rising order.

    Raises: ConfigError: nothing would be left to train on.
    """
    different = np.unique(rows)
    count = math.ceil(val_size * len(different)) if val_size < 1 else int(val_size)
    if count >= len(different):
        raise ConfigError(
            f"val_size: {val_size:g} would hold out {count:,} of {len(different):,} rows; lower it"
        )
    # Three numbers: no epoch is drawn from the same stream.
    chosen = np.random.default_rng([seed, 0, 1]).permutation(different)[:count]
    is_held_out = np.isin(rows, chosen)
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
