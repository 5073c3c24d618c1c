import logging

import numpy as np
import pytest
import torch
from federating import InProcessChannel, federated, make_coordinator, make_sites

from primia.data.image_set import load_image_set
from primia.errors import ConfigError, DataError, ProtocolError
from primia.federation import messages as m
from primia.federation.vectors import bytes_to_floats, bytes_to_words, words_to_bytes
from primia.federation.weights import head_vector, vector_digest
from primia.federation.work import LocalWork
from primia.models.networks import build_network
from primia.privacy.noise import SystemNoise
from primia.training.objective import balanced_weights


@pytest.fixture(scope="module")
def finished(site_folders, params_with, tmp_path_factory):
    seen = []
    result, channel = federated(params_with(), site_folders, tmp_path_factory.mktemp("state"), on_round=seen.append)
    assert seen == list(result.records)
    return result, channel


def test_the_federation_learns(finished):
    result, _ = finished
    assert [record.round for record in result.records] == [1, 2, 3]
    assert result.records[-1].validation_loss < result.records[0].validation_loss
    assert result.model.round == 3
    assert result.records[-1].validation_score > 0.3
    assert {record.participants for record in result.records} == {3}
    assert {record.epsilon for record in result.records} == {0.0}
    assert all(
        0 <= record.clipped_fraction < 0.5 and record.bytes_up_per_site > 4 * 40_000 for record in result.records
    )


def test_the_statistics_are_pooled_over_all_training_images(finished, site_folders):
    images = torch.cat(
        [load_image_set(site_folders / name / "train.safetensors").images for name in ("north", "river", "hill")]
    ).double()
    assert finished[0].model.mean == pytest.approx(float(images.mean()), abs=1e-4)
    assert finished[0].model.std == pytest.approx(float(images.std(correction=0)), abs=1e-4)


def test_the_released_figures_are_those_of_the_released_model(finished, site_folders):
    model = finished[0].model
    right, images = 0, 0
    for name in ("north", "river", "hill"):
        held = load_image_set(site_folders / name / "validation.safetensors")
        right += int((model.logits(held.images).argmax(dim=1) == held.labels).sum())
        images += len(held)
    assert finished[0].records[model.round - 1].validation_accuracy == pytest.approx(right / images)


def test_one_round_is_the_weighted_mean_of_the_sites_own_training(finished, site_folders, params_with, tmp_path):
    plan, model = finished[0].plan, finished[0].model
    start = head_vector(build_network("convnet", classes=3, pixels=16, seed=1).head)
    total, weight = np.zeros(len(start)), 0
    for name in plan.hospitals:
        train = load_image_set(site_folders / name / "train.safetensors")
        work = LocalWork(plan, name=name, train=train, validation=train)
        result = work.train(start, mean=model.mean, std=model.std, round=1, noise=SystemNoise(), class_weights=None)
        total += len(train) * np.clip(result.delta, -0.25, 0.25)
        weight += len(train)
    second = next(r for _, r in finished[1].asked if isinstance(r, m.Train) and r.session.round == 2)
    step = 0.25 / (2**19 - 1)
    assert np.abs(bytes_to_floats(second.model) - (start + total / weight)).max() < step * 1.01


def test_the_coordinator_receives_no_vector_in_clear(site_folders, params_with, tmp_path):
    params = params_with(federation__rounds=1)
    masked, _ = federated(params, site_folders, tmp_path / "masked")
    seen = []
    sites = make_sites(site_folders, tmp_path / "seen")

    class Watching(InProcessChannel):
        def ask(self, requests, *, deadline_s):
            answers = super().ask(requests, deadline_s=deadline_s)
            seen.extend(a for a in answers.received.values() if isinstance(a, m.MaskedInput))
            return answers

    watched = make_coordinator(params, Watching(sites), tmp_path / "seen").run()
    assert watched.digest == masked.digest
    for answer in seen:
        if answer.session.purpose == "train":
            counts = np.bincount(bytes_to_words(answer.vector) >> np.uint32(28), minlength=16)
            assert abs(counts / counts.sum() - 1 / 16).max() < 0.01  # a plain update is all zeros and ones at the top


