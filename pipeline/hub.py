"""Datasets from the Hugging Face Hub, pinned to the commit that was downloaded."""

import json
import logging
import re
from pathlib import Path
from typing import Any

from pipeline.config.schema import Source
from pipeline.errors import DataError, PipelineError
from pipeline.files import atomic_open

logger = logging.getLogger(__name__)


def fetch_dataset(source: Source, directory: Path, token: str | None) -> Path:
    """Download the dataset of `source` unless this commit of it is already below `directory`.

    With `hf_file_name` that file as it is; without it the rows of `hf_subset` and `hf_split`,
    written as a JSON array. The commit is part of the path: a branch that moved is fetched anew.

    Raises: DataError: the Hub cannot be reached and nothing is cached, no such repository or file.
    """
    import huggingface_hub

    repository = source.hf_hub_url
    try:
        if source.hf_file_name:
            file = huggingface_hub.hf_hub_download(
                repository,
                source.hf_file_name,
                repo_type="dataset",
                revision=source.hf_revision,
                token=token,
            )
            logger.info("%s: %s", repository, file)
            return Path(file)
        info = huggingface_hub.HfApi(token=token).dataset_info(
            repository, revision=source.hf_revision
        )
        part = re.sub(r"[^\w.-]+", "_", f"{source.hf_subset or 'default'}-{source.hf_split}")
        target = directory / repository.replace("/", "__") / str(info.sha) / f"{part}.json"
        if not target.is_file():
            _write_rows(_load_rows(source, str(info.sha), token), target)
        return target
    except PipelineError:
        raise
    except Exception as error:  # three libraries below, each with errors of its own
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise DataError(
            f"source.hf_hub_url: {repository}: cannot be downloaded: {reason}; check the name, "
            "credentials.hf_token and the network, or download it and use source.type: local_lf"
        ) from error


def _load_rows(source: Source, commit: str, token: str | None) -> Any:
    import datasets

    return datasets.load_dataset(
        source.hf_hub_url,
        source.hf_subset or None,
        split=source.hf_split,
        revision=commit,
        token=token,
    )


def _write_rows(rows: Any, target: Path) -> None:
    with atomic_open(target) as file:
        separator = b"[\n"
        for row in rows:
            file.write(separator + json.dumps(row, ensure_ascii=False).encode("utf-8"))
            separator = b",\n"
        file.write(b"\n]\n")
