"""Outside a Harbor job every golden is recognised by what it holds, as one trial.

Run: pytest tests/test_scaffold_recognise.py
"""

from pathlib import Path

import pytest

from pipeline.conversion.files import RawFileTree

DATA = Path(__file__).parent / "data"
JOBS = sorted(DATA.glob("*/raw/*/agent"))


@pytest.mark.parametrize("agent", JOBS, ids=lambda agent: agent.parents[2].name)
def test_files_of_a_golden_are_one_trial_of_its_scaffold(agent):
    inventory = RawFileTree(agent).inventory("auto")
    assert [trial.scaffold for trial in inventory.trials] == [agent.parents[2].name]
    assert inventory.rejects == []
