"""`builtin:tiny-qwen3`: a model that is built on the spot, for trying the system and testing it.

A two-layer Qwen3 with random weights (0.4 M parameters) and a byte-level BPE tokenizer with
Qwen3's conversation format, written to a directory and from then on loaded like any other model.
The same corpus gives the same bytes on every machine with the same library versions.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from pipeline import __version__
from pipeline.errors import ConfigError

PREFIX = "builtin:"
NAMES = ("tiny-qwen3",)
VOCAB_SIZE = 2048
MAX_POSITIONS = 40_960
_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_MARKUP_TOKENS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
_MARKUP_TOKENS += ["<tool_response>", "</tool_response>"]
_CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
_WORD_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_WORD_PATTERN += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def is_builtin(model_name_or_path: str) -> bool:
    return model_name_or_path.startswith(PREFIX)


def builtin_path(model_name_or_path: str, cache: Path, corpus: Path) -> Path:
    """The directory below `cache` in which this builtin model lies or would be built.

    Raises: ConfigError: there is no builtin model of that name.
    """
    name = model_name_or_path.removeprefix(PREFIX)
    if name not in NAMES:
        raise ConfigError(
            f"runtime_info.input.model.model_name_or_path: no such builtin model "
            f"(got {model_name_or_path}); use {PREFIX}{NAMES[0]}, a Hub id or a directory"
        )
    key = hashlib.sha256(f"{__version__} {VOCAB_SIZE}\n".encode())
    key.update(Path(__file__).read_bytes() + _CHAT_TEMPLATE.read_bytes())
    for file in _corpus_files(corpus):
        key.update(file.read_bytes())
    return cache / "models" / f"{name}-{key.hexdigest()[:12]}"


def ensure_builtin(model_name_or_path: str, cache: Path, corpus: Path) -> Path:
    """Build the model unless it is there; a directory under its final name is always whole.

    Raises: OSError: `cache` cannot be written.
    """
    from safetensors import SafetensorError

    target = builtin_path(model_name_or_path, cache, corpus)
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _build(scratch, corpus)
        scratch.chmod(0o755)
        scratch.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise somebody else finished first, with the same bytes
            raise
    except SafetensorError as error:  # it has no OSError for a full disk
        raise OSError(f"{target}: the builtin model cannot be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _corpus_files(corpus: Path) -> list[Path]:
    files = sorted(file for file in corpus.rglob("*.json*") if file.is_file())
    if not files:
        raise ConfigError(f"{corpus}: no text to train the builtin tokenizer on; restore examples/")
    return files


def _build(directory: Path, corpus: Path) -> None:
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(_SPECIAL_TOKENS) - len(_MARKUP_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(
        (f.read_text("utf-8", "replace") for f in _corpus_files(corpus)), trainer
    )
    bpe.add_special_tokens(_SPECIAL_TOKENS)
    bpe.add_tokens(_MARKUP_TOKENS)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=MAX_POSITIONS,
        chat_template=_CHAT_TEMPLATE.read_text("utf-8"),
    )
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        eos_token_id=bpe.token_to_id("<|im_end|>"),
        pad_token_id=bpe.token_to_id("<|endoftext|>"),
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)
