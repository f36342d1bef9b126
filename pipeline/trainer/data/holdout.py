"""Rows that the loss is measured on and that are not trained, drawn from all."""

import math

import numpy as np

from pipeline.errors import ConfigError


def held_out_rows(rows: np.ndarray, val_size: float, seed: int) -> np.ndarray:
    """Some of the numbers `rows`, which may repeat and which the seed alone chooses from.

    Whole rows are held out: examples of one conversation share their beginning. `val_size` below
    1 is a share of the rows, rounded up; from 1 on it is their number.

    Raises: ConfigError: nothing would be left to train on.
    """
    different = np.unique(rows)
    count = math.ceil(val_size * len(different)) if val_size < 1 else int(val_size)
    if count >= len(different):
        raise ConfigError(
            f"val_size: {val_size:g} would hold out {count:,} of {len(different):,} rows; lower it"
        )
    # Three numbers: no epoch is drawn from the same stream.
    return np.random.default_rng([seed, 0, 1]).permutation(different)[:count]
