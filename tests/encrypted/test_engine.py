import numpy as np
import pytest
import torch
from torch import nn

from primia.encrypted.engine import FLOOD, Engine
from primia.encrypted.inputs import answer_logits, image_slots
from primia.errors import EncryptionError
from primia.models.polynomial import Quadratic

# The largest of four thousand slots' noise was 10 to 15.4 floods in 40 runs; partial sums are hundreds.
MOST_NOISE = 25 * FLOOD


def check_against_the_network(network, bundle) -> None:
    engine = Engine(bundle.plan)
    secret_bytes, key_bytes = engine.scheme.generate_keys()
    secret, keys = engine.scheme.load_secret(secret_bytes), engine.scheme.load_keys(key_bytes)
    pixels = bundle.specification.pipeline_pixels
    image = torch.rand(1, pixels, pixels, generator=torch.Generator().manual_seed(pixels))
    fresh = [engine.scheme.encrypt(slots, secret) for slots in image_slots(image, bundle.specification)]
    logits = answer_logits(engine.scheme.decrypt(engine.evaluate(fresh, keys), secret), bundle.specification)
    expected = network(network.inputs(image[None]))[0].detach().numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-2)


@pytest.mark.parametrize(("pixels", "hidden", "classes"), [(5, 24, 2), (4, 8, 11)])
def test_encrypted_logits_are_those_of_the_network(make_network, export, pixels, hidden, classes) -> None:
    network = make_network(pixels=pixels, hidden=hidden, classes=classes, seed=classes)
    check_against_the_network(network, export(network, tuple(f"class{index}" for index in range(classes))))


def test_several_ciphertexts_go_through_a_patch_convolution(build, export) -> None:
    network = build(
        nn.Conv2d(1, 6, 4, 4), nn.BatchNorm2d(6), Quadratic(), nn.Flatten(), nn.Linear(6 * 324, 3),
        shape=(1, 72, 72), patch=4,
    )  # fmt: skip
    bundle = export(network)
    assert bundle.specification.ciphertexts == 2
    check_against_the_network(network, bundle)


def test_a_strided_convolution_runs_at_the_deep_profile(build, export) -> None:
    network = build(
        nn.Conv2d(1, 2, 2, stride=2), Quadratic(), nn.Flatten(), nn.Linear(8, 2), shape=(1, 4, 4),
    )  # fmt: skip
    bundle = export(network, ("normal", "viral"), profile="deep")
    assert bundle.specification.parameters.degree == 16384
    check_against_the_network(network, bundle)


@pytest.mark.system  # keys of 200 MB
def test_three_convolutions_run_at_the_deep_profile(build, export) -> None:
    network = build(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), Quadratic(),
        nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.AvgPool2d(2), nn.BatchNorm2d(8), Quadratic(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), Quadratic(), nn.Flatten(), nn.Linear(128, 3),
        shape=(1, 16, 16),
    )  # fmt: skip
    with pytest.raises(EncryptionError, match=r"Layer 10 \(Flatten\) \+ 11 \(Linear\) needs 7 .* the profile deep"):
        export(network)
    bundle = export(network, profile="deep")
    assert bundle.specification.parameters.degree == 16384
    check_against_the_network(network, bundle)


def test_an_answer_holds_the_logits_and_nothing_half_summed(small) -> None:
    slots = small.engine.scheme.decrypt(small.engine.evaluate([small.fresh], small.keys), small.secret)
    expected = small.network(small.network.inputs(small.image[None]))[0].detach().numpy()
    np.testing.assert_allclose(slots, np.tile(np.append(expected, 0.0), 1024), atol=MOST_NOISE)


def test_a_question_with_several_images_gets_one_answer(build, export) -> None:
    """Copies that differ, and imaginary parts: of a linear model each would tell as much as a question of its own."""
    network = build(nn.Flatten(), nn.Linear(16, 3), shape=(1, 4, 4))
    engine = Engine(export(network).plan)
    secret_bytes, key_bytes = engine.scheme.generate_keys()
    secret, keys = engine.scheme.load_secret(secret_bytes), engine.scheme.load_keys(key_bytes)
    generator = np.random.default_rng(0)
    images = generator.normal(size=(256, 16))
    crafted = images.ravel() + 1j * generator.normal(size=4096)
    answer = engine.scheme.load_answer(engine.evaluate([engine.scheme.encrypt(crafted, secret)], keys))
    slots = decrypted_complex(engine, answer, secret)
    average = network(torch.tensor(images.mean(axis=0, keepdims=True)).float())[0].detach().numpy()
    np.testing.assert_allclose(slots.real, np.tile(np.append(average, 0.0), 1024), atol=MOST_NOISE)
    assert np.abs(slots.imag).max() < MOST_NOISE


def decrypted_complex(engine, ciphertext, secret) -> np.ndarray:
    import tenseal.sealapi as seal

    plain = seal.Plaintext()
    seal.Decryptor(engine.scheme.context, secret).decrypt(ciphertext, plain)
    return np.asarray(engine.scheme.encoder.decode_complex(plain))


def test_equal_questions_get_answers_with_fresh_noise_in_every_part(small) -> None:
    scheme = small.engine.scheme
    answers = [small.engine.evaluate([small.fresh], small.keys) for _ in range(2)]
    first, second = (scheme.decrypt(answer, small.secret) for answer in answers)
    apart = (first - second) - np.tile((first - second).reshape(-1, 4).mean(axis=0), 1024)
    assert apart.std() == pytest.approx(FLOOD * 2**0.5, rel=0.1)
    assert np.abs((first - second).reshape(-1, 4).mean(axis=0)).max() > FLOOD / 20  # the part that does not average out
    loaded = [scheme.load_answer(answer) for answer in answers]
    random_halves = [{ciphertext.dyn_array().at(8192 + index) for index in range(32)} for ciphertext in loaded]
    assert not random_halves[0] & random_halves[1]


def test_an_answer_is_smaller_than_a_question(small) -> None:
    assert len(small.engine.evaluate([small.fresh], small.keys)) < len(small.fresh) / 2


def test_the_ciphertexts_given_are_checked_before_they_are_evaluated(small) -> None:
    with pytest.raises(EncryptionError, match="cut off"):
        small.engine.evaluate([small.fresh[:-7]], small.keys)
    for count in (0, 2):
        with pytest.raises(EncryptionError, match=f"has 1 ciphertexts here, not {count}"):
            small.engine.evaluate([small.fresh] * count, small.keys)
