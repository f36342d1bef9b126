"""Low-rank adapters through peft, inside the model that transformers loaded.

The model stays the object and class that it was; peft puts its layers in the place of the targets.
So nothing else of the trainer knows of adapters. What is saved is peft's own format:

adapter_config.json   the `LoraConfig`
adapter_model.safetensors   base_model.model.<module>.lora_A.weight (rank, in), .lora_B.weight ...
pissa_converted/      with pissa_convert: the same as an adapter for the original weights
merged_adapters.json   only if other adapters were merged into the model before: which, in order
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from pipeline.errors import TrainError
from pipeline.files import write_json
from pipeline.trainer.adapters.beside_shards import whole_shapes
from pipeline.trainer.adapters.pissa import convert_pissa, converted_config
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.keys.finetuning import split_names
from pipeline.trainer.modeling.reward_model import SCORE

ADAPTER = "default"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PISSA_CONVERTED = "pissa_converted"
MERGED_ADAPTERS = "merged_adapters.json"
_PREFIX = "base_model.model."
_SEVERAL = "several adapters, or a new one over others, are merged into the model, and "


def attach_lora(model: PreTrainedModel, args: TrainArgs) -> None:
    """Freeze the model and put a new or a given adapter into it, which is trained.

    Raises: TrainError: the model has no such targets, or an adapter cannot be loaded.
    """
    merged, continued = _given_adapters(args)
    if is_deepspeed_zero3_enabled():
        check_partitioned(args)
    for adapter in merged:
        merge_adapter(model, adapter)
    model.requires_grad_(False)
    with whole_shapes(model):
        if continued is not None:
            load_adapter(model, continued, is_trainable=True)
        else:
            _new_adapter(model, args)
    config = peft_config(model)
    config.base_model_name_or_path = args.model_name_or_path
    config.revision = args.model_revision
    # No fields of peft's, so they are not written with the others.
    config.merged_adapters = merged
    config.initial = _initial_matrices(model) if args.pissa_convert else None


def peft_config(model: PreTrainedModel) -> Any:
    """The `LoraConfig` of the adapter in the model."""
    return model.peft_config[ADAPTER]  # pyright: ignore[reportIndexIssue]  # peft puts it there


def has_adapter(model: PreTrainedModel) -> bool:
    return hasattr(model, "peft_config")


def inject_empty_adapter(model: PreTrainedModel, config: Any) -> None:
    """Put an adapter without values into a model that has none, such as one on the meta device."""
    from peft import inject_adapter_in_model

    uninitialised = copy.copy(config)
    uninitialised.init_lora_weights = False
    inject_adapter_in_model(uninitialised, model, ADAPTER)
    model.peft_config[ADAPTER] = config  # pyright: ignore[reportIndexIssue]  # peft puts it there


def load_adapter(model: PreTrainedModel, adapter: str, *, is_trainable: bool = False) -> Any:
    """Put a saved adapter into the model. Returns: peft's wrapper of the same model.

    Raises: TrainError: there is no such adapter, or it belongs to another model.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter, ADAPTER, is_trainable=is_trainable)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise TrainError(
            f"{adapter}: cannot load the adapter: {'; '.join(lines[:2])}; give the directory of an "
            "adapter for this model"
        ) from error


def merge_adapter(model: PreTrainedModel, adapter: str) -> None:
    """Add a saved adapter to the weights that it belongs to.

    Raises: TrainError: as `load_adapter`, or its weights cannot be merged.
    """
    wrapper = load_adapter(model, adapter)
    try:
        wrapper.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise TrainError(f"{adapter}: cannot merge the adapter: {error}") from error


def save_adapter(model: PreTrainedModel, state: dict[str, torch.Tensor], directory: Path) -> None:
    """Write the adapter as peft does. `state`: the trained weights by their names in the model."""
    weights, config = _weights(model, state), peft_config(model)
    _write(weights, config, directory)
    if config.initial is not None:
        (directory / PISSA_CONVERTED).mkdir(exist_ok=True)
        converted = convert_pissa(weights, config.initial)
        _write(converted, converted_config(config), directory / PISSA_CONVERTED)


