from dataclasses import dataclass
from functools import partial

from primia.attacks.identity import words_for
from primia.attacks.mutations import Altered
from primia.attacks.shared_noise import HonestHospitals
from primia.training.private import private_gradient, train_private


def scaled(factor):
    def step():
        return factor

    return step


def calls_itself():
    def again():
        return again()

    return again


@dataclass(frozen=True)
class Trainer:
    settings: tuple[int, ...]
    step: object

    def __call__(self): ...


def test_equal_trainers_are_described_alike_without_a_place_in_memory():
    for make in (
        lambda: private_gradient,
        lambda: HonestHospitals(5, 4, 1).step,
        lambda: Altered(train_private, (("clip_norm", 2.0),)),
        lambda: partial(train_private, steps=3),
        lambda: Trainer((1, 2), scaled(3)),
        lambda: scaled(Trainer((), len)),
        lambda: calls_itself(),
    ):
        assert words_for(make()) == words_for(make())
        assert " at 0x" not in words_for(make())


def test_each_difference_between_trainers_is_told():
    trainers = [
        private_gradient,
        train_private,
        HonestHospitals(5, 4, 1).step,
        HonestHospitals(5, 4, 2).step,
        HonestHospitals(5, 4, 1).train,
        Altered(train_private, (("clip_norm", 2.0),)),
        Altered(train_private, (("clip_norm", 3.0),)),
        Altered(private_gradient, (("clip_norm", 2.0),)),
        partial(train_private, steps=3),
        partial(train_private, steps=4),
        partial(train_private, 3),
        scaled(2),
        scaled(3),
        Trainer((1,), scaled(2)),
        Trainer((1,), scaled(3)),
        Trainer,
    ]
    assert len({words_for(trainer) for trainer in trainers}) == len(trainers)


def test_a_plain_object_equals_nothing_in_another_process():
    assert " at 0x" in words_for(object())
