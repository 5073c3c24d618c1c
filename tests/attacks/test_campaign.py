import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from scenes import DECLARED, SETTINGS, SMALL, images_of, model_of, report_of, scene_of

from primia.attacks import retrieval
from primia.attacks.campaign import Campaign, attacks_on, hash_of
from primia.attacks.contract import Part, Verdict
from primia.attacks.document import AttackDocument, json_schema
from primia.attacks.mutations import MUTATIONS, mutate
from primia.attacks.results import worst, write_results
from primia.attacks.retrieval import GradientRetrieval
from primia.attacks.scene import Membership
from primia.attacks.shared_noise import HonestHospitals
from primia.attacks.subject import subject_of
from primia.errors import ConfigError

ATTACKS = ("gradient_retrieval", "gradient_inversion", "imprint", "membership", "one_run_audit")
DISCRETE = dataclasses.replace(DECLARED, discrete=True)
SCHEMA = Path(__file__).parents[2] / "docs/attack.schema.json"


@pytest.fixture
def in_three_parts(monkeypatch):
    monkeypatch.setattr(retrieval, "_TRIALS", 16)


def campaign_of(scene, folder, tell=lambda done, total: None):
    return Campaign(scene, [GradientRetrieval("first"), GradientRetrieval("released")], folder, on_progress=tell)


def test_a_campaign_that_was_killed_goes_on_with_the_parts_that_are_missing(in_three_parts, tmp_path, monkeypatch):
    scene = scene_of()
    first = campaign_of(scene, tmp_path)
    for job in first.jobs[:4]:
        first.do(job)
    begun = []
    part = GradientRetrieval.part

    def counted(self, scene, index, advance):
        begun.append((self.round, index))
        return part(self, scene, index, advance)

    monkeypatch.setattr(GradientRetrieval, "part", counted)
    second = campaign_of(scene_of(), tmp_path)
    for job in second.jobs:
        second.do(job)
    assert begun == [("released", 1), ("released", 2)]
    assert [report.outcome.trials.total for report in second.reports()] == [40, 40]


def test_a_part_that_a_full_disk_cut_off_is_done_again(tmp_path):
    campaign = campaign_of(scene_of(), tmp_path)
    for job in campaign.jobs:
        campaign.do(job)
    before = campaign.reports()[0].outcome
    [kept] = tmp_path.glob("*/gradient_retrieval-first-0.safetensors")
    kept.write_bytes(kept.read_bytes()[:40])
    again = campaign_of(scene_of(), tmp_path)
    again.do(again.jobs[0])
    assert again.reports()[0].outcome.positive == before.positive


def test_another_model_other_images_or_another_seed_share_no_parts(tmp_path):
    scene = scene_of()
    others = [
        scene_of(model=dataclasses.replace(scene.released, mean=0.1, std=0.01)),
        scene_of(candidates=images_of(20, seed=6)),
        scene_of(budget=dataclasses.replace(SMALL, canaries=17)),
        scene_of(settings=scene.settings.model_copy(update={"seed": 4})),
    ]
    campaign = campaign_of(scene, tmp_path)
    campaign.do(campaign.jobs[0])
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 1
    for other in others:
        campaign = campaign_of(other, tmp_path)
        campaign.do(campaign.jobs[0])
    assert len(list(tmp_path.iterdir())) == 5


def folders_of(tmp_path, scenes):
    """Where the parts of each scene are kept, in a folder of their own."""
    for number, scene in enumerate(scenes):
        campaign = campaign_of(scene, tmp_path / str(number))
        campaign.do(campaign.jobs[0])
    return [path.name for number in range(len(scenes)) for path in (tmp_path / str(number)).iterdir()]


def test_a_broken_trainer_step_or_noise_finds_no_parts_of_an_honest_run(tmp_path):
    scene = scene_of(noise=None)
    honest, again, *broken = folders_of(tmp_path, [scene, scene_of(noise=None), *(mutate(scene, n) for n in MUTATIONS)])
    assert honest == again
    assert len({honest, *broken}) == len(MUTATIONS) + 1


def test_other_honest_hospitals_keep_other_parts(tmp_path):
    def shared(curious):
        honest = HonestHospitals(hospitals=4, threshold=3, curious=curious)
        return scene_of(noise=None, step=honest.step, trainer=honest.train, declared=DISCRETE)

    one, same, two = folders_of(tmp_path, [shared(1), shared(1), shared(2)])
    assert one == same != two


def test_another_torch_begins_anew(tmp_path, monkeypatch):
    before = folders_of(tmp_path / "before", [scene_of()])
    monkeypatch.setattr(torch, "__version__", "1.0")
    assert folders_of(tmp_path / "after", [scene_of()]) != before


