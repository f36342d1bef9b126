"""torch.compile of each transformer layer.

Layers are equal but for their weights, so one program serves all of them, whatever the length. Each
is four pieces, because attention stays outside: what it is told of documents and branches differs
from step to step, checkpointing has to see its operators, and its kernels are fused already.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.errors import ConfigError
from pipeline.trainer.args import TrainArgs

_INDUCTOR = "inductor"
_TRITON_DEVICES = ("cuda", "xpu")
_MOST_VARIANTS = 32
"""Of one piece: with and without gradients, a mask, a batch of one; layers of several kinds."""


@dataclass(frozen=True)
class Compilation:
    """How layers are compiled, under Transformers' names."""

    is_on: bool = False
    backend: str = _INDUCTOR
    mode: str | None = None

    @classmethod
    def of(cls, args: TrainArgs) -> "Compilation":
        return cls(args.compiles, args.torch_compile_backend or _INDUCTOR, args.torch_compile_mode)

    def check(self, device: str) -> None:
        """Raises: ConfigError: there is no such backend, or nothing it could compile with."""
        if not self.is_on:
            return
        known = torch._dynamo.list_backends(exclude_tags=())
        if self.backend not in known:
            raise ConfigError(
                f"training.torch_compile_backend: PyTorch knows no {self.backend} (valid: "
                f"{', '.join(known)}); remove it for {_INDUCTOR}"
            )
        missing = _missing_compiler(device) if self.backend == _INDUCTOR else None
        if missing:
            raise ConfigError(
                f"training.torch_compile: {_INDUCTOR} needs {missing}; install it, or set "
                "torch_compile to false"
            )

    def prepare(self, model: PreTrainedModel) -> None:
        """Before the first layer of `model` is compiled."""
        if not self.is_on:
            return
        name: Any = model.config.get_text_config()._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get(name)  # eager attention is not in it
        if attend is not None:
            AttentionInterface.register(name, torch.compiler.disable(attend))
        # DistributedDataParallel's buckets would cut layers up; gradients of one come together.
        torch._dynamo.config.optimize_ddp = False
        torch._dynamo.config.recompile_limit = _MOST_VARIANTS

    def compiled(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        if not self.is_on:
            return forward
        program = torch.compile(forward, dynamic=True, backend=self.backend, mode=self.mode)

        def run(*args: Any, **kwargs: Any) -> Any:
            # Generation: a layer knows its place in a cache, so that each would need its own.
            is_cached = kwargs.get("past_key_values") is not None
            return (forward if is_cached else program)(*args, **kwargs)

        return run


def _missing_compiler(device: str) -> str | None:
    if device in _TRITON_DEVICES:
        return None if importlib.util.find_spec("triton") else "Triton (pip install triton)"
    if device != "cpu":
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "a C++ compiler (g++)"
    return None
