"""How fast STEP 0 is, and how much memory a worker takes, on a made-up job of large trials.

Run: python -m benchmarks.convert DIRECTORY [--trials 500] [--min-mb 1] [--max-mb 20] [--workers 0]

The job is written to DIRECTORY/job once and used again. Prints one line: MB/s in all and per
worker, the largest resident set of a worker, and what was kept.
"""

import argparse
import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from pipeline.conversion.source import HarborJob
from pipeline.conversion.workers import usable_cores
from pipeline.progress import show_progress
from pipeline.step0_convert import ConvertOptions, convert

_WORDS = "the test fails because total is None when the basket holds no item and max sees nothing"
_TOOLS = [
    {
        "name": name,
        "description": "A tool of the agent. " * 40,
        "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}},
    }
    for name in ("Bash", "Read", "Edit", "Grep", "Glob", "Task", "Write", "TodoWrite")
]


def write_trial(directory: Path, size_bytes: int, draw: random.Random) -> None:
    """A claude-code log of about `size_bytes`: every call repeats all that was said before."""
    (directory / "agent").mkdir(parents=True)
    config = {"task": {"path": f"tasks/{directory.name}"}, "agent": {"name": "claude-code"}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "result.json").write_text('{"verifier_result": {"rewards": {"reward": 1.0}}}')
    system = [{"type": "text", "text": "You are Claude Code. " * 400}]
    messages: list[Any] = [{"role": "user", "content": f"Fix task {directory.name}."}]
    with (directory / "agent" / "litellm-trajectory.jsonl").open("w") as log:
        turn = 0
        while log.tell() < size_bytes:
            call = {
                "type": "tool_use",
                "id": f"toolu_{turn}",
                "name": "Bash",
                "input": {"command": f"sed -n {turn},$p file.py"},
            }
            content = [{"type": "thinking", "thinking": _WORDS * 4, "signature": ""}, call]
            body = {"messages": messages, "system": system, "tools": _TOOLS, "model": "m"}
            record = {"request_body": body, "response_body": {"content": content}}
            log.write(json.dumps(record) + "\n")
            result = " ".join(draw.choices(_WORDS.split(), k=draw.randint(50, 700)))
            answer = {"type": "tool_result", "tool_use_id": f"toolu_{turn}", "content": result}
            messages += [
                {"role": "assistant", "content": [call]},
                {"role": "user", "content": [answer]},
            ]
            turn += 1


class PeakMemory(threading.Thread):
    """Samples the resident sets of all descendants; the largest single one counts."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest_bytes = 0
        self._finished = threading.Event()

    def run(self) -> None:
        while not self._finished.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                try:
                    self.largest_bytes = max(self.largest_bytes, process.memory_info().rss)
                except psutil.Error:
                    continue  # it ended meanwhile

    def stop(self) -> int:
        self._finished.set()
        self.join()
        return self.largest_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--min-mb", type=float, default=1)
    parser.add_argument("--max-mb", type=float, default=20)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    job = given.directory / "job"
    draw = random.Random(0)
    if not job.exists():
        for number in range(given.trials):
            size = draw.uniform(given.min_mb, given.max_mb) * 1e6
            write_trial(job / f"acme__lib-{number}__{number:07d}", int(size), draw)
    size_mb = sum(path.stat().st_size for path in job.rglob("*") if path.is_file()) / 1e6
    num_workers = given.workers or usable_cores()
    options = ConvertOptions("auto", "resolved", 0, 42, None, 0.0, num_workers)
    out = given.directory / "out"
    (out / "lf.manifest.json").unlink(missing_ok=True)
    memory = PeakMemory()
    memory.start()
    started = time.monotonic()
    with show_progress("step 0", "trials") as progress:
        report = convert(HarborJob(job), out / "im.jsonl", out / "lf.json", options, progress)
    seconds = time.monotonic() - started
    peak_mb = memory.stop() / 1e6
    own_mb = psutil.Process(os.getpid()).memory_info().rss / 1e6
    rate = size_mb / seconds
    sys.stdout.write(
        f"{report.counts['read']} trials, {size_mb:,.0f} MB in {seconds:.1f} s: {rate:,.0f} MB/s, "
        f"{rate / num_workers:,.0f} MB/s per worker ({num_workers}); largest worker "
        f"{peak_mb:,.0f} MB, this process {own_mb:,.0f} MB; {report.counts['kept']} kept\n"
    )


if __name__ == "__main__":
    main()
