"""The tokenised dataset on disk: written once, memory-mapped by every rank of every run.

    <dataset_dir>/tokens/<key>/, or a directory of the user's choice
        <key of its rows>.shard   token ids and loss spans of some rows, uncut (shard.py)
        documents.npy             what is trained: token ranges of the shards (document_table.py)
        rejected.jsonl            rows that cannot be rendered: {"dataset", "row", "message"}
        store.json                parameters, counts, shards; written last: a store without it
                                  does not exist
    beside them
        read_files.json           which files were found whole and have not changed since
                                  (read_files.py)

The key covers the data, the tokenizer with its chat template, the parameters and this code, so a
store is never reused for anything else.
"""

import hashlib
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import __version__
from pipeline.errors import TrainError
from pipeline.trainer.args import TrainArgs, dataset_names
from pipeline.trainer.data.cutoff import DocumentPolicy
from pipeline.trainer.data.dataset import Dataset, find_datasets
from pipeline.trainer.data.document_table import loss_spans
from pipeline.trainer.data.example import Example, Span
from pipeline.trainer.data.prefix_tree import LossSpans
from pipeline.trainer.data.read_files import READ_FILES_FILE, ReadFiles
from pipeline.trainer.data.shard import Shard, is_intact
from pipeline.trainer.data.tally import PolicyTally, StoreCounts
from pipeline.trainer.data.tokenize import TokenizerSource
from pipeline.trainer.keys.finetuning import PAIR_STAGES

STORE_FILE = "store.json"
DOCUMENTS_FILE = "documents.npy"
REJECTED_FILE = "rejected.jsonl"
_CODE = ("dataset.py", "compaction.py", "renderers.py", "rendering.py", "render.py")
_CODE += ("pairs.py", "text.py", "../../text_rows.py", "example.py", "chat_template.py")
_CODE += ("jinja/compiled.py", "jinja/loop_memo.py", "jinja/scan_memo.py", "jinja/values.py")
_CODE += ("jinja/loops.py", "jinja/scans.py", "jinja/syntax.py")
_CODE += ("templates/named.py", "templates/renderer.py", "templates/tool_formats.py")
_CODE += ("tokenize.py", "encode.py", "shard.py", "../../sharegpt.py")
_CODE += ("../../preference_pairs.py",)
_CODE += ("document_table.py", "cutoff.py")
"""Beside the data, what decides what a store holds."""


