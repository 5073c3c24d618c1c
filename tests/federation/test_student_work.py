import numpy as np
import pytest
import torch
from federating import CLASSES, image_set

from primia.errors import ConfigError, ProtocolError
from primia.federation.plan import StudentPlan
from primia.federation.student_work import StudentWork, student_network
from primia.federation.summed_changes import LARGEST_LOSS, LOSS_STEPS, weighted_loss
from primia.federation.summed_validation import evaluate_values
from primia.federation.weights import head_vector, vector_digest
from primia.federation.work import local_seed
from primia.models.networks import build_network
from primia.models.released import ReleasedModel
from primia.privacy.noise import SystemNoise
from primia.training.augment import CHANGED_COPIES
from primia.training.distilled import train_student
from primia.training.objective import learning_rate_of

STANDARD = {"mean": 0.4, "std": 0.25}
TEACHER = ReleasedModel(
    build_network("convnet", classes=3, pixels=16, seed=5).eval(), "convnet", CLASSES, 16, 0.3, 0.2, round=1
)


@pytest.fixture
def plan(plan_with):
    def changed(*, pixels=16, **changes):
        part = StudentPlan(
            pixels=pixels,
            start=vector_digest(start(pixels) if pixels < 300 else start()),
            teacher=TEACHER.digest(),
            teacher_mean=TEACHER.mean,
            teacher_std=TEACHER.std,
            spread=0.5,
            **STANDARD,
        )
        return plan_with(**changes).model_copy(update={"student": part})

    return changed


def site(plan, name="north"):
    return StudentWork(
        plan,
        name=name,
        train=image_set(patients=20, seed=0),
        validation=image_set(patients=9, seed=100),
        teacher=head_vector(TEACHER.network.head),
    )


def start(pixels=16):
    return head_vector(student_network(pixels=pixels, classes=3))


def trained(work, model=None, *, round=1, standard=STANDARD):
    return work.train(start() if model is None else model, round=round, noise=SystemNoise(), **standard)


def test_a_round_is_distillation_on_the_sites_own_images(plan):
    agreed = plan(training__local_epochs=2, training__schedule="cosine")
    result = trained(site(agreed), round=2)
    network, images = student_network(pixels=16, classes=3), image_set(patients=20, seed=0).images
    network.mean.fill_(STANDARD["mean"])
    network.std.fill_(STANDARD["std"])
    loss = train_student(
        network,
        inputs=network.inputs(images).half(),
        targets=TEACHER.logits(images),
        spread=0.5,
        epochs=2,
        batch_size=8,
        learning_rate=learning_rate_of(0.05, "cosine", round=2, rounds=3),
        seed=local_seed(1, round=2, site="north"),
    )
    np.testing.assert_array_equal(result.delta, head_vector(network).astype(np.float64) - start())
    assert (result.loss, result.shrunk) == (loss, False)


def test_a_restarted_site_trains_to_the_same_bits_and_others_to_their_own(plan):
    agreed = plan(training__augment=True, training__local_steps=3)
    first = trained(site(agreed))
    np.testing.assert_array_equal(trained(site(agreed)).delta, first.delta)
    assert not np.array_equal(trained(site(agreed, "river")).delta, first.delta)
    assert not np.array_equal(trained(site(agreed), round=2).delta, first.delta)


def test_the_teacher_is_asked_once_about_every_image_and_about_its_changed_copies(plan):
    asked = []
    work = site(plan(training__augment=True, training__local_steps=1))
    work._teacher.network.register_forward_hook(lambda network, inputs, logits: asked.append((inputs[0], logits)))
    trained(work)
    trained(work, round=2)
    seen, said = (torch.cat(parts) for parts in zip(*asked, strict=True))
    inputs, targets = work._taught()
    assert len(seen) == len(inputs) == 40 * (1 + CHANGED_COPIES)
    assert torch.equal(targets, said)
    # Both networks saw the very same variants, each in its own standardisation.
    images = (seen * TEACHER.std + TEACHER.mean).flatten(1)
    np.testing.assert_allclose(inputs.float(), (images - STANDARD["mean"]) / STANDARD["std"], atol=4e-3)
    changed = images.view(1 + CHANGED_COPIES, 40, -1)
    assert (changed[1:] - changed[0]).abs().mean() > 0.01


def test_a_change_beyond_the_norm_bound_is_scaled_down_to_it(plan):
    free = trained(site(plan()))
    bound = 0.5 * np.linalg.norm(free.delta)
    held = trained(site(plan(secure_aggregation__norm_bound=float(bound))))
    assert (free.shrunk, held.shrunk) == (False, True)
    np.testing.assert_allclose(held.delta, 0.5 * free.delta, rtol=1e-9)


def test_a_model_that_overflows_on_some_images_is_answered_like_any_other(plan):
    agreed = plan()
    work, crafted = site(agreed), np.full(len(start()), 1e4, dtype=np.float32)
    result = trained(work, crafted, round=2)
    assert np.array_equal(result.delta, np.zeros(len(crafted)))
    assert weighted_loss(agreed, result.loss, weight=40).tolist() == [LARGEST_LOSS * LOSS_STEPS * 40]
    logits = work.validate(crafted, **STANDARD)
    assert not torch.isfinite(logits).all()
    held = image_set(patients=9, seed=100)
    counted = evaluate_values(agreed, logits, held.labels, held.patients, noise=SystemNoise())
    assert counted["confusion"].sum() == len(held)


def test_images_are_standardised_as_the_plan_says_and_not_as_a_request_does(plan):
    work = site(plan())
    for wrong in ({**STANDARD, "mean": 0.41}, {**STANDARD, "std": 0.26}):
        with pytest.raises(ProtocolError, match="standardises the student's images otherwise than the plan says"):
            trained(work, standard=wrong)
        with pytest.raises(ProtocolError, match="standardises the student's images otherwise than the plan says"):
            work.validate(start(), **wrong)


def test_a_teacher_who_would_see_images_otherwise_is_another_teacher(plan):
    agreed = plan()
    for wrong in ({"teacher_mean": 0.31}, {"teacher_std": 0.21}):
        other = agreed.model_copy(update={"student": agreed.student.model_copy(update=wrong)})
        with pytest.raises(ProtocolError, match="do not match its digest or architecture"):
            trained(site(other))


def test_the_first_round_starts_from_the_weights_that_the_plan_names(plan):
    other = start() + np.float32(1e-3)
    with pytest.raises(ProtocolError, match="does not start from the weights that the plan names"):
        trained(site(plan()), other)
    assert np.isfinite(trained(site(plan()), other, round=2).delta).all()


def test_validation_is_of_the_model_that_is_asked_about(plan):
    work = site(plan())
    before = work.validate(start(), **STANDARD)
    trained(work)
    assert torch.equal(work.validate(start(), **STANDARD), before)
    network, images = student_network(pixels=16, classes=3), image_set(patients=9, seed=100).images
    network.mean.fill_(STANDARD["mean"])
    network.std.fill_(STANDARD["std"])
    with torch.no_grad():
        np.testing.assert_allclose(before, network(network.inputs(images)), atol=2e-3)


def test_a_student_smaller_than_the_images_sees_them_shrunk(plan):
    work = site(plan(pixels=8))
    assert work.parameters == len(start(8))
    assert np.abs(trained(work, start(8)).delta).max() > 0


def test_a_student_that_no_version_knows_is_refused(plan):
    with pytest.raises(ConfigError, match="an encrypted network takes"):
        site(plan(pixels=300))
