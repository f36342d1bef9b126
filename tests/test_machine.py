"""What the machine offers is read as the driver, the kernel and git read it.

Run: pytest tests/test_machine.py
"""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from pipeline.launch import machine
from pipeline.launch.machine import accelerators, cpu_count, disk_free_bytes, memory, visible_uuids
from pipeline.launch.project import git_state

UUIDS = ["GPU-aa11", "GPU-aa22", "GPU-bb33"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, UUIDS),
        ("", []),
        ("-1", []),
        ("2,0", ["GPU-bb33", "GPU-aa11"]),
        ("0, 1", ["GPU-aa11", "GPU-aa22"]),
        ("0,9,1", ["GPU-aa11"]),
        ("0,-1,1", ["GPU-aa11"]),
        ("GPU-bb,GPU-aa2", ["GPU-bb33", "GPU-aa22"]),
        ("GPU-aa", []),
        ("0,GPU-aa11", []),
        ("MIG-cc44", ["MIG-cc44"]),
        ("nonsense", []),
    ],
)
def test_cuda_visible_devices_is_read_as_the_driver_reads_it(
    selection: str | None, expected: list[str]
) -> None:
    assert visible_uuids(selection, UUIDS) == expected


class FakeNvml(types.ModuleType):
    """The NVML calls in use, for two devices."""

    class NVMLError(Exception):
        pass

    has_driver = True

    def nvmlInit(self) -> None:
        if not self.has_driver:
            raise self.NVMLError

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index + 1

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:
        return f"GPU-{handle}".encode()

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"NVIDIA {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(total=80 * handle, free=70 * handle)


def test_visible_devices_have_names_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("pynvml"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert accelerators() == [machine.Accelerator("GPU-2", "NVIDIA 2", 160, 140)]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [device.uuid for device in accelerators()] == ["GPU-1", "GPU-2"]


def test_no_driver_or_no_library_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml("pynvml")
    fake.has_driver = False
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert accelerators() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert accelerators() == []


def test_cgroup_limits_cores_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "job"
    group.mkdir()
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (group / "cpu.max").write_text("max 100000\n")
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("600000\n")
    (group / "memory.stat").write_text("anon 100000\ninactive_file 500000\n")
    monkeypatch.setattr(machine, "_cgroup_directories", lambda: [group, tmp_path])
    assert cpu_count() == 1
    assert memory() == machine.Memory(total_bytes=1_000_000, available_bytes=900_000)


def test_free_disk_of_a_directory_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert disk_free_bytes(tmp_path / "not" / "yet") > 0


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys, pipeline.launch.supervise, pipeline.runs.index, pipeline.runs.clean\n"
        "from pipeline.launch.machine import describe\n"
        "describe()\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))\n"
    )
    root = Path(machine.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_directory_outside_git_or_before_its_first_commit_has_no_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "missing") is None
