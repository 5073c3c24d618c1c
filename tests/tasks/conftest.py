"""A real registry with versions of a small real encrypted network, made once for the folder's tests."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from primia.encrypted.bundle import Bundle, make_bundle, save_bundle
from primia.models.polynomial import PolynomialNetwork, dense_network
from tasks.approval import MARKS_TAG, PROFILE_TAG, files_digest
from tasks.paths import ENCRYPTED, RAW, SUBSTANCE
from tasks.signed_approval import approve
from tasks.tracking import FILES, FILES_TAG

ROOT = Path(__file__).parent.parent.parent
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Trained:
    network: PolynomialNetwork
    bundle: Bundle
    image: torch.Tensor  # (1, 16, 16) in [0, 1]


@pytest.fixture(scope="session")
def trained() -> Trained:
    """Random weights, ranges of random images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = dense_network(8, 16, 3)
        images = torch.rand(64, 1, 16, 16)
    network.mean.fill_(0.5)
    network.std.fill_(0.15)
    network.record_ranges(network.inputs(images))
    classes = ("normal", "bacterial", "viral")
    bundle = make_bundle(network, classes=classes, pipeline_pixels=16, teacher_digest="ab" * 32)
    return Trained(network, bundle, images[0])


@dataclass(frozen=True)
class Desk:
    """A registered model, and what a pipeline and a reviewer do with it."""

    client: Any
    model: str
    folder: Path
    bundle: Bundle

    def register(self, *, marks: str | None = None) -> str:
        """A new version with files of its own."""
        files = self.folder / f"files{next(_NUMBERS)}"
        for folder in SUBSTANCE:
            (files / folder).mkdir(parents=True)
            (files / folder / "some.json").write_text(f'"{files.name}"')
        shutil.rmtree(files / ENCRYPTED)
        save_bundle(files / ENCRYPTED, self.bundle)
        (files / RAW).mkdir(parents=True)
        (files / RAW / "source.json").write_text("{}")
        shutil.copy(ROOT / "params.yaml", files / "params.yaml")
        run = self.client.create_run(self.client.get_experiment_by_name("primia").experiment_id)
        self.client.log_artifacts(run.info.run_id, str(files), artifact_path=FILES)
        version = self.client.create_model_version(self.model, run.info.artifact_uri, run.info.run_id).version
        tags = {FILES_TAG: files_digest(files), PROFILE_TAG: "demo"}
        self.tag(version, **tags, **({MARKS_TAG: marks} if marks else {}))
        return str(version)

    def promote(self, version: str) -> None:
        """What `tasks.promotion` does once the gates hold."""
        found = self.client.get_model_version(self.model, version)
        approve(self.client, found, name="A. Reviewer", reason="a test")

    def tag(self, version: str, **tags: str) -> None:
        for key, value in tags.items():
            self.client.set_model_version_tag(self.model, version, key, value)

    def stored(self, version: str) -> Path:
        """Where the artifact store keeps the files of a version."""
        source = self.client.get_model_version(self.model, version).source
        return Path(source.removeprefix("file://")) / FILES


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tasks.tracking import open_store

    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMIA_STATE", str(folder))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        yield open_store()


@pytest.fixture
def make_desk(store: Any, trained: Trained, tmp_path: Path) -> Callable[[], Desk]:
    def make() -> Desk:
        model = f"chest-{next(_NUMBERS)}"
        store.create_registered_model(model)
        return Desk(store, model, tmp_path, trained.bundle)

    return make


@pytest.fixture
def desk(make_desk: Callable[[], Desk]) -> Desk:
    return make_desk()
