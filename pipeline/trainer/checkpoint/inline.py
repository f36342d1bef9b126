"""Saving while training waits."""

from pathlib import Path

import torch

from pipeline.trainer.checkpoint.process import what_failed
from pipeline.trainer.checkpoint.state_files import StateFile, wait_for_copies
from pipeline.trainer.checkpoint.writer import Contents, Publication, write_file, write_receipt


class InlineWriter:
    """Does every job at once, and needs the memory of one file only."""

    def __init__(self) -> None:
        self._outcome = ""

    def write(
        self, partial: Path, rank: int, files: list[StateFile], extras: dict[str, bytes]
    ) -> None:
        def work() -> None:
            nothing = memoryview(b"")
            records = {
                name: write_file(partial, Contents(name, data, nothing))
                for name, data in extras.items()
            }
            for file in files:
                buffer = torch.empty(file.data_bytes, dtype=torch.uint8)
                file.copy_to(buffer)
                wait_for_copies()
                contents = Contents(file.name, file.header, buffer.numpy().data)
                records[file.name] = write_file(partial, contents)
            write_receipt(partial, rank, records)

        self._outcome = what_failed(work)

    def publish(self, publication: Publication) -> None:
        self._outcome = what_failed(publication)

    def outcome(self, *, wait: bool) -> str | None:
        return self._outcome

    def close(self) -> None:
        pass
