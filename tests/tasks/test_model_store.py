"""Models of a real registry as folders."""

import os
import re

import pytest

from primia.errors import ConfigError, DataError
from primia.models.networks import build_network
from primia.models.places import model_folder
from primia.models.released import ReleasedModel, load_model, save_model
from tasks.model_store import DIGEST_TAG, fetch
from tasks.paths import FEDERATED
from tasks.tracking import FILES

pytestmark = pytest.mark.system  # a real store


@pytest.fixture
def registered(desk, tmp_path):
    """A version with a model in its files, and the model."""
    network = build_network("jet", classes=2, pixels=16, seed=1)
    model = ReleasedModel(
        network=network, architecture="jet", classes=("background", "liver"), pixels=16, mean=0.3, std=0.2, round=4
    )
    version = desk.register(marks="unfit for patients")
    save_model(tmp_path / "model", model)
    run = desk.client.get_model_version(desk.model, version).run_id
    desk.client.log_artifacts(run, str(tmp_path / "model"), artifact_path=f"{FILES}/{FEDERATED.as_posix()}")
    desk.tag(version, **{DIGEST_TAG: model.digest()})
    desk.client.set_registered_model_alias(desk.model, "challenger", version)
    return version, model


def test_a_version_and_an_alias_give_the_registered_model_and_say_what_it_is_marked_with(desk, registered, capsys):
    version, model = registered
    for address in (f"models:/{desk.model}/{version}", f"models:/{desk.model}@challenger"):
        assert load_model(fetch(address)).digest() == model.digest()
        assert f"version {version} of {desk.model}, marked unfit for patients" in capsys.readouterr().err


def test_the_command_line_finds_the_store_by_its_scheme(desk, registered):
    version, model = registered
    assert load_model(model_folder(f"models:/{desk.model}/{version}")).digest() == model.digest()


def test_the_store_is_found_in_a_shell_that_knows_nothing_of_it(desk, registered, monkeypatch):
    version, model = registered
    monkeypatch.setattr(os, "environ", {name: text for name, text in os.environ.items() if "MLFLOW" not in name})
    assert load_model(fetch(f"models:/{desk.model}/{version}")).digest() == model.digest()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_files_that_are_not_those_registered_are_refused(desk, registered):
    version, _ = registered
    desk.tag(version, **{DIGEST_TAG: "0" * 64})
    with pytest.raises(DataError, match="not those that were registered"):
        fetch(f"models:/{desk.model}/{version}")


@pytest.mark.parametrize("address", ["models:/nobody/1", "models:/nobody@champion"])
def test_a_model_that_is_not_there_is_told(store, address):
    with pytest.raises(DataError, match=re.escape(address)):
        fetch(address)


@pytest.mark.parametrize("address", ["models:/chest", "models:/chest/newest", "models:/../chest/1"])
def test_an_address_without_version_or_alias_is_refused(address):
    with pytest.raises(ConfigError, match="no model of the registry"):
        fetch(address)


def test_a_scheme_that_no_store_knows_is_refused():
    with pytest.raises(DataError, match="No store of models for s3:/"):
        model_folder("s3:/bucket/model")
