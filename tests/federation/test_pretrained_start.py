import pytest
from federating import InProcessChannel, federated, make_coordinator, make_sites

from primia.federation import messages as m
from primia.federation.weights import head_vector, vector_digest
from primia.training.pretrain import initial_network


class KilledError(Exception):
    pass


def first_models(channel):
    """Digests of the models that the sites were asked to train in round 1."""
    return {r.model_digest for _, r in channel.asked if isinstance(r, m.Train) and r.session.round == 1}


def test_round_one_starts_from_the_model_pretrained_on_phantoms_also_after_a_kill(site_folders, params_with, tmp_path):
    params = params_with(
        training__pretrain="phantom", training__pretrain_patients=30, training__pretrain_epochs=1, federation__rounds=2
    )
    start = initial_network(params.model, params.training, classes=params.ingest.classes, pixels=16)
    expected = {vector_digest(head_vector(start.head))}
    whole, channel = federated(params, site_folders, tmp_path / "whole")
    assert first_models(channel) == expected
    drawn, channel = federated(params_with(federation__rounds=2), site_folders, tmp_path / "drawn")
    assert first_models(channel).isdisjoint(expected)
    assert drawn.digest != whole.digest

    for kind in (m.Statistics, m.Train, m.Evaluate):

        def tamper(name, request, kind=kind):
            if isinstance(request, kind) and name == "river":
                raise KilledError
            return request

        channel = InProcessChannel(make_sites(site_folders, tmp_path / "killed"), tamper)
        with pytest.raises(KilledError):
            make_coordinator(params, channel, tmp_path / "killed").run()
        assert first_models(channel) <= expected
    resumed, channel = federated(params, site_folders, tmp_path / "killed")
    assert first_models(channel) <= expected
    assert resumed.digest == whole.digest


def test_pretraining_on_phantoms_charges_no_ledger(site_folders, params_with, tmp_path):
    spent = {}
    for pretrain in ("none", "phantom"):
        params = params_with(
            privacy__enabled=True,
            privacy__local_steps=2,
            federation__rounds=1,
            training__pretrain=pretrain,
            training__pretrain_patients=30,
            training__pretrain_epochs=1,
        )
        result, _ = federated(params, site_folders, tmp_path / pretrain)
        spent[pretrain] = {name: (told.steps, told.attempts, told.epsilon) for name, told in result.ledgers.items()}
    assert spent["phantom"] == spent["none"]
    assert all(steps == 2 and attempts == 1 for steps, attempts, _ in spent["phantom"].values())