def test_masking_changes_no_bit_of_the_model(finished, site_folders, params_with, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        result, channel = federated(params_with(secure_aggregation__scheme="none"), site_folders, tmp_path)
    assert result.digest == finished[0].digest
    assert result.model.digest() == finished[0].model.digest()
    assert "SECURE AGGREGATION IS OFF" in caplog.text
    assert not any(isinstance(request, m.AdvertiseKeys | m.Unmask) for _, request in channel.asked)


KINDS = (m.AdvertiseKeys, m.ShareKeys, m.DeliverShares, m.Train, m.Consistency, m.Unmask, m.ReadLedger)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("purpose", ["statistics", "train", "evaluate"])
def test_a_run_killed_at_every_step_resumes_to_the_identical_model(
    finished, site_folders, params_with, tmp_path, purpose
):
    def kill_at(kind):
        def tamper(name, request):
            session = getattr(request, "session", None)
            here = session is None or (session.purpose, session.round) == (purpose, 2 * (purpose != "statistics"))
            if isinstance(request, kind) and here and name == "river":  # north has answered by then
                raise KilledError
            return request

        return tamper

    asked = []
    for kind in (*KINDS[:3], m.Statistics | m.Train | m.Evaluate, *KINDS[4:]):
        channel = InProcessChannel(make_sites(site_folders, tmp_path), kill_at(kind))
        with pytest.raises(KilledError):
            make_coordinator(params_with(), channel, tmp_path).run()
        asked += channel.asked
    result, channel = federated(params_with(), site_folders, tmp_path)
    asked += channel.asked
    assert result.digest == finished[0].digest
    assert [(r.round, r.validation_score, r.validation_loss) for r in result.records] == [
        (r.round, r.validation_score, r.validation_loss) for r in finished[0].records
    ]
    assert len(list((tmp_path / "federation").iterdir())) == 1
    answered = [(name, r.session) for name, r in asked if isinstance(r, m.Statistics | m.Train | m.Evaluate)]
    assert all(answered.count(entry) == 1 for entry in answered)


def test_a_model_that_could_not_be_saved_is_not_trained_and_charged_again(site_folders, params_with, tmp_path):
    def full_disk(result):
        raise DataError("The disk is full.")

    params, told = params_with(privacy__enabled=True, federation__rounds=2), []

    def attempt(on_result):
        channel = InProcessChannel(make_sites(site_folders, tmp_path))
        return make_coordinator(params, channel, tmp_path, on_round=told.append, on_result=on_result).run()

    with pytest.raises(DataError):
        attempt(full_disk)
    saved = []
    result = attempt(saved.append)
    assert saved == [result]
    assert [record.round for record in told] == [record.round for record in result.records]
    assert all(ledger.attempts == 2 for ledger in result.ledgers.values())
    assert all(ledger.epsilon_all_runs == ledger.epsilon > 7.8 for ledger in result.ledgers.values())


def test_the_running_average_is_what_is_validated(site_folders, params_with, tmp_path):
    _, channel = federated(params_with(federation__average=0.75), site_folders, tmp_path)
    trained = {r.session.round: bytes_to_floats(r.model) for _, r in channel.asked if isinstance(r, m.Train)}
    validated = {r.session.round: bytes_to_floats(r.model) for _, r in channel.asked if isinstance(r, m.Evaluate)}
    first, second = trained[2].astype(np.float64), trained[3].astype(np.float64)  # after rounds 1 and 2
    assert validated[1].tolist() == trained[2].tolist()
    np.testing.assert_array_equal(validated[2], (0.75 * first + 0.25 * second).astype(np.float32))


def test_messages_changed_on_the_way_end_the_run_with_a_site_and_a_reason(site_folders, params_with, tmp_path):
    def tamper(name, request):
        if isinstance(request, m.Train) and name == "hill":
            other = bytes_to_floats(request.model) + 1
            return request.model_copy(update={"model": words_to_bytes(other), "model_digest": vector_digest(other)})
        return request

    with pytest.raises(ProtocolError, match=r"Hospital hill refuses Train .*announced for another model"):
        federated(params_with(), site_folders, tmp_path, tamper=tamper)


def test_classes_are_weighed_by_the_label_counts_of_all_hospitals(finished, site_folders, params_with, tmp_path):
    params = params_with(training__class_weights=True, federation__rounds=1)
    result, channel = federated(params, site_folders, tmp_path)
    labels = torch.cat(
        [load_image_set(site_folders / name / "train.safetensors").labels for name in params.preprocess.hospitals]
    )
    asked = next(request for _, request in channel.asked if isinstance(request, m.Train))
    assert asked.class_weights == balanced_weights(torch.bincount(labels, minlength=3).tolist())
    assert all(request.class_weights is None for _, request in finished[1].asked if isinstance(request, m.Train))
    assert result.digest != finished[0].digest


def test_bits_that_leave_no_room_for_the_images_are_refused(site_folders, params_with, tmp_path):
    with pytest.raises(ConfigError, match=r"set secure_aggregation.bits to 24 or less"):
        federated(params_with(secure_aggregation__bits=26), site_folders, tmp_path)


def test_a_private_run_spends_its_target_and_says_so(site_folders, params_with, tmp_path):
    params = params_with(privacy__enabled=True, federation__rounds=2)
    result, _ = federated(params, site_folders, tmp_path)
    assert [record.round for record in result.records] == [1, 2]
    assert result.records[0].epsilon < result.records[1].epsilon
    assert 0.98 * 8.0 <= result.records[1].epsilon <= 8.0 + 1e-3
    assert result.stopped is None
    for report in result.ledgers.values():
        assert (report.steps, report.attempts) == (2, 2)
        # the statistics, two rounds of training and two validations
        assert report.text.count(result.plan.run) == 5


def test_a_private_run_that_repeats_a_round_ends_within_its_budget(site_folders, params_with, tmp_path):
    def kill(name, request):
        if isinstance(request, m.Unmask) and request.session.purpose == "train" and request.session.round == 2:
            raise KilledError
        return request

    params = params_with(privacy__enabled=True, federation__rounds=2)
    with pytest.raises(KilledError):
        federated(params, site_folders, tmp_path, tamper=kill)
    result, _ = federated(params, site_folders, tmp_path)
    assert [record.round for record in result.records] == [1]
    assert "one more round would spend epsilon" in result.stopped
    assert all(report.attempts == 2 and report.epsilon <= 8.0 + 1e-3 for report in result.ledgers.values())
