"""The registered encrypted model answers on ciphertexts, as whoever loads it from MLflow uses it."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import msgpack
import numpy as np
import pandas as pd
import pytest

from primia.encrypted.bundle import save_bundle
from primia.encrypted.ckks import Scheme
from primia.encrypted.inputs import answer_logits, image_slots
from primia.errors import EncryptionError

pytestmark = [
    pytest.mark.system,  # a real store
    # MLflow's own, on import and for want of an input example.
    pytest.mark.filterwarnings("ignore:.*type hint"),
    pytest.mark.filterwarnings("ignore:.*input example"),
]


@pytest.fixture(scope="module")
def uri(store, trained, tmp_path_factory: pytest.TempPathFactory) -> str:
    import mlflow

    from tasks.registry import log_encrypted_model

    folder = tmp_path_factory.mktemp("bundle") / "encrypted"
    save_bundle(folder, trained.bundle)
    with mlflow.start_run(experiment_id=store.get_experiment_by_name("primia").experiment_id):
        return log_encrypted_model(folder)


@pytest.fixture(scope="module")
def model(uri):
    import mlflow

    return mlflow.pyfunc.load_model(uri)


@pytest.fixture(scope="module")
def questions(trained) -> tuple[list[pd.DataFrame], list[bytes]]:
    """A question from each of two clients, and their secret keys."""
    said, scheme = trained.bundle.specification, Scheme(trained.bundle.specification.parameters)
    frames, secrets = [], []
    for _ in range(2):
        secret, keys = scheme.generate_keys()
        loaded = scheme.load_secret(secret)
        ciphertexts = [scheme.encrypt(slots, loaded) for slots in image_slots(trained.image, said)]
        frames.append(pd.DataFrame({"keys": [keys], "ciphertexts": [msgpack.packb(ciphertexts)]}))
        secrets.append(secret)
    return frames, secrets


def test_answers_decrypt_to_the_logits_in_the_clear_for_each_clients_own_key(trained, model, questions) -> None:
    frames, secrets = questions
    answers = model.predict(pd.concat(frames, ignore_index=True))["answer"]
    scheme = Scheme(trained.bundle.specification.parameters)
    expected = trained.network(trained.network.inputs(trained.image[None]))[0].detach().numpy()
    for answer, secret in zip(answers, secrets, strict=True):
        slots = scheme.decrypt(answer, scheme.load_secret(secret))
        np.testing.assert_allclose(answer_logits(slots, trained.bundle.specification), expected, atol=2e-2)
    with pytest.raises(EncryptionError, match="does not decrypt"):
        answer_logits(scheme.decrypt(answers[0], scheme.load_secret(secrets[1])), trained.bundle.specification)


def test_a_question_that_is_no_list_of_ciphertexts_is_refused_in_one_sentence(model, questions) -> None:
    question = questions[0][0]
    for wrong in (b"", b"\xc1", msgpack.packb("text"), msgpack.packb([1]), msgpack.packb([]), msgpack.packb([b"x"])):
        with pytest.raises(EncryptionError, match=r"^[^\n]*\.$"):
            model.predict(question.assign(ciphertexts=[wrong]))
    with pytest.raises(EncryptionError, match=r"^[^\n]*\.$"):
        model.predict(question.assign(keys=[b"no keys"]))


def test_the_model_holds_no_pickle_and_loads_without_torch(uri, store, tmp_path: Path) -> None:
    import mlflow

    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    assert [path.name for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".bin")] == []
    assert "torch" not in (folder / "requirements.txt").read_text()
    code = (
        "import sys, mlflow\n"
        f"mlflow.pyfunc.load_model({str(folder)!r}).unwrap_python_model().engine\n"
        "assert sys.modules['primia'].__file__.startswith(sys.argv[1]), sys.modules['primia'].__file__\n"
        "assert 'torch' not in sys.modules\n"
        "print(*{module.__file__ for name, module in sys.modules.items() if name.startswith('primia.')}, sep='\\n')\n"
    )
    # Started elsewhere: the code is that of the model, not of a checkout.
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code, str(folder)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    required = {line.split("==")[0] for line in (folder / "requirements.txt").read_text().splitlines()}
    assert third_party([Path(line) for line in answer.stdout.splitlines()]) - required == set()


def third_party(files: list[Path]) -> set[str]:
    """The packages that the first lines of some files of primia import."""
    assert len(files) > 5
    found = set()
    for path in files:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    distributions = packages_distributions()
    return {distributions[name][0].lower() for name in found - sys.stdlib_module_names - {"primia"}}
