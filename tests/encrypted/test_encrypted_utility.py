import numpy as np
import pytest
import torch

from primia.config import Evaluation
from primia.data.image_set import ImageSet
from primia.encrypted.bundle import make_bundle
from primia.encrypted.utility import network_figures
from primia.evaluation.evaluate import evaluate
from primia.models.networks import build_network
from primia.models.released import ReleasedModel
from primia.models.students import encrypted_form

CLASSES = ("normal", "bacterial", "viral")


def test_the_scattering_model_is_as_good_encrypted_as_it_is_evaluated() -> None:
    generator = torch.Generator().manual_seed(1)
    network = build_network("scattering", classes=3, pixels=16, seed=0)
    with torch.no_grad():
        network.head[1].weight.normal_(std=0.05, generator=generator)
    model = ReleasedModel(network, "scattering", CLASSES, 16, 0.5, 0.3, 1)
    images = torch.rand(90, 1, 16, 16, generator=generator).half()
    # Mostly what the model says, so that its figures are neither perfect nor those of guessing.
    labels = model.logits(images).argmax(dim=1)
    labels[::4] = torch.arange(23) % 3
    names = tuple(map(str, range(90)))
    test = ImageSet(images, labels, torch.arange(90), names, names, CLASSES)
    form = encrypted_form(model)
    assert form is not None
    form.record_ranges(form.inputs(images))
    bundle = make_bundle(form, classes=CLASSES, pipeline_pixels=16, teacher_digest=model.digest())
    settings = Evaluation(bootstrap=200)
    told = network_figures(bundle, model, test, settings=settings)
    judged = evaluate(model, test, settings=settings).figures
    assert told["student_mcc"] == pytest.approx(judged["mcc"]["value"])
    assert 0.2 < told["student_mcc"] < 1.0
    for figure in ("auc", "accuracy"):
        assert told[f"student_{figure}"] == pytest.approx(judged[figure], abs=1e-3)
    assert told["student_teacher_agreement"] == 1.0
    assert (told["front"], told["pixels"]) == ("scattering", 16)
    assert told["teacher_digest"] == model.digest() and told["model_digest"] == bundle.specification.model_digest
    assert np.isfinite(told["student_auc"]["low"])
