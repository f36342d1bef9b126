"""What gpu.py measures: shapes of Qwen3, and ways to train them."""

from dataclasses import dataclass

from transformers import Qwen3Config

from pipeline.trainer.modeling.attention import PER_DOCUMENT
from pipeline.trainer.modeling.flex_attention import BLOCK_MASK


@dataclass(frozen=True)
class Engine:
    """One way to train: this engine with some kernels, or a peer."""

    attention: str = PER_DOCUMENT
    package: str | None = None
    """Without it there is no such engine."""
    on_cpu: bool = False
    is_peer: bool = False
    compiles: bool = False
    cudnn_first: bool = False
    liger: bool = False


ENGINES = {
    "native": Engine(on_cpu=True),
    "compiled": Engine(on_cpu=True, compiles=True),
    "cudnn": Engine(cudnn_first=True),
    "compiled-cudnn": Engine(cudnn_first=True, compiles=True),
    "liger": Engine(liger=True, package="liger_kernel"),
    "flex": Engine(BLOCK_MASK),
    "fa2": Engine("flash_attention_2", "flash_attn"),
    "fa3": Engine("flash_attention_3", "flash_attn_interface"),
    "transformers": Engine("sdpa", on_cpu=True, is_peer=True),
    # The last one: its kernels stay in the process once they are in.
    "transformers-liger": Engine("sdpa", "liger_kernel", is_peer=True, liger=True),
}


@dataclass(frozen=True)
class Shape:
    """What of Qwen3 differs between its sizes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int = 8
    head_size: int = 128
    vocab: int = 151_936
    tied: bool = True

    def config(self, positions: int) -> Qwen3Config:
        return Qwen3Config(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_size,
            vocab_size=self.vocab,
            tie_word_embeddings=self.tied,
            max_position_embeddings=positions,
        )

    def useful_flops(self, tokens: int, trained: int) -> float:
        """Of forward and backward over one document."""
        attention = self.heads * self.head_size
        per_layer = self.hidden * (2 * attention + 2 * self.kv_heads * self.head_size)
        per_layer += 3 * self.hidden * self.intermediate
        forward = 2 * self.layers * per_layer * tokens + 2 * self.hidden * self.vocab * trained
        return 3 * (forward + 2 * self.layers * attention * tokens * tokens)


SHAPES = {
    "tiny": Shape(64, 128, 2, 4, kv_heads=2, head_size=16, vocab=512),
    "0.6B": Shape(1024, 3072, 28, 16),
    "1.7B": Shape(2048, 6144, 28, 16),
    "4B": Shape(2560, 9728, 36, 32),
    "8B": Shape(4096, 12288, 36, 32, tied=False),
}
