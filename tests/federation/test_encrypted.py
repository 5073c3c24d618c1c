"""The scheme ckks: masked vectors travel encrypted under a key of the sites."""

import numpy as np
import pytest
from federating import FIVE, InProcessChannel, Joined, federated, make_sites

from primia.federation import messages as m
from primia.federation.aggregate import aggregate
from primia.federation.summed_validation import evaluate_layout


@pytest.fixture(scope="module")
def joined(site_folders, params_with, tmp_path_factory):
    params = params_with(preprocess__hospitals=list(FIVE), secure_aggregation__scheme="ckks")
    state = tmp_path_factory.mktemp("state")
    return Joined(params, InProcessChannel(make_sites(site_folders, state, FIVE)), state)


def run_session(joined, request, size, spoil=None):
    channel = InProcessChannel(joined.channel.sites, spoil=spoil)
    return aggregate(channel, request, plan=joined.plan, sites=FIVE, size=size, deadline_s=60)


def test_the_model_is_that_of_masking_to_the_bit(site_folders, params_with, tmp_path):
    digests = {}
    for scheme in ("masking", "ckks"):
        params = params_with(secure_aggregation__scheme=scheme, federation__rounds=1)
        result, channel = federated(params, site_folders, tmp_path / scheme)
        digests[scheme] = result.digest
        assert any(isinstance(request, m.DecryptSum) for _, request in channel.asked) == (scheme == "ckks")
        assert ("decrypt" in result.sessions[0].phases) == (scheme == "ckks")
    assert digests["masking"] == digests["ckks"]


def cannot_make_a_key(name, request, response):
    return "it died" if isinstance(request, m.MakeGroupKey) and name == "north" else response


def makes_a_bad_key(name, request, response):
    if isinstance(request, m.MakeGroupKey) and name == "north":
        return response.model_copy(update={"public": b"nonsense"})
    return response


def sends_nonsense(name, request, response):
    if isinstance(request, m.Statistics) and name == "north":
        return response.model_copy(update={"vector": response.vector[:-1]})
    return response


def test_a_hospital_that_fails_with_the_key_or_the_ciphertext_is_dropped(joined):
    totals = []
    for attempt, spoil in enumerate((cannot_make_a_key, makes_a_bad_key, sends_nonsense), start=1):
        result = run_session(joined, joined.statistics(attempt), 3, spoil)
        assert list(result.dropped) == ["north"]
        assert result.survivors == ("hill", "lake", "river", "west")
        totals.append(result.total.tolist())
    assert totals[0] == totals[1] == totals[2]


def test_if_one_hospital_cannot_decrypt_another_does(joined):
    def cannot_decrypt(name, request, response):
        return "it died" if isinstance(request, m.DecryptSum) and name == "hill" else response

    size = evaluate_layout(joined.plan).size
    without = run_session(joined, joined.evaluate(round=1), size, cannot_decrypt)
    undisturbed = run_session(joined, joined.evaluate(round=1, attempt=2), size)
    assert list(without.dropped) == ["hill"]
    assert without.survivors == undisturbed.survivors
    assert without.total.tolist() == undisturbed.total.tolist()


def test_what_a_site_decrypts_is_still_masked(params_with, site_folders, tmp_path):
    seen = []

    def spoil(name, request, response):
        if isinstance(request, m.DecryptSum):
            seen.append(np.frombuffer(response.vector, dtype="<u4"))
        return response

    params = params_with(secure_aggregation__scheme="ckks", federation__rounds=1)
    federated(params, site_folders, tmp_path, spoil=spoil)
    counts = np.bincount(seen[1] >> np.uint32(28), minlength=16)  # of the training
    assert abs(counts / counts.sum() - 1 / 16).max() < 0.01


def test_a_key_or_a_decryption_is_given_once_and_only_in_the_scheme(site_folders, params_with, tmp_path):
    for scheme in ("ckks", "masking"):
        params = params_with(secure_aggregation__scheme=scheme)
        joined = Joined(params, InProcessChannel(make_sites(site_folders, tmp_path / scheme)), tmp_path / scheme)
        talk = joined.conversation(joined.statistics())
        talk.through(talk.share)
        made = talk.tell({"north": m.MakeGroupKey(session=talk.session)})["north"]
        again = talk.tell({"north": m.MakeGroupKey(session=talk.session)})["north"]
        assert isinstance(made, m.GroupKey if scheme == "ckks" else m.Refusal)
        assert isinstance(again, m.Refusal)
        early = talk.tell({"north": m.DecryptSum(session=talk.session, total=b"", words=3)})["north"]
        assert "decrypted once" in early.reason
