"""The benchmark measures the real protocol: what it reports is there, and its sums are right. Times are not judged."""

import json

import pytest

from benchmarks.secagg import main, measure, measure_ckks
from benchmarks.timing import Stopwatch, aes_keystream_s


def test_masking_is_exact_with_a_site_that_drops_out() -> None:
    figures = measure(sites=5, parameters=1000, drop=1, seed=1, repeats=2)
    assert figures["exact"] is True
    assert figures["masks_per_site"] == 5
    assert set(figures["site_phases_s"]) == {"advertise", "share", "receive", "quantise", "mask", "sign", "reveal"}
    assert {"coordinator_cpu_s", "aes_limit_s", "ratio_to_limit"} <= set(figures)


def test_traffic_is_the_vector_and_a_few_kilobytes() -> None:
    figures = measure(sites=5, parameters=100_000, drop=0, seed=1, repeats=1)
    assert 0 < figures["traffic_overhead_bytes"] < 50_000
    assert figures["traffic_ratio"] == 1 + figures["traffic_overhead_bytes"] / 400_000


def test_ckks_is_exact_and_costs_traffic() -> None:
    figures = measure_ckks(sites=3, parameters=20_000, seed=1, measured_parameters=8192)
    assert figures["ckks_exact"] is True
    assert figures["ckks_measured_parameters"] == 8192
    assert 3 < figures["ckks_traffic_ratio"] < 15
    assert {"ckks_site_s", "ckks_coordinator_s", "ckks_decrypt_s"} <= set(figures)


def test_the_last_line_is_one_json_object_with_the_published_keys(capsys) -> None:
    main(["--sites", "4", "--parameters", "500", "--drop", "1", "--repeats", "1", "--json"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["exact"] is True
    assert {
        "site_cpu_s",
        "coordinator_cpu_s",
        "traffic_ratio",
        "aes_limit_s",
        "ratio_to_limit",
        "ckks_site_s",
        "ckks_traffic_ratio",
        "cores",
        "seed",
    } <= set(figures)


def test_scaling_covers_every_number_of_sites_and_draws_a_plot(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("benchmarks.secagg.SCALING_SITES", (3, 6))
    plot = tmp_path / "new folder" / "scaling.png"
    main(["--scaling", "--parameters", "500", "--repeats", "1", "--plot", str(plot), "--json"])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["scaling"]
    assert [(row["sites"], row["drop"], row["exact"]) for row in rows] == [(3, 0, True), (6, 1, True)]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("wrong", [["--drop", "2"], ["--sites", "2"], ["--repeats", "0"]])
def test_an_impossible_session_is_refused_before_it_starts(capsys, wrong) -> None:
    with pytest.raises(SystemExit):
        main(wrong)
    assert "error:" in capsys.readouterr().err


def test_a_stopwatch_adds_up_by_phase() -> None:
    watch = Stopwatch()
    for phase in ("one", "two", "one"):
        with watch.phase(phase):
            aes_keystream_s(streams=1, size=100)
    assert set(watch.phases) == {"one", "two"}
    assert watch.total == sum(watch.phases.values())
