"""Rows to ids: where a tokenizer comes from, and what one worker does with one chunk of rows."""

import functools
import hashlib
import json
import multiprocessing
import os
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, TrainError
from pipeline.files import sha256_file
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.data.chunks import Chunk, row_key
from pipeline.trainer.data.dataset import Dataset, read_score
from pipeline.trainer.data.encode import EncoderName, choose_encoder, with_encoder
from pipeline.trainer.data.renderers import RowRenderer, renderer_of
from pipeline.trainer.data.rendering import Rendering
from pipeline.trainer.data.row_file import decode_row
from pipeline.trainer.data.shard import Shard, ShardRow, write_shard

_TOKENIZER_FILES = ("*token*", "vocab*", "merges.txt", "*.model", "*.jinja", "*config.json", "*.py")
"""What a model's directory says of its tokenizer, chat template and end of generation."""
_CHECKED_EVERY = 128
"""From one row of a chunk that the tokenizer itself checks to the next."""


@dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer comes from: enough to load it again in another process."""

    model_name_or_path: str
    revision: str
    trust_remote_code: bool
    rendering: Rendering = Rendering()
    """How conversations become its ids."""

    def renderer(self) -> RowRenderer:
        """Raises: TrainError: no tokenizer; DataError: it does not go with the template."""
        tokenizer = self.load()
        return renderer_of(tokenizer, self.rendering, self.stop_tokens(tokenizer))

    @classmethod
    def of(cls, args: TrainArgs) -> "TokenizerSource":
        """Raises: ConfigError: keys of the template contradict each other."""
        return cls(
            args.model_name_or_path,
            args.model_revision,
            args.trust_remote_code,
            Rendering.of(args),
        )

    def load(self) -> Any:
        """Raises: TrainError: there is no tokenizer, on this machine or within reach."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(
                self.model_name_or_path,
                revision=self.revision,
                trust_remote_code=self.trust_remote_code,
            )
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainError(
                f"{self.model_name_or_path}: cannot load the tokenizer: {reason}; check "
                "model.model_name_or_path"
            ) from error

    def stop_tokens(self, tokenizer: Any) -> frozenset[str]:
        """At which generation stops, as generation_config.json says; empty if there is none."""
        from transformers import GenerationConfig

        try:
            config = GenerationConfig.from_pretrained(
                self.model_name_or_path, revision=self.revision
            )
        except OSError:
            return frozenset()
        stops = config.eos_token_id
        ids = stops if isinstance(stops, list) else [] if stops is None else [stops]
        return frozenset(tokenizer.convert_ids_to_tokens(ids))

    def fingerprint(self) -> str:
        """Hash of everything that decides the ids: vocabulary, merges, added tokens, template, and
        how conversations are rendered.

        Of a directory the files are hashed, which is quick; of the Hub what is loaded.
        """
        digest = hashlib.sha256(f"{version('transformers')} {version('tokenizers')}".encode())
        digest.update(repr(self.rendering).encode())
        directory = Path(self.model_name_or_path)
        if directory.is_dir():
            found = {file for pattern in _TOKENIZER_FILES for file in directory.rglob(pattern)}
            for file in sorted(file for file in found if file.is_file()):
                digest.update(f"{file.relative_to(directory)} {sha256_file(file)}\n".encode())
            return digest.hexdigest()
        tokenizer = self.load()
        digest.update(str(tokenizer.chat_template).encode())
        backend = getattr(tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
        digest.update(content.encode())
        digest.update(repr(sorted(self.stop_tokens(tokenizer))).encode())
        return digest.hexdigest()


class WrongIdsError(Exception):
    """The fast path gives other ids than the tokenizer itself; the message names row and path."""


@dataclass(frozen=True)
class Tokenization:
    """What all chunks of a build have in common."""

    datasets: tuple[Dataset, ...]
    renderings: tuple[bytes, ...]
    """Of each dataset: hash of all that decides the ids of its rows, but the rows."""
    source: TokenizerSource
    tokenizer_fingerprint: str
    is_plain: bool = False
    """Without any shortcut: ids by the tokenizer itself, text by its `apply_chat_template`."""


@dataclass(frozen=True)
class ShardWork:
    """One chunk and where its shard goes."""

    chunk: Chunk
    target: Path
    known: dict[int, tuple[Path, int]] = field(default_factory=dict)
    """Rows of the chunk that another shard holds already: (shard, row in it)."""


@dataclass(frozen=True)
class MadeShard:
    """How a shard came about."""

    rows_rendered: int
    encoder: EncoderName


def make_shard(work: ShardWork, common: Tokenization) -> MadeShard:
    """Write the shard of one chunk.

    Raises:
        DataError: the file changed since it was planned, or a row is no JSON object.
        WrongIdsError: the fast path failed the check of a row.
    """
    chunk = work.chunk
    tokenizer = _load(common.source, common.tokenizer_fingerprint)
    encoder = "plain" if common.is_plain else choose_encoder(tokenizer)
    shards = {path: Shard(path) for path, _ in work.known.values()}
    rows: list[ShardRow] = []
    with chunk.file.open("rb") as file:
        for number in range(len(chunk)):
            if number in work.known:
                path, row = work.known[number]
                rows.append(shards[path].row(row))
                continue
            file.seek(chunk.starts[number])
            raw = file.read(chunk.sizes[number])
            rows.append(_make_row(chunk, number, raw, common, encoder))
    write_shard(work.target, rows, _pad_token_id(tokenizer))
    return MadeShard(len(rows) - len(work.known), encoder)


def _make_row(
    chunk: Chunk, number: int, raw: bytes, common: Tokenization, encoder: EncoderName
) -> ShardRow:
    key = chunk.row_key(number)
    if row_key(raw, common.renderings[chunk.dataset]) != key:
        raise DataError(f"{chunk.file}: changed while it was being tokenised; start again")
    where = f"{chunk.file}:{chunk.lines[number]}"
    row = decode_row(raw, where)

    def rendered(by: EncoderName, is_plain: bool) -> ShardRow:
        renderer = _renderer(common.source, common.tokenizer_fingerprint, by, is_plain)
        try:
            score = read_score(row)
            canonical = common.datasets[chunk.dataset].canonical(row)
            return ShardRow(key, renderer.row_examples(canonical), score=score)
        except DataError as error:
            return ShardRow(key, [], str(error))

    made = rendered(encoder, common.is_plain)
    is_checked = number % _CHECKED_EVERY == chunk.row_keys[0] % min(_CHECKED_EVERY, len(chunk))
    if is_checked and not common.is_plain and made != rendered("plain", is_plain=True):
        raise WrongIdsError(f"{where}: the fast path (compiled chat template, encoder {encoder})")
    return made


def _pad_token_id(tokenizer: Any) -> int:
    """What sequences are filled up with; it carries no loss, so any token will do."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None)


@functools.lru_cache(maxsize=2)
def _renderer(
    source: TokenizerSource, fingerprint: str, encoder: EncoderName, is_plain: bool
) -> RowRenderer:
    tokenizer = _load(source, fingerprint)
    return renderer_of(
        with_encoder(tokenizer, encoder),
        source.rendering,
        source.stop_tokens(tokenizer),
        is_compiled=not is_plain,
    )


@functools.lru_cache(maxsize=1)
def _load(source: TokenizerSource, fingerprint: str) -> Any:
    """Once per process; `fingerprint` tells a tokenizer from what lay there before."""
    if multiprocessing.parent_process() is not None:
        _lighten_worker(source)
    return source.load()


def _lighten_worker(source: TokenizerSource) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core per worker
    if not source.trust_remote_code:
        # transformers imports torch where it finds it: 190 MB and a second, and no tokenizer of
        # its own needs it. None is how Python marks a module that is not to be found.
        os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
        sys.modules.setdefault("torch", None)  # pyright: ignore[reportArgumentType]
