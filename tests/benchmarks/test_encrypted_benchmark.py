"""The benchmark measures the real engine: what it reports is there, and its answers are right. Times are not judged."""

import json

import pytest
from small_network import bundle_of, trained_network

from benchmarks.encrypted import bundles_of, main, measure_tenseal, phantoms
from primia.encrypted.bundle import save_bundle


@pytest.fixture(scope="module")
def smallest():
    return bundles_of(None, ["28"], seed=1, images=1)["28"]


def test_the_last_line_is_one_json_object_with_the_published_keys(smallest, tmp_path, capsys) -> None:
    save_bundle(tmp_path / "28", smallest[0])
    main(["--bundles", str(tmp_path), "--images", "1", "--no-tenseal", "--json"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    for key in ("latency_s", "client_s", "upload_mb", "reply_mb", "keys_mb"):
        assert set(figures[key]) == {"28"}
        assert figures[key]["28"] > 0
    assert 0 < figures["logit_error"]["28"] <= 1e-2
    assert {"machine", "load", "seed", "images"} <= set(figures)


@pytest.mark.system  # TenSEAL's vectors take their time
def test_tenseal_computes_the_same_function() -> None:
    bundle = bundle_of(trained_network(pixels=8, hidden=16, classes=3))
    figures = measure_tenseal(bundle, phantoms(1, 16, seed=1))
    assert figures["tenseal_logit_error"] < 0.1
    assert figures["tenseal_highlevel_s"] > 0


@pytest.mark.parametrize("wrong", [["--images", "0"], ["--models", "29"], ["--bundles", "/nowhere"]])
def test_what_cannot_be_measured_is_refused_before_it_starts(capsys, wrong) -> None:
    with pytest.raises(SystemExit):
        main(wrong)
    assert "error:" in capsys.readouterr().err