@dataclass(frozen=True)
class StoreSpec:
    """Everything that decides what a store holds."""

    datasets: tuple[Dataset, ...]
    """Those to train on, then those that are only evaluated."""
    num_evaluated: int
    """How many of them are the latter."""
    tokenizer: TokenizerSource
    cutoff_len: int
    cutoff_policy: DocumentPolicy
    max_samples: int | None
    files: ReadFiles

    @classmethod
    def of(cls, args: TrainArgs, *, verify: bool = False) -> "StoreSpec":
        """`verify`: read data and store again, whatever is known of them.

        Raises: DataError: a dataset is not registered or its file is missing.
        """
        names = ",".join(filter(None, [args.dataset, args.eval_dataset]))
        beside = store_directory(args, "any").parent / READ_FILES_FILE
        return cls(
            datasets=tuple(find_datasets(Path(args.dataset_dir), names, args.stage)),
            num_evaluated=len(dataset_names(args.eval_dataset)),
            tokenizer=TokenizerSource.of(args),
            cutoff_len=args.cutoff_len,
            cutoff_policy=args.document_policy,
            max_samples=args.max_samples,
            files=ReadFiles(beside, trusted=not verify),
        )

    def parameters(self) -> dict[str, Any]:
        """What a store is made with, but the data."""
        return {
            "datasets": [dataset.name for dataset in self.datasets],
            "num_evaluated": self.num_evaluated,
            "cutoff_len": self.cutoff_len,
            "cutoff_policy": self.cutoff_policy,
            "stage": self.tokenizer.rendering.stage,
            "max_samples": self.max_samples,
            "tokenizer": self.tokenizer_fingerprint,
            "code": code_version(),
        }

    def key(self) -> str:
        """Hash of the parameters and of the data as it is now."""
        data = [dataset.fingerprint(self.files.sha256) for dataset in self.datasets]
        content = json.dumps([self.parameters(), data], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        return self.tokenizer.fingerprint()

    def renderings(self) -> tuple[bytes, ...]:
        """Of each dataset: hash of all that decides the ids of its rows, but the rows."""
        return tuple(
            hashlib.sha256(
                f"{self.tokenizer_fingerprint} {code_version()} {dataset.reading()}".encode()
            ).digest()
            for dataset in self.datasets
        )


class TokenStore:
    """Read access to a finished store. Cheap to open; pages are shared between processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        meta = json.loads((directory / STORE_FILE).read_bytes())
        self.fingerprint: str = meta["key"]
        self.parameters: dict[str, Any] = meta["parameters"]
        self.pad_token_id: int = meta["pad_token_id"]
        self.counts = StoreCounts(**meta["counts"])
        self.cutoff = {name: PolicyTally(**tally) for name, tally in meta["cutoff"].items()}
        """What each cutoff policy would leave."""
        self._shard_files = [directory / shard["file"] for shard in meta["shards"]]
        self.stored_tokens = sum(shard["tokens"] for shard in meta["shards"])
        """Tokens on disk, before cutting and without what windows repeat."""
        self._sizes = [shard["size_bytes"] for shard in meta["shards"]]
        self._documents_crc32: int = meta["documents_crc32"]
        self.documents: np.ndarray = np.load(directory / DOCUMENTS_FILE, mmap_mode="r")
        """One line per example (document_table.py)."""
        self._shards: dict[int, Shard] = {}

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> Example:
        ids, columns = self.rest(index, 0)
        spans = zip(*(column.tolist() for column in columns), strict=True)
        return Example(ids.tolist(), [Span(*span) for span in spans])

    def rest(self, index: int, begin: int) -> tuple[np.ndarray, LossSpans]:
        """The ids of one example from token `begin` on, and all its loss spans."""
        document = self.documents[index]
        shard = self._shard(int(document["shard"]))
        return self.ids(index, begin), loss_spans(shard, document)

    def ids(self, index: int, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Tokens [begin, end) of one example; without `end`, and beyond its own, all that follow"""
        document = self.documents[index]
        start, length = int(document["start"]), int(document["length"])
        last = length if end is None else min(end, length)
        return self._shard(int(document["shard"])).ids(start + begin, start + last)

    def num_tokens(self, index: int) -> int:
        return int(self.documents["length"][index])

    def loss_weight(self, index: int) -> float:
        """Sum of the loss weights over the tokens of one example."""
        return float(self.documents["loss_weight"][index])

    def row(self, index: int) -> int:
        """Row of its dataset that the example came from, counted from 0."""
        return int(self.documents["row"][index])

    def examples_of(self, dataset: str, row: int) -> list[Example]:
        """The examples of one row of a dataset, counted from 0."""
        number = self.dataset_names.index(dataset) << 32 | row
        return [self[index] for index in np.flatnonzero(self.rows == number).tolist()]

    def dataset(self, index: int) -> str:
        """Name of the dataset that the example came from."""
        return self.dataset_names[int(self.documents["dataset"][index])]

    @property
    def lengths(self) -> np.ndarray:
        """(examples,) tokens of each example"""
        return self.documents["length"].astype(np.int64)

    @property
    def turns(self) -> np.ndarray:
        """(examples,) loss spans of each example"""
        spans = self.documents
        return spans["last_span"].astype(np.int64) - spans["first_span"].astype(np.int64)

    @property
    def rows(self) -> np.ndarray:
        """(examples,) a number for the row of each example, different for every dataset"""
        return self.datasets << 32 | self.documents["row"].astype(np.int64)

    @property
    def scores(self) -> np.ndarray:
        """(examples,) what the row of each example is worth; NaN: it has no score"""
        return self.documents["score"]

    @property
    def datasets(self) -> np.ndarray:
        """(examples,) the place of each example's dataset in `dataset_names`"""
        return self.documents["dataset"].astype(np.int64)

    @property
    def dataset_names(self) -> list[str]:
        """Those to train on, then those that are only evaluated."""
        return self.parameters["datasets"]

    @property
    def holds_pairs(self) -> bool:
        """The examples of a row are two sides, told apart by the sign of their weights."""
        return self.parameters["stage"] in PAIR_STAGES

    @property
    def scores_ends(self) -> bool:
        """Of each side, what counts is what the model says at its last token."""
        return self.parameters["stage"] == "rm"

    @property
    def num_trained_datasets(self) -> int:
        return len(self.dataset_names) - self.parameters["num_evaluated"]

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole store on disk."""
        return sum(file.stat().st_size for file in self.directory.iterdir())

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            self._shards[number] = Shard(self._shard_files[number])
        return self._shards[number]

    def damage(self, files: ReadFiles) -> str | None:
        """Reads every byte that `files` does not know to be as it was written.

        Returns: the first file that is not, if any.
        """
        crc32 = zlib.crc32((self.directory / DOCUMENTS_FILE).read_bytes())
        if crc32 != self._documents_crc32:
            return DOCUMENTS_FILE
        with ThreadPoolExecutor() as pool:
            intact = pool.map(lambda file: files.is_intact(file, is_intact), self._shard_files)
            return next(
                (file.name for file, ok in zip(self._shard_files, intact, strict=True) if not ok),
                None,
            )

    def missing(self) -> str | None:
        """Looks at sizes alone. Returns: the first shard that is not there whole, if any."""
        for file, size in zip(self._shard_files, self._sizes, strict=True):
            if not file.is_file() or file.stat().st_size != size:
                return file.name
        return None


def store_directory(args: TrainArgs, key: str) -> Path:
    """`tokenized_path`, or a place of its own for every key."""
    if args.tokenized_path:
        return Path(args.tokenized_path)
    return Path(args.dataset_dir) / "tokens" / key


def open_store(args: TrainArgs) -> TokenStore:
    """The store that was made before the ranks were started; never tokenises.

    Of `tokenized_path` the data is taken as it was then, whatever the data file holds by now.

    Raises: TrainError: there is none, or it was made with other parameters.
    """
    spec = StoreSpec.of(args)
    target = store_directory(args, "" if args.tokenized_path else spec.key())
    if not (target / STORE_FILE).is_file():
        raise TrainError(
            f"{target}: no token store; make it with `sft tokenize TRAIN.yaml` before the ranks "
            "are started (`sft train` does it by itself)"
        )
    store = TokenStore(target)
    missing = store.missing()
    if missing:
        raise TrainError(f"{target / missing}: missing or cut off; run `sft tokenize TRAIN.yaml`")
    _check_parameters(store, spec)
    return store


def _check_parameters(store: TokenStore, spec: StoreSpec) -> None:
    """Raises: TrainError: the store was made with other parameters; names them."""
    now = spec.parameters()
    changed = [
        f"{name}: {store.parameters.get(name)} -> {value}"
        for name, value in now.items()
        if store.parameters.get(name) != value
    ]
    if changed:
        raise TrainError(
            f"{store.directory}: the store was made with other parameters ({'; '.join(changed)}); "
            "run `sft tokenize TRAIN.yaml` again"
        )


def code_version() -> str:
    digest = hashlib.sha256(__version__.encode())
    for name in _CODE:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()