def test_what_is_kept_of_a_finished_campaign_is_nothing(tmp_path):
    campaign = campaign_of(scene_of(), tmp_path)
    campaign.do(campaign.jobs[0])
    campaign.forget()
    assert list(tmp_path.iterdir()) == []


def test_jobs_side_by_side_give_what_they_give_in_turn(in_three_parts, tmp_path):
    def undefended(folder, workers):
        campaign = campaign_of(scene_of(declared=None), folder)
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(campaign.do, campaign.jobs))
        return [report.outcome for report in campaign.reports()]

    assert undefended(tmp_path / "one", 1) == undefended(tmp_path / "four", 4)


def test_progress_never_falls_and_ends_at_all(in_three_parts, tmp_path):
    told, lock = [], threading.Lock()

    def tell(done, total):
        with lock:
            told.append((done, total))

    campaign = campaign_of(scene_of(), tmp_path, tell)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(campaign.do, campaign.jobs))
    assert told == sorted(told) and told[-1] == (1000, 1000)
    assert len({done for done, _ in told}) > 100


def test_there_is_a_place_for_every_attack_and_an_unknown_name_is_refused():
    private, plain = (attacks_on(scene_of(**changes)) for changes in ({}, {"declared": None}))
    assert [attack.name for attack in private if attack not in plain] == ["round_retrieval"]
    with pytest.raises(ConfigError, match="no attack gradient_theft on this model, only gradient_inversion, "):
        attacks_on(scene_of(), ["gradient_theft"])
    assert {attack.round for attack in attacks_on(scene_of(), ["gradient_retrieval"])} == {"first", "released"}


def test_every_attack_that_applies_is_required_at_every_weights():
    required = [name for name, _ in subject_of(scene_of()).required]
    assert set(required) == {*ATTACKS, "round_retrieval"} and required.count("gradient_retrieval") == 2
    for scene in (scene_of(declared=None), scene_of(declared=DISCRETE)):
        assert {name for name, _ in subject_of(scene).required} == set(ATTACKS)


def about(**changes):
    return dataclasses.replace(subject_of(scene_of()), **changes)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return report_of(GradientRetrieval("released"), scene_of(), tmp_path_factory.mktemp("honest"))


def test_the_files_carry_the_worst_report_and_the_released_models_digest(tmp_path, honest):
    bad = dataclasses.replace(honest, verdict=Verdict.FAIL, model_digest="0" * 64, round="first")
    assert worst([honest, bad]) is bad
    write_results(tmp_path, [bad, honest], about(uncovered=("figures",)))
    document = AttackDocument.model_validate_json((tmp_path / "attack.json").read_text())
    assert document.verdict is Verdict.FAIL and document.verdicts == {"gradient_retrieval": Verdict.FAIL}
    assert document.model_digest == scene_of().released.digest() and document.uncovered == ["figures"]
    assert document.attacked_digests == {"first": "0" * 64, "released": honest.model_digest}
    assert [entry.verdict for entry in document.attacks] == [Verdict.FAIL, Verdict.PASS]
    assert document.attacks[1].successes == honest.outcome.trials.successes
    assert document.data_hash == hash_of(images_of(20))
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["gradient_retrieval"]["bound"] == honest.outcome.bound
    header, row, *_ = (tmp_path / "retrieval.csv").read_text().splitlines()
    assert header == "noise_multiplier,rate,low,high,bound"
    assert float(row.split(",")[1]) == honest.outcome.facts["curve"][0]["rate"]
    assert (tmp_path / "roc.csv").read_text() == "model,fpr,tpr\n"


def test_pictures_are_kept_under_the_attack_and_the_weights_it_attacked(tmp_path, honest):
    shown = dataclasses.replace(honest.outcome, pictures={"best_original": torch.eye(4)})
    write_results(tmp_path, [dataclasses.replace(honest, outcome=shown)], about(pictures=True))
    with safe_open(tmp_path / "pictures.safetensors", "pt") as kept:
        torch.testing.assert_close(kept.get_tensor("gradient_retrieval.released.best_original"), torch.eye(4))


def test_an_attack_that_was_left_out_or_not_made_at_all_weights_leaves_the_document_incomplete(tmp_path, honest):
    honest = dataclasses.replace(honest, outcome=dataclasses.replace(honest.outcome, facts={}))
    every = [dataclasses.replace(honest, name=name, round=round) for name, round in about().required]
    for reports, complete in ((every, True), (every[1:], False), (every[:-1], False), ([honest], False)):
        write_results(tmp_path, reports, about())
        document = AttackDocument.model_validate_json((tmp_path / "attack.json").read_text())
        assert document.complete is complete and set(document.required) == {name for name, _ in about().required}


