"""The pinned environment: everything installed is pinned, and the combination that breaks Prefect is not."""

import re
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# pip and its build tools are the interpreter's, not the project's.
TOOLS = {"pip", "setuptools", "wheel", "primia"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_installed_distribution_has_the_version_of_the_constraints() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {canonical(name): version for name, version in (line.split("==") for line in lines)}
    installed = {canonical(d.metadata["Name"]): d.version.split("+")[0] for d in distributions()}
    ours = {name: version for name, version in installed.items() if name not in TOOLS}
    assert {name: version for name, version in ours.items() if pinned.get(name) != version} == {}


@pytest.mark.system  # a slow import
def test_prefect_and_fastapi_fit_together() -> None:
    import prefect.server.api.server as server

    assert callable(server.create_app)
