"""Write the example jobs, the same bytes every time.

    job        32 trials of four agents, most of them good, some of them not
    attempts   11 trials of one agent, several attempts at a task, solved and not: for pairs

Run: python examples/make_job.py [directory]     (default: examples)
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agents
from bugs import BUGS, Bug

_PROXY_LOG = "litellm-trajectory.jsonl"
_AGENTS: dict[str, tuple[str, Callable[[Bug, int], str]]] = {
    "claude-code": (_PROXY_LOG, agents.claude_code),
    "opencode": (_PROXY_LOG, agents.open_code),
    "openhands-sdk": (_PROXY_LOG, agents.openhands_sdk),
    "terminus-2": ("trajectory.json", agents.terminus2),
}
_UNSOLVED = {("claude-code", 4), ("opencode", 6), ("terminus-2", 2)}
_ATTEMPTS = ((True, False), (True, True, False), (True, False, False), (True,), (False, True))
"""Whether each attempt at each of the first tasks solves it."""
_EXCLUDED_ID = "django__django-16527"


def main(directory: Path) -> None:
    """Replace the example jobs in a directory."""
    for name, write in (("job", _write_job), ("attempts", _write_attempts)):
        if (directory / name).exists():
            shutil.rmtree(directory / name)
        write(directory / name)


def _write_attempts(job: Path) -> None:
    for number, outcomes in enumerate(_ATTEMPTS):
        bug = BUGS[number]
        for attempt, solves in enumerate(outcomes):
            trial = job / f"{bug.instance_id}__attempt{attempt + 1}"
            text = agents.claude_code(bug, 2 * (number + attempt) + 1, solves=solves)
            _write_trial(trial, "claude-code", bug.instance_id, float(solves), _PROXY_LOG, text)


def _write_job(job: Path) -> None:
    evals: dict[str, Any] = {}
    for number, (agent, (file_name, write)) in enumerate(_AGENTS.items()):
        rewards: dict[str, list[str]] = {}
        errors: dict[str, list[str]] = {}
        for index, bug in enumerate(BUGS):
            instance_id = _EXCLUDED_ID if (agent, index) == ("claude-code", 7) else bug.instance_id
            suffix = hashlib.sha256(f"{agent} {instance_id}".encode()).hexdigest()[:7]
            name = f"{instance_id[:32]}__{suffix}"
            reward = 0.0 if (agent, index) in _UNSOLVED else 1.0
            rewards.setdefault(str(reward), []).append(name)
            if (agent, index) == ("terminus-2", 5):  # solved, then ran into the time limit
                errors["AgentTimeoutError"] = [name]
            text = _damage(agent, index, write(bug, number + index))
            _write_trial(job / name, agent, instance_id, reward, file_name, text)
        evals[f"{agent}__{agents.MODEL}__bugs"] = {
            "n_trials": len(BUGS),
            "n_errors": len(errors),
            "reward_stats": {"reward": rewards},
            "exception_stats": errors,
        }
    _write_json(job / "result.json", {"n_total_trials": 4 * len(BUGS), "stats": {"evals": evals}})


def _damage(agent: str, index: int, text: str) -> str | None:
    """What goes wrong in real jobs. None: no trajectory at all."""
    if (agent, index) == ("claude-code", 2):  # killed in the middle of a line
        return text[:-200]
    if (agent, index) == ("opencode", 3):  # the result of a call never reached the log
        records = [json.loads(line) for line in text.splitlines()]
        for record in records[2:]:
            messages = record["request_body"]["messages"]
            record["request_body"]["messages"] = [m for m in messages if m["role"] != "tool"]
        return agents.lines(records)
    if (agent, index) == ("openhands-sdk", 1):
        return None
    if (agent, index) == ("terminus-2", 4):  # the context was summarised half-way
        document = json.loads(text)
        event = {"source": "system", "message": "Performed context summarization and handoff."}
        document["steps"].insert(4, event)
        return json.dumps(document, ensure_ascii=False, indent=1) + "\n"
    return text


def _write_trial(
    trial: Path, agent: str, instance_id: str, reward: float, file_name: str, text: str | None
) -> None:
    (trial / "agent").mkdir(parents=True)
    if text is not None:
        (trial / "agent" / file_name).write_text(text, encoding="utf-8")
    config = {
        "trial_name": trial.name,
        "task": {"path": f"tasks/{instance_id}"},
        "agent": {"name": agent, "model_name": agents.MODEL},
    }
    _write_json(trial / "config.json", config)
    result = {"trial_name": trial.name, "verifier_result": {"rewards": {"reward": reward}}}
    _write_json(trial / "result.json", result)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
