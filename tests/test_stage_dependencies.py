"""What a stage imports is among its DVC deps, so that changed code makes a stage stale."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def modules_of(name: str) -> list[Path]:
    """The file of a dotted module and the __init__ files above it, where they are ours."""
    parts = name.split(".")
    found = [ROOT.joinpath(*parts[:end], "__init__.py") for end in range(1, len(parts) + 1)]
    found.append(ROOT.joinpath(*parts).with_suffix(".py"))
    return [path for path in found if path.is_file()]


def imports_of(path: Path) -> set[Path]:
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in {"primia", "tasks", "flows"}:
                found.update(modules_of(name))
    return found


def closure(start: Path) -> set[Path]:
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting.extend(imports_of(path))
    return seen


# These processes are started by name, so the import is not seen in the code that starts them.
STARTED = {
    "encrypt": ["primia/federation/site_process.py"],
    "federate": ["primia/federation/site_process.py"],
    "compare": ["primia/federation/site_process.py", "primia/comparison/place_process.py"],
}


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_file_of_primia_that_a_stage_imports_is_a_dependency(stage: str) -> None:
    deps = [ROOT / dep for dep in STAGES[stage]["deps"] if not dep.startswith("${")]
    used = closure(ROOT / "flows" / f"{stage}.py")
    for extra in STARTED.get(stage, []):
        used |= closure(ROOT / extra)
    ours = {path for path in used if path.is_relative_to(ROOT / "primia") and path.stat().st_size > 0}
    # Errors, file writing and the package docstring change no result.
    ours -= {
        ROOT / "primia" / name
        for name in ("__init__.py", "errors.py", "files.py", "config.py", "consistency.py", "intake_settings.py")
    }
    missing = [path for path in ours if not any(path == dep or path.is_relative_to(dep) for dep in deps)]
    assert sorted(str(path.relative_to(ROOT)) for path in missing) == []


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_stage_depends_on_the_pinned_environment_and_runs_its_flow(stage: str) -> None:
    assert "constraints.txt" in STAGES[stage]["deps"]
    assert STAGES[stage]["cmd"] == f"python -m flows.{stage}"
    assert (ROOT / "flows" / f"{stage}.py").is_file()


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_failing_stage_leaves_its_earlier_outputs(stage: str) -> None:
    for entry in [*STAGES[stage]["outs"], *STAGES[stage].get("metrics", [])]:
        ((_, flags),) = entry.items()
        assert flags["persist"] is True


def test_every_dependency_in_dvc_yaml_exists_or_is_written_by_an_earlier_stage() -> None:
    written: set[str] = set()
    for name, stage in STAGES.items():
        for dep in stage["deps"]:
            made_before = any(f"{dep}/".startswith(f"{out}/") or f"{out}/".startswith(f"{dep}/") for out in written)
            assert dep.startswith("${") or made_before or (ROOT / dep).exists(), f"{name} depends on {dep}"
        written |= {out if isinstance(out, str) else next(iter(out)) for out in stage.get("outs", [])}
        written |= {out if isinstance(out, str) else next(iter(out)) for out in stage.get("metrics", [])}
