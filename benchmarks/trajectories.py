"""Trajectories and a tokenizer for benchmarks, made once in a directory and used again.

The tokenizer has 128,000 tokens and is trained on the Python sources of this environment; the
trajectories are tool calls whose arguments and results are pieces of those sources.
"""

import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import builtin
from pipeline.step1_register import register

_VOCAB_SIZE = 128_000
_CORPUS_BYTES = 25_000_000
_CHARACTERS_PER_TOKEN = 4.2
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_MARKUP = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>"]
_MARKUP += ["</tool_response>"]
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{does} in the sandbox of the task, with the limits that it has there.",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": "string", "description": f"The {key}."}},
                "required": [key],
            },
        },
    }
    for name, does, key in (
        ("bash", "Run a command", "command"),
        ("read", "Read a file", "path"),
        ("search", "Find lines that match", "pattern"),
    )
]


def corpus() -> Iterator[str]:
    """Python sources of this environment, in an order of their own, the same every time."""
    places = [sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]]
    files = sorted({file for place in places for file in Path(place).rglob("*.py")})
    random.Random(0).shuffle(files)
    left = _CORPUS_BYTES
    for file in files:
        text = file.read_text("utf-8", "replace")
        if any(token in text for token in (*_SPECIAL, *_MARKUP)) or len(text) > 300_000:
            continue
        yield text
        left -= len(text)
        if left < 0:
            return


def make_tokenizer(directory: Path) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config

    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    words += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    bpe.add_special_tokens(_SPECIAL)
    bpe.add_tokens(_MARKUP)
    template = Path(builtin.__file__).with_name("chat_template.jinja").read_text("utf-8")
    PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
    ).save_pretrained(directory)
    # LLaMA-Factory and TRL look at the config of a model beside it.
    Qwen3Config(
        vocab_size=bpe.get_vocab_size(),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    ).save_pretrained(directory)


def make_rows(trajectories: int, tokens: int) -> Iterator[dict[str, Any]]:
    """ShareGPT rows: one task, then calls and their results, as coding agents work."""
    text = "\n".join(corpus())
    draw = random.Random(1)

    def piece(least: int, most: int) -> str:
        start = draw.randrange(len(text) - most)
        return text[start : start + draw.randint(least, most)]

    for number in range(trajectories):
        left = draw.uniform(0.5, 1.5) * tokens * _CHARACTERS_PER_TOKEN
        turns = [{"from": "system", "value": "You work in a repository. " * 20}]
        turns.append({"from": "human", "value": f"Task {number}: {piece(200, 2000)}"})
        while left > 0:
            call = {"name": "bash", "arguments": {"command": piece(20, 300)}}
            thought = f"<think>\n{piece(100, 900)}\n</think>\n\n"
            value = f"{thought}<tool_call>\n{json.dumps(call)}\n</tool_call>"
            result = piece(200, 4000)
            turns.append({"from": "function_call", "value": value})
            turns.append({"from": "observation", "value": result})
            left -= len(value) + len(result)
        turns.append({"from": "gpt", "value": piece(50, 500)})
        yield {"conversations": turns, "tools": json.dumps(_TOOLS)}


def prepare(directory: Path, trajectories: int, tokens: int) -> tuple[Path, Path]:
    """Returns: the directory of the model and that of the dataset."""
    model = directory / "model"
    if not (model / "config.json").is_file():
        make_tokenizer(model)
    data = directory / f"data-{trajectories}-{tokens}"
    file = data / "bench.json"
    if not (data / "dataset_info.json").is_file():
        data.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8") as out:
            separator = "[\n"
            for row in make_rows(trajectories, tokens):
                out.write(separator + json.dumps(row, ensure_ascii=False))
                separator = ",\n"
            out.write("\n]\n")
        register(data, "bench", file, "structured")
    return model, data
