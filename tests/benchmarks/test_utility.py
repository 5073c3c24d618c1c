import json

import pytest
import yaml
from federating import parameters, write_sites

from benchmarks.utility import Cell, grid, measure, overlaid
from benchmarks.utility_plot import draw_utility


def test_the_grid_is_full_for_the_scattering_network_and_every_cell_has_its_own_name():
    cells = grid()
    assert len({cell.name for cell in cells}) == len(cells)
    full = [cell for cell in cells if cell.architecture == "scattering"]
    assert len([cell for cell in full if cell.epsilon is not None]) == 3 * 2 * 2 * 3  # ε, trust, start, seed
    assert len([cell for cell in full if cell.epsilon is None]) == 2 * 3
    assert {cell.architecture for cell in cells} == {"scattering", "resnet9", "resnet18"}


def test_overlaying_changes_what_is_named_and_nothing_else():
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert overlaid(base, {"a": {"c": {"d": 4}}, "f": 5}) == {"a": {"b": 1, "c": {"d": 4}}, "e": 3, "f": 5}
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


@pytest.mark.system
def test_cells_are_measured_once_and_drawn(tmp_path, request, capsys):
    base = parameters(request.path.parents[2], federation__rounds=1).model_dump(mode="json")
    write_sites(tmp_path / "sites")
    test = tmp_path / "sites" / "hill" / "validation.safetensors"
    cells = [Cell("convnet", epsilon, "local", "none", 1) for epsilon in (None, 8.0)]
    place = {"sites": tmp_path / "sites", "test_file": test, "state": tmp_path / "state", "out": tmp_path / "xray.json"}
    measure(cells, base, **place)
    first = capsys.readouterr().out
    assert [json.loads(line)["cell"] for line in first.splitlines()] == [cell.name for cell in cells]
    measure(cells, base, **place)
    assert capsys.readouterr().out == "", "what is in the file is not run again"
    measure(cells[:1], overlaid(base, {"federation": {"rounds": 2}}), **place)
    assert len(capsys.readouterr().out.splitlines()) == 1, "other parameters are another cell"
    measure(cells[:1], overlaid(base, {"federation": {"rounds": 2}, "attack": {"gallery": 32}}), **place)
    assert capsys.readouterr().out == "", "what does not decide a cell does not count"

    told = yaml.safe_load((tmp_path / "xray.json").read_text())["cells"]
    open_one, private = (told[cell.name] for cell in cells)
    assert (open_one["rounds"], open_one["epsilon_spent"], open_one["delta"]) == (2, None, None)
    assert 0 < private["epsilon_spent"] <= 8.0
    assert private["low"] <= private["mcc"] <= private["high"]
    assert 0 <= private["pneumonia_auc"] <= 1
    draw_utility(tmp_path / "xray.png", list(told.values()))
    assert (tmp_path / "xray.png").read_bytes().startswith(b"\x89PNG")
