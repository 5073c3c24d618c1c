import numpy as np
import pytest
import torch

from primia.encrypted.engine import FLOOD, Engine
from primia.encrypted.inputs import answer_logits, image_slots
from primia.errors import EncryptionError


@pytest.mark.parametrize(("pixels", "hidden", "classes"), [(5, 24, 2), (4, 8, 11)])
def test_encrypted_logits_are_those_of_the_network(make_network, export, pixels, hidden, classes) -> None:
    network = make_network(pixels=pixels, hidden=hidden, classes=classes, seed=classes)
    bundle = export(network, tuple(f"class{index}" for index in range(classes)))
    engine = Engine(bundle.plan)
    secret_bytes, key_bytes = engine.scheme.generate_keys()
    secret, keys = engine.scheme.load_secret(secret_bytes), engine.scheme.load_keys(key_bytes)
    image = torch.rand(1, 2 * pixels, 2 * pixels, generator=torch.Generator().manual_seed(classes))
    fresh = [engine.scheme.encrypt(slots, secret) for slots in image_slots(image, bundle.specification)]
    logits = answer_logits(engine.scheme.decrypt(engine.evaluate(fresh, keys), secret), bundle.specification)
    expected = network(network.inputs(image[None]))[0].detach().numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-2)


def test_an_answer_holds_the_logits_and_nothing_half_summed(small) -> None:
    slots = small.engine.scheme.decrypt(small.engine.evaluate([small.fresh], small.keys), small.secret)
    expected = small.network(small.network.inputs(small.image[None]))[0].detach().numpy()
    np.testing.assert_allclose(slots, np.tile(np.append(expected, 0.0), 1024), atol=8 * FLOOD)


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


def test_the_ciphertext_given_is_checked_before_it_is_evaluated(small) -> None:
    with pytest.raises(EncryptionError, match="cut off"):
        small.engine.evaluate([small.fresh[:-7]], small.keys)
