import pytest

from benchmarks.hippocampus_table import differences, table


def cell(way, dice, *, epsilon=None, seed=1, network="unet"):
    return {
        "architecture": network,
        "way": way,
        "epsilon": epsilon,
        "epsilon_spent": epsilon and epsilon - 0.05,
        "seed": seed,
        "dice_of_patients": dice,
        "dice_by_structure": {"front": {"value": 0.75}, "back": {"value": None if epsilon else 0.25}},
        "hd95": {"value": 2.0},
        "surface_dice": {"value": 0.5},
        "parameters": 450115,
        "rounds": 10,
        "seconds_per_round": 40.0 + seed,
        "bytes_per_round": 1803231 if way == "federated" else None,
    }


CELLS = [
    cell("federated", [0.5, 0.7], epsilon=8.0),
    cell("federated", [0.8, 0.8], seed=1),
    cell("federated", [0.6, 0.8], seed=2),
    cell("alone: north", [0.1, 0.3]),
    cell("alone: hill", [0.3, 0.5]),
    cell("centralised", [0.8, 0.9]),
    cell("federated", [0.6, 0.6], network="jet"),
]


def test_a_row_is_the_mean_of_its_seeds_or_hospitals_and_networks_stay_together():
    rows = [[part.strip() for part in row.split("|")[1:-1]] for row in table(CELLS).splitlines()]
    assert len({len(row) for row in rows}) == 1
    assert [(network, way, epsilon, seeds) for network, way, epsilon, seeds, *_ in rows[2:]] == [
        ("unet", "centralised", "none", "1"),
        ("unet", "alone, mean of 2", "none", "1"),
        ("unet", "federated", "none", "2"),
        ("unet", "federated", "7.95", "1"),
        ("jet", "federated", "none", "1"),
    ]
    assert [row[4][:5] for row in rows[2:]] == ["0.850", "0.300", "0.750", "0.600", "0.600"]
    assert rows[4][4] == "0.750 (0.700 to 0.800)"
    assert rows[4][5:] == ["0.750", "0.250", "2.0", "0.500", "450,115", "10", "42", "1,803"]
    assert rows[5][6] == "nan" and rows[2][-1] == "–"


def test_differences_are_paired_by_patient():
    lines = differences(CELLS).splitlines()
    assert len(lines) == 3  # nothing stands beside the jet
    assert lines[0].startswith("- unet, alone less centralised: -0.550 (")
    assert lines[1] == "- unet, federated less centralised: -0.100 (-0.100 to -0.100)"
    assert lines[2] == "- unet, ε = 8 less none: -0.150 (-0.200 to -0.100)"  # [0.5, 0.7] less the mean of both seeds


@pytest.mark.parametrize("tell", [table, differences])
def test_of_nothing_there_is_no_row(tell):
    assert len(tell([]).splitlines()) == (2 if tell is table else 0)
