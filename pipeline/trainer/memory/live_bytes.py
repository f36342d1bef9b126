"""Bytes of the tensors that are alive, by class and at their peak, while PyTorch runs.

Counts storages when an operator makes them and when the last tensor on them goes, so a view costs
nothing and what autograd saves counts once. Under a `FakeTensorMode` nothing is computed and no
memory is taken: the peak of a training step is known in seconds on any machine.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """What is alive now, and what was alive when most was."""

    def __init__(self) -> None:
        super().__init__()
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        """Bytes by class at the moment with the largest sum."""
        self._classes: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
        self._class = "other"

    @contextmanager
    def making(self, name: str) -> Iterator[None]:
        """What is allocated within it belongs to class `name`."""
        before, self._class = self._class, name
        try:
            yield
        finally:
            self._class = before

    def classify(self, tensors: Iterable[torch.Tensor], name: str) -> None:
        """Move tensors, made under this mode or not, to class `name`."""
        for tensor in tensors:
            self._count(tensor, name, is_move=True)

    def forget_peak(self) -> None:
        self.peak = Counter(self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf, self._class, is_move=False)
        return found

    def _count(self, tensor: torch.Tensor, name: str, *, is_move: bool) -> None:
        storage = tensor.untyped_storage()
        entry = self._classes.get(storage)
        if entry is None:
            entry = [name, storage.nbytes()]
            self._classes[storage] = entry
            weakref.finalize(storage, self._free, entry).atexit = False
            self.now[name] += entry[1]
        elif is_move:
            self.now[entry[0]] -= entry[1]
            entry[0] = name
            self.now[name] += entry[1]
        else:
            return
        if self.now.total() > self.peak.total():
            self.peak = Counter(self.now)

    def _free(self, entry: list[Any]) -> None:
        self.now[entry[0]] -= entry[1]