def test_verdicts_name_the_released_model_where_only_the_first_weights_were_attacked(tmp_path):
    scene = scene_of(released=model_of(seed=2), privacy_digest="ab12")
    report = report_of(GradientRetrieval("first"), scene, tmp_path / "state")
    write_results(tmp_path, [report], subject_of(scene))
    document = AttackDocument.model_validate_json((tmp_path / "attack.json").read_text())
    assert document.model_digest == scene.released.digest() and document.privacy_digest == "ab12"
    assert document.attacked_digests == {"first": scene.first.digest()}
    assert document.attacks[0].settings | {"epsilon": DECLARED.epsilon, "delta": 1e-4} == document.attacks[0].settings
    kept = {name: document.attacks[0].settings[name] for name in ("statistics_noise", "views", "steps_per_round")}
    assert kept == {"statistics_noise": 10.0, "views": 1, "steps_per_round": 2}


def test_the_data_hash_covers_members_and_others():
    sets = [images_of(20, seed=seed) for seed in (6, 7, 8)]
    known = [None, Membership(sets[0], sets[1]), Membership(sets[0], sets[2]), Membership(sets[2], sets[1])]
    hashes = [subject_of(scene_of(membership=each)).data_hash for each in known]
    assert len(set(hashes)) == 4 and hashes[0] == hash_of(images_of(20))


@pytest.mark.parametrize(
    ("synthetic", "agreed", "shown", "said"),
    [(False, False, False, False), (False, True, True, True), (True, False, True, False), (True, True, True, False)],
)
def test_pictures_of_real_patients_are_kept_only_where_they_agreed_and_are_named(
    tmp_path, honest, synthetic, agreed, shown, said
):
    scene = scene_of(synthetic=synthetic, settings=SETTINGS.model_copy(update={"pictures": agreed}))
    outcome = dataclasses.replace(honest.outcome, pictures={"best_original": torch.eye(4)})
    write_results(tmp_path, [dataclasses.replace(honest, outcome=outcome)], subject_of(scene))
    with safe_open(tmp_path / "pictures.safetensors", "pt") as kept:
        assert bool(list(kept.keys())) is shown
    document = AttackDocument.model_validate_json((tmp_path / "attack.json").read_text())
    assert document.uncovered == (["images of test patients in the report (attack.pictures)"] if said else [])


def test_a_figure_that_is_no_number_is_null_in_the_file(tmp_path, honest):
    def broken(value):
        check = dataclasses.replace(honest.outcome.checks[0], value=value)
        return dataclasses.replace(honest, outcome=dataclasses.replace(honest.outcome, checks=(check,)))

    write_results(tmp_path, [broken(float("nan"))], about())
    [entry] = json.loads((tmp_path / "attack.json").read_text())["attacks"]
    assert entry["checks"][0]["value"] is None and entry["checks"][0]["holds"] is False


def test_the_published_schema_is_that_of_the_code():
    assert json.loads(SCHEMA.read_text()) == json_schema()


def test_the_data_hash_changes_with_one_pixel_and_with_one_label():
    images = images_of(16)
    brighter, relabelled = images.images.clone(), images.labels.clone()
    brighter[3, 0, 0, 0] += 0.5
    relabelled[0] = 2
    hashes = {
        hash_of(images),
        hash_of(dataclasses.replace(images, images=brighter)),
        hash_of(dataclasses.replace(images, labels=relabelled)),
    }
    assert len(hashes) == 3
    assert hash_of(images_of(16)) == hash_of(images)


def test_a_part_survives_the_way_to_the_disk_and_back(tmp_path, monkeypatch):
    given = Part(
        {"hits": 3, "rates": [0.1, 2e-300], "name": "ε"}, {"image": torch.rand(3, 4), "counts": torch.arange(5)}
    )
    monkeypatch.setattr(GradientRetrieval, "part", lambda self, scene, index, advance: given)
    seen = []
    monkeypatch.setattr(GradientRetrieval, "gather", lambda self, scene, parts: seen.extend(parts))
    campaign = Campaign(scene_of(), [GradientRetrieval("first")], tmp_path, on_progress=lambda *_: None)
    campaign.do(campaign.jobs[0])
    with pytest.raises(AttributeError):  # there is no outcome to judge
        campaign.reports()
    [part] = seen
    assert {key: part.values[key] for key in given.values} == given.values
    for name, array in given.arrays.items():
        assert torch.equal(part.arrays[name], array)
