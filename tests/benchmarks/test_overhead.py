import json
from pathlib import Path

import pytest
import yaml
from federating import parameters, write_sites

from benchmarks.overhead import main

pytestmark = pytest.mark.system


def test_the_parts_of_a_round_are_measured_and_add_up(tmp_path, capsys):
    params = parameters(Path(__file__).parents[2], federation__rounds=8, privacy__enabled=True)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    write_sites(tmp_path / "sites")
    main(
        [
            "--sites-folder",
            str(tmp_path / "sites"),
            "--params",
            str(tmp_path / "params.yaml"),
            "--rounds",
            "1",
            "--json",
        ]
    )
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["rounds"], told["run_rounds"], told["sites"]) == (1, 8, 3)
    assert told["parameters"] == 46_739
    assert min(told["wall_s"], told["training_s"], told["cpu_s"], told["training_cpu_s"]) > 0
    assert told["overhead_s"] == told["wall_s"] - told["training_s"]
    assert told["overhead_fraction"] == told["overhead_s"] / told["wall_s"]
    assert {"advertise", "share", "masked_input", "unmask"} <= told["phases_s"]["train"].keys()
