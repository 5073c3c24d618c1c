"""Imports point one way: flows → tasks → primia; and mlflow/ shadows nothing."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "primia": {"prefect", "dvc", "mlflow", "tasks", "flows", "benchmarks"},
    "tasks": {"flows", "benchmarks"},
    "flows": {"benchmarks", "primia", "mlflow", "dvc"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("layer", sorted(FORBIDDEN))
def test_no_file_of_a_layer_imports_from_above_or_beside(layer: str) -> None:
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): imported(path) & FORBIDDEN[layer] for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_the_mlflow_folder_holds_no_python() -> None:
    assert list((ROOT / "mlflow").rglob("*.py")) == []


def test_the_mlflow_package_is_not_shadowed() -> None:
    import mlflow

    assert hasattr(mlflow, "MlflowClient")
