"""The model registry: a version with everything a reviewer needs, and the alias that says every gate holds."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from primia.config import Params
from primia.files import read_json
from primia.models.released import load_model
from primia.review.gates import GateResult, check_gates, collect_facts, load_profile
from tasks.approval import CHALLENGER, CHAMPION, MARKS_TAG, PROFILE_TAG, files_digest
from tasks.environment import checkout
from tasks.freshness import require_fresh
from tasks.model_store import DIGEST_TAG
from tasks.paths import ENCRYPTED, ENCRYPTION, FEDERATED, GATES, RAW, REPORT
from tasks.tracking import FILES_TAG, RunLog, open_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models.model import ModelInfo

ENCRYPTED_MODEL_TAG = "primia.encrypted_model"
_ENCRYPTED_NEEDS = ("mlflow", "msgpack", "numpy", "pandas", "pydantic", "safetensors", "scipy", "tenseal", "zstandard")


@task(cache_policy=NO_CACHE)
def register_version(params: Params) -> int:
    """Register the files of this checkout; the same files give no second version.

    The alias challenger moves to the version only when every gate of the profile holds.
    """
    require_fresh()
    client = open_store()
    name = params.registry.name
    digest = files_digest(checkout())
    version = _find(name, digest)
    if version is None:
        version = _create(params, digest)
    results = gates_of(checkout(), params.registry.profile)
    missed = [result for result in results if not result.passed]
    for result in results:
        state = "passed" if result.passed else f"missed: {result.reason}"
        client.set_model_version_tag(name, version, f"gate.{result.name}", state)
    aliases = client.get_model_version(name, str(version)).aliases
    if missed:
        sentences = "; ".join(result.reason for result in missed)
        if CHALLENGER in aliases:
            client.delete_registered_model_alias(name, CHALLENGER)
        print(f"Version {version} of {name} is no challenger: {sentences}")
    elif CHAMPION in aliases:
        print(f"Version {version} of {name} is the champion, and its {len(results)} gates hold.")
    else:
        client.set_registered_model_alias(name, CHALLENGER, str(version))
        print(f"Version {version} of {name} is the challenger: {len(results)} gates hold ({params.registry.profile}).")
    return version


def gates_of(root: Path, profile: str) -> list[GateResult]:
    """Check the gates of a profile against the result files below `root`."""
    return check_gates(load_profile(GATES, profile), collect_facts(root))


def registered_version(params: Params) -> "ModelVersion | None":
    """The version that holds the files of this checkout, with its aliases, if it is registered."""
    number = _find(params.registry.name, files_digest(checkout()))
    return None if number is None else open_store().get_model_version(params.registry.name, str(number))


def _find(name: str, digest: str) -> int | None:
    found = open_store().search_model_versions(f"name = '{name}' and tags.`{FILES_TAG}` = '{digest}'")
    return int(found[0].version) if found else None


def _create(params: Params, digest: str) -> int:
    import mlflow

    run = RunLog.of_files(digest)
    run.from_files(checkout())
    with mlflow.start_run(run_id=run.run_id), warnings.catch_warnings():
        # MLflow would like an input example, and would run the model on it; the signature says all there is.
        warnings.filterwarnings("ignore", message=".*input example.*", category=UserWarning)
        answers_encrypted = read_json(ENCRYPTION / "metrics.json")["enabled"]
        encrypted = {ENCRYPTED_MODEL_TAG: log_encrypted_model(ENCRYPTED)} if answers_encrypted else {}
        info = _log_model(params)
    version = int(info.registered_model_version)
    client, name = open_store(), params.registry.name
    profile = load_profile(GATES, params.registry.profile)
    tags = {
        FILES_TAG: digest,
        PROFILE_TAG: params.registry.profile,
        DIGEST_TAG: read_json(FEDERATED / "model.json")["digest"],
        "primia.data_fingerprint": read_json(RAW / "source.json")["fingerprint"],
        **encrypted,
    }
    if profile.marks:
        tags[MARKS_TAG] = profile.marks
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    client.update_model_version(name, version, description=_card_without_pictures())
    return version


def _log_model(params: Params) -> "ModelInfo":
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    model = load_model(FEDERATED)
    answers = (len(model.classes), *model.shape) if model.segments else (len(model.classes),)
    return mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(__file__).with_name("registered_model.py")),
        artifacts={"federated": str(FEDERATED), "encrypted": str(ENCRYPTED)},
        code_paths=["primia"],
        pip_requirements=_requirements("mlflow", "numpy", "pydantic", "pyyaml", "safetensors", "torch"),
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1, *model.shape))]),
            outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *answers))]),
        ),
        registered_model_name=params.registry.name,
    )


def log_encrypted_model(bundle: Path) -> str:
    """Log the network that answers on ciphertexts in the active run; returns its model URI."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    info = mlflow.pyfunc.log_model(
        name="encrypted_model",
        python_model=str(Path(__file__).with_name("registered_encrypted.py")),
        artifacts={"encrypted": str(bundle)},
        code_paths=["primia"],
        pip_requirements=_requirements(*_ENCRYPTED_NEEDS),
        signature=ModelSignature(
            inputs=Schema([ColSpec(DataType.binary, "keys"), ColSpec(DataType.binary, "ciphertexts")]),
            outputs=Schema([ColSpec(DataType.binary, "answer")]),
        ),
    )
    return str(info.model_uri)


def _card_without_pictures() -> str:
    lines = (REPORT / "model_card.md").read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("!["))


def _requirements(*names: str) -> list[str]:
    """What loading a model needs, at the versions of this environment."""
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in names]
