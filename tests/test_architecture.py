"""The rooms of the house keep their doors shut: who may import whom, read from the source.

Run: pytest tests/test_architecture.py
"""

import ast
from functools import cache
from pathlib import Path

import pytest
from sft_command import ROOT

PACKAGE = ROOT / "pipeline"
HEAVY = ("torch", "transformers", "deepspeed", "datasets", "accelerate", "peft")
STEPS = ("pipeline.step0_convert", "pipeline.step1_register", "pipeline.step2_train")
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


@cache
def imports(path: Path, *, lazily: bool = True) -> frozenset[str]:
    """Full names of what a module imports; without `lazily` only what runs at its import."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not lazily:
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                if lazily:
                    visit(child)
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: write the full name"
                module = child.module or ""
                for alias in child.names:
                    full = f"{module}.{alias.name}"
                    found.add(full if full in NAMES else module)
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return frozenset(found)


def below(names: frozenset[str] | set[str], *rooms: str) -> list[str]:
    return sorted(n for n in names if any(n == room or n.startswith(room + ".") for room in rooms))


def room(name: str) -> list[Path]:
    found = [path for full, path in NAMES.items() if below({full}, name)]
    assert found, f"{name} is gone; change this test with the design"
    return found


def reached_at_import(name: str) -> set[str]:
    """Everything that `import name` loads, of ours and of others."""
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        # Importing a.b.c runs a and a.b first.
        waiting += [module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)]
        if module in NAMES:
            waiting += imports(NAMES[module], lazily=False)
    return reached


@pytest.mark.parametrize("step", STEPS)
def test_a_step_imports_no_other_step(step: str):
    others = [other for other in STEPS if other != step]
    assert below(imports(NAMES[step]), *others, "pipeline.runs", "pipeline.cli") == []
    assert below(reached_at_import(step), *others) == []


@pytest.mark.parametrize(
    "name",
    ["pipeline.scaffolds", "pipeline.quality", "pipeline.sharegpt", "pipeline.trajectory"],
)
def test_pure_rooms_do_not_log_write_or_look_at_the_config(name: str):
    for path in room(name):
        found = imports(path)
        forbidden = ("logging", "shutil", "tempfile", "subprocess", "socket", "pipeline.config")
        assert below(found, *forbidden, "pipeline.paths", "pipeline.runs", *STEPS) == [], path
        assert below(found, "pipeline.files", "pipeline.log", "pipeline.launch") == [], path


def test_the_trainer_knows_nothing_of_the_pipeline_around_it():
    for path in room("pipeline.trainer"):
        found = imports(path)
        assert below(found, "pipeline.config.load", "pipeline.config.schema") == [], path
        assert below(found, "pipeline.paths", "pipeline.runs", "pipeline.launch", *STEPS) == [], (
            path
        )
        assert below(found, "pipeline.preflight", "pipeline.cli") == [], path


@pytest.mark.parametrize(
    "name",
    [
        *("pipeline.cli", "pipeline.config", "pipeline.errors", "pipeline.paths"),
        *("pipeline.log", "pipeline.trainer.args", "pipeline.trainer.output_dir"),
        *("pipeline.launch.supervise", "pipeline.runs.index", *STEPS),
        *("pipeline.runs.session", "pipeline.preflight"),
    ],
)
def test_importing_it_loads_nothing_heavy(name: str):
    assert below(reached_at_import(name), *HEAVY) == []


def test_config_never_imports_anything_heavy():
    for path in room("pipeline.config"):
        assert below(imports(path), *HEAVY) == [], path


def test_only_the_command_prints_and_exits():
    allowed = {"pipeline.cli.base"}
    for name, path in NAMES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            where = f"{path}:{node.lineno}"
            assert node.func.id != "print", f"{where}: log it, or return it"
            assert node.func.id not in ("exit", "quit") or name in allowed, where


def test_nothing_above_calls_the_command():
    for name, path in NAMES.items():
        if not below({name}, "pipeline.cli"):
            assert below(imports(path), "pipeline.cli") == [], path


def test_modules_do_not_import_each_other_in_a_circle():
    done: set[str] = set()

    def visit(name: str, on_the_way: tuple[str, ...]) -> None:
        assert name not in on_the_way, " -> ".join((*on_the_way, name))
        if name in done:
            return
        for other in imports(NAMES[name], lazily=False):
            if other in NAMES and other != name:
                visit(other, (*on_the_way, name))
        done.add(name)

    for name in NAMES:
        visit(name, ())
