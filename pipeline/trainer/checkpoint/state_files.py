"""Weights and optimizer state on disk: safetensors files of named ranges, readable in any layout.

state/rank00003-00.safetensors      "exp_avg/model.norm.weight@4096" -> elements 4096.. of it
    __metadata__ {"shapes": "{\"exp_avg/model.norm.weight\": [8192], ...}"}

Whoever reads asks for ranges, and need not know how many ranks wrote or what strategy they used.
The files are in a folder of their own: servers load every safetensors file beside config.json.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import torch
from safetensors import safe_open

from pipeline.errors import TrainError
from pipeline.trainer.output_dir import STATE_DIR
from pipeline.trainer.parallel.parts import WEIGHT, Part

MAX_FILE_BYTES = 4 << 30
"""Files are hashed side by side; one large one would keep a single core busy."""
ALIGNMENT = 64
"""Bytes; of the data in a file and in memory."""
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names in the safetensors format."""


@dataclass(frozen=True)
class StateFile:
    """One file to be written: its header, and the parts whose bytes follow it, in this order."""

    name: str
    header: bytes
    parts: list[Part]

    @cached_property
    def data_bytes(self) -> int:
        return sum(part.data.nbytes for part in self.parts)

    def copy_to(self, buffer: torch.Tensor) -> None:
        """Into (data_bytes,) uint8 host memory; a device's copies may still be under way after."""
        start = 0
        for part in self.parts:
            target = buffer[start : start + part.data.nbytes].view(part.data.dtype)
            target.copy_(part.data, non_blocking=True)
            start += part.data.nbytes


def state_files(parts: list[Part], rank: int) -> list[StateFile]:
    """The files that hold `parts`, each of at most MAX_FILE_BYTES where parts allow it."""
    # The widest type first: then every part is aligned to its type.
    held = [part for part in parts if len(part.data)]
    ordered = sorted(held, key=lambda part: -part.data.element_size())
    groups: list[list[Part]] = [[]]
    size = 0
    for part in ordered:
        if groups[-1] and size + part.data.nbytes > MAX_FILE_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += part.data.nbytes
    return [
        StateFile(f"{STATE_DIR}/rank{rank:05d}-{number:02d}.safetensors", _header(group), group)
        for number, group in enumerate(groups)
    ]


def wait_for_copies() -> None:
    """Until what `StateFile.copy_to` has begun is in host memory."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def _header(parts: list[Part]) -> bytes:
    """Format: https://huggingface.co/docs/safetensors/index#format"""
    shapes = {f"{part.slot}/{part.name}": part.shape for part in parts}
    entries: dict[str, object] = {"__metadata__": {"format": "pt", "shapes": json.dumps(shapes)}}
    start = 0
    for part in parts:
        stop = start + part.data.nbytes
        entries[f"{part.slot}/{part.name}@{part.start}"] = {
            "dtype": _DTYPES[part.data.dtype],
            "shape": [len(part.data)],
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(entries).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class _Range:
    start: int
    stop: int
    file: int
    key: str


class SavedState:
    """The state in a checkpoint; a context manager, because it keeps files open."""

    def __init__(self, checkpoint: Path) -> None:
        self._directory = checkpoint / STATE_DIR
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._ranges: defaultdict[str, list[_Range]] = defaultdict(list)
        self._stack = ExitStack()
        paths = sorted(self._directory.glob("*.safetensors"))
        self._files = [self._stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        for number, file in enumerate(self._files):
            shapes = json.loads(file.metadata()["shapes"])
            self._shapes.update({tensor: tuple(shape) for tensor, shape in shapes.items()})
            for key in file.keys():  # noqa: SIM118  it is no dict
                tensor, start = key.rsplit("@", 1)
                size = math.prod(file.get_slice(key).get_shape())
                self._ranges[tensor].append(_Range(int(start), int(start) + size, number, key))
        for ranges in self._ranges.values():
            ranges.sort(key=lambda found: found.start)

    def __enter__(self) -> "SavedState":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter and buffer, whole."""
        for tensor, shape in self._shapes.items():
            slot, name = tensor.split("/", 1)
            if slot == WEIGHT:
                yield name, self._read(tensor, 0, math.prod(shape)).view(shape)

    def fill(self, parts: Sequence[Part]) -> None:
        """Set the values of `parts` in place. Parameters that were never updated get zeros as
        their optimizer state.

        Raises: TrainError: the checkpoint is of another model or another optimizer.
        """
        for part in parts:
            tensor = f"{part.slot}/{part.name}"
            if not len(part.data):
                continue
            if tensor in self._shapes:
                if self._shapes[tensor] != part.shape:
                    raise TrainError(
                        f"{self._directory}: {tensor} has the shape {list(self._shapes[tensor])}, "
                        f"but this run's has {list(part.shape)}; it is of another model"
                    )
                values = self._read(tensor, part.start, part.start + len(part.data))
                if values.is_floating_point() != part.data.is_floating_point():
                    raise TrainError(
                        f"{self._directory}: {tensor} is {values.dtype}, but this run's is "
                        f"{part.data.dtype}: numbers and codes of 8-bit moments are not each "
                        "other; keep training.optim and the strategy"
                    )
                part.data.copy_(values)
            elif part.slot != WEIGHT and part.name in self._never_updated:
                part.data.zero_()
            else:
                raise TrainError(
                    f"{self._directory}: holds no {part.slot} of {part.name}; it was saved by "
                    "another model or optimizer (training.optim), or its optimizer's state fits "
                    "the same strategy and number of ranks only; use the same"
                )

    @cached_property
    def _never_updated(self) -> frozenset[str]:
        """Names of the parameters that have no optimizer state."""
        named = [tensor.split("/", 1) for tensor in self._shapes]
        updated = {name for slot, name in named if slot != WEIGHT}
        return frozenset(name for _, name in named) - updated

    def _read(self, tensor: str, start: int, stop: int) -> torch.Tensor:
        """(stop - start,) elements of the flattened tensor, on the CPU."""
        pieces = []
        position = start
        for found in self._ranges[tensor]:
            if found.start <= position < found.stop and position < stop:
                end = min(found.stop, stop)
                piece = self._files[found.file].get_slice(found.key)
                pieces.append(piece[position - found.start : end - found.start])
                position = end
        if position < stop:
            raise TrainError(
                f"{self._directory}: elements {position} to {stop} of {tensor} are in no file; "
                "choose another checkpoint"
            )
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
