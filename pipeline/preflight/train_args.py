"""The training YAML as far as it is known before STEP 0 has run."""

from pipeline.config.shipped import resolve_shipped
from pipeline.preflight.report import Context
from pipeline.trainer.args import TrainArgs
from pipeline.trainer.keys.strategy import AUTO


def train_args(context: Context, model: str = "-") -> TrainArgs:
    """`model`: the directory or Hub id to load from, where that matters."""
    given = context.given
    keys = given.training.model_dump()
    if keys["deepspeed"] not in (None, AUTO):
        keys["deepspeed"] = str(resolve_shipped(str(keys["deepspeed"]))[0])
    return TrainArgs(
        **keys,
        model_name_or_path=model,
        model_revision=given.model.model_revision,
        trust_remote_code=given.model.trust_remote_code,
        dataset=",".join([context.paths.dataset_name, *given.dataset.mixed_with]),
        dataset_dir="-",
    )
