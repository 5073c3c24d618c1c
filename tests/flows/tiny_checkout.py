"""A checkout with tiny parameters, driven as a user drives it: by commands."""

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
TINY: dict[str, dict[str, Any]] = {
    "ingest": {"phantom": {"patients": 150, "pixels": 48, "seed": 3}},
    "preprocess": {"pixels": 32, "test_fraction": 0.3},
    "federation": {"rounds": 3},
    "privacy": {"sampling_rate": 1.0, "site_population": 30, "delta": 0.001, "statistics_noise": 2.0},
    "evaluation": {"bootstrap": 100},
    "attack": {"gallery": 16, "membership": "stand_in"},
    "encryption": {"phantom_patients": 60, "epochs": 3, "images": 2, "pixels": 16},
}


@dataclass(frozen=True)
class Checkout:
    """A folder with a git repository, and the ports its services may take."""

    folder: Path
    ports: tuple[int, int, int]

    def run(self, *command: str, timeout: float = 300.0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m ...` in the checkout, as a user would in the activated environment."""
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def environment(self, **more: str) -> dict[str, str]:
        """What the Makefile exports, and nothing of the process that runs the tests."""
        own = ("PREFECT", "MLFLOW", "PRIMIA", "DVC")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        state = self.folder / ".state"
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}",
            "PREFECT_PORT": str(self.ports[0]),
            "MLFLOW_PORT": str(self.ports[1]),
            "DIAGNOSIS_PORT": str(self.ports[2]),
            "PREFECT_HOME": str(state / "prefect"),
            "DVC_SITE_CACHE_DIR": str(state / "dvc-site"),
            "DVC_GLOBAL_CONFIG_DIR": str(state / "dvc-config"),
            "DVC_SYSTEM_CONFIG_DIR": str(state / "dvc-config"),
            "DVC_NO_ANALYTICS": "1",
            **more,
        }

    @property
    def diagnosis(self) -> str:
        """Address of the diagnosis service after `make up`."""
        return f"http://127.0.0.1:{self.ports[2]}"

    def params(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "params.yaml").read_text())

    def set_params(self, values: dict[str, Any]) -> None:
        """Change sections of params.yaml."""
        params = self.params()
        for section, changed in values.items():
            params[section] = params[section] | changed if isinstance(changed, dict) else changed
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def store(self):
        """A client of the checkout's MLflow store."""
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=f"sqlite:///{self.folder / '.state' / 'mlflow' / 'mlflow.db'}")

    def runs(self):
        """MLflow runs, the newest first."""
        experiment = self.store().get_experiment_by_name("primia")
        return self.store().search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])


def python(checkout: Checkout, code: str) -> str:
    """What a few lines of Python print, beside the checkout's MLflow store."""
    store = f"sqlite:///{checkout.folder / '.state' / 'mlflow' / 'mlflow.db'}"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout.folder,
        env=checkout.environment(MLFLOW_TRACKING_URI=store),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def git(folder: Path, *arguments: str) -> str:
    unsigned = ["-c", "commit.gpgsign=false"]
    answer = subprocess.run(["git", *unsigned, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return answer.stdout


def make_checkout(folder: Path) -> Checkout:
    """The working tree without its outputs, in a fresh git repository, with tiny parameters."""
    for name in filter(None, git(ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    checkout = Checkout(folder, (free_port(), free_port(), free_port()))
    checkout.set_params(TINY)
    git(folder, "init", "--quiet", "--initial-branch=main")
    # DVC's experiments are commits; a bare machine has no identity of its own.
    git(folder, "config", "user.name", "test")
    git(folder, "config", "user.email", "test@example.org")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "tiny")
    return checkout