def _weights(model: PreTrainedModel, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter under peft's names for files."""
    from peft import get_peft_model_state_dict

    # Embeddings that are no target are the base model's, and asking about them needs the network.
    return get_peft_model_state_dict(
        model, state_dict=state, adapter_name=ADAPTER, save_embedding_layers=False
    )


def _write(weights: dict[str, torch.Tensor], config: Any, directory: Path) -> None:
    # Copies: tied weights share memory, which the format does not allow.
    tensors = {_PREFIX + name: value.cpu().contiguous().clone() for name, value in weights.items()}
    save_file(tensors, directory / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    written = copy.copy(config)
    written.inference_mode = True
    for name, value in vars(written).items():  # a set's order is another one in every process
        if isinstance(value, set):
            setattr(written, name, sorted(value))
    written.save_pretrained(str(directory))
    if config.merged_adapters:
        write_json(directory / MERGED_ADAPTERS, config.merged_adapters)


def merged_adapters(adapter: Path) -> list[str]:
    """Adapters that were merged into the model before this one was trained, in order."""
    file = adapter / MERGED_ADAPTERS
    return json.loads(file.read_bytes()) if file.is_file() else []


def _new_adapter(model: PreTrainedModel, args: TrainArgs) -> None:
    from peft import LoraConfig, TaskType, inject_adapter_in_model

    targets = split_names(args.lora_target)
    in_full = split_names(args.additional_target)
    ties = bool(model.config.get_text_config().tie_word_embeddings)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS if args.stage == "rm" else TaskType.CAUSAL_LM,
        r=args.lora_rank,
        lora_alpha=args.lora_alpha or 2 * args.lora_rank,
        lora_dropout=args.lora_dropout,
        target_modules=_linear_modules(model) if targets == ["all"] else targets,
        modules_to_save=[*in_full, *([SCORE] if args.stage == "rm" else [])] or None,
        ensure_weight_tying=ties and bool(in_full),  # embeddings and lm_head stay one matrix
        use_rslora=args.use_rslora,
        use_dora=args.use_dora,
        init_lora_weights=_initialisation(args),
    )
    try:
        inject_adapter_in_model(config, model, ADAPTER)
    except ValueError as error:
        linear = ", ".join(_linear_modules(model))
        raise TrainError(
            f"training.lora_target: {args.lora_target}: {str(error).splitlines()[0]} Linear "
            f"modules of this model: {linear}"
        ) from error


def _initialisation(args: TrainArgs) -> Any:
    """peft's words: true for B = 0, or how PiSSA decomposes."""
    if not args.pissa_init:
        return True
    return "pissa" if args.pissa_iter == -1 else f"pissa_niter_{args.pissa_iter}"


def _initial_matrices(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    weights = _weights(model, dict(model.named_parameters()))
    return {name: value.detach().clone() for name, value in weights.items() if "lora_" in name}


def _linear_modules(model: PreTrainedModel) -> list[str]:
    """Last names of all linear modules but the output layer."""
    head = model.get_output_embeddings() or getattr(model, SCORE, None)
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }
    )


def _given_adapters(args: TrainArgs) -> tuple[list[str], str | None]:
    """Those that are merged into the model, and the one that is trained on, if any."""
    merged = split_names(args.adapter_name_or_path)
    continued = None if args.create_new_adapter or not merged else merged.pop()
    return merged, continued


def check_partitioned(args: TrainArgs) -> None:
    """Under ZeRO-3. Raises: TrainError: an adapter that changes the weights themselves, of which a
    rank holds a part."""
    way_out = "use training.deepspeed: null (DDP) or ds_z2_config.json"
    if _given_adapters(args)[0]:
        raise TrainError(
            f"training.adapter_name_or_path: {_SEVERAL}under ZeRO-3 every rank holds a part of it; "
            f"merge them first with sft export, or {way_out}"
        )
    for key in ("pissa_init", "use_dora"):
        if getattr(args, key):
            raise TrainError(
                f"training.{key}: computes with whole weights, and under ZeRO-3 every rank holds a "
                f"part of them; {way_out}"
            )
