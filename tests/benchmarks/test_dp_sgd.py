"""The benchmark measures what it says, on models small enough for a test. Times are not judged."""

import json

import pytest
import torch
from torch.nn import functional

from benchmarks.dp_sgd import LAYOUTS, main, plain_gradient, scene
from benchmarks.opacus_modes import MODES, opacus_gradient
from primia.training.clipped_gradients import clipped_sum


@pytest.mark.system
@pytest.mark.parametrize(("model", "dtype"), [("convnet", "bfloat16"), ("scattering", "float32")])
def test_all_contenders_are_measured_and_told_in_one_line(capsys, model, dtype):
    main(["--model", model, "--size", "16", "--batch", "4", "--dtype", dtype, "--repeats", "2", "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["model"], told["size"], told["batch"], told["dtype"]) == (model, 16, 4, dtype)
    assert min(told["plain_images_s"], told["dp_images_s"], told["opacus_images_s"], told["noise_s"]) > 0
    assert min(told["ratio_to_plain"], told["ratio_to_opacus"]) > 0
    assert 0 <= told["max_gradient_error"] <= 1e-5
    tried, failed = set(told["tried_images_s"]), set(told["left_out"])
    kinds = dict.fromkeys((dtype, "float32"))
    assert {name.removeprefix("opacus ") for name in tried if name.startswith("opacus ")} | failed == {
        f"{mode} {kind} {layout}" for mode in MODES for kind in kinds for layout in LAYOUTS
    }
    assert f"opacus {told['opacus_runs']}" in tried
    assert f"plain {told['plain_runs']}" in tried


@pytest.mark.parametrize("model", ["convnet", "monet"])
@pytest.mark.parametrize("mode", MODES)
def test_opacus_computes_the_same_sum(mode, model):
    head, rows, labels = scene(model, size=16, batch=4, seed=0)
    theirs = opacus_gradient(mode, head, rows=rows, labels=labels, clip_norm=1.0, bfloat16=False)
    ours = clipped_sum(head, rows=rows, labels=labels, clip_norm=1.0)
    for _ in range(2):  # nothing is left over from the first time
        found = theirs()
        assert all(torch.allclose(found[name], ours[name], atol=1e-4) for name in ours)


def test_plain_training_computes_the_gradient_of_the_mean_loss():
    head, rows, labels = scene("convnet", size=16, batch=4, seed=0)
    expected = torch.autograd.grad(functional.cross_entropy(head(rows), labels), list(head.parameters()))
    for layout in LAYOUTS:
        found = plain_gradient(head, rows, labels, bfloat16=False, layout=layout)()
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
