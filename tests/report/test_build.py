import re
from pathlib import Path

import pytest
from safetensors.numpy import save

from primia.comparison.results import write_skipped
from primia.errors import ConfigError, DataError
from primia.files import read_json, sha256_of_folder, write_json
from primia.report.build import build_report

TEMPLATE = Path(__file__).parents[2] / "mlflow/model_card.md.j2"
PLOTS = {"rounds", "roc", "confusion", "calibration", "comparison", "epsilon", "retrieval", "logits"}
PLOTS |= {"inversionfirst", "membership", "audit"}


def test_the_report_holds_card_page_and_every_plot(built_report):
    assert {path.name for path in built_report.iterdir()} == {"model_card.md", "report.html", "plots"}
    assert {path.stem for path in (built_report / "plots").glob("*.png")} == PLOTS
    page = (built_report / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == len(PLOTS)


def test_the_page_loads_nothing_and_runs_nothing(built_report):
    page = (built_report / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link|<iframe|@import|url\(|javascript:|\son\w+=", page, re.IGNORECASE)
    assert set(re.findall(r'src="([^"]{0,10})', page)) == {"data:image"}
    assert "default-src 'none'" in page


def test_every_table_of_the_card_becomes_a_table_of_the_page(built_report):
    card, page = (built_report / "model_card.md").read_text(), (built_report / "report.html").read_text()
    separators = re.findall(r"^\|(?:-+\|)+$", card, re.MULTILINE)
    assert page.count("<table>") == len(separators) >= 8
    body = re.sub(r'src="[^"]*"', "", page.split("<body>")[1])
    assert not re.search(r"\*\*|\| |\{\{|\{%|!\[", body)


def test_the_same_files_give_the_same_bytes(release_root, built_report):
    build_report(release_root, template=TEMPLATE, target=release_root / "again")
    assert sha256_of_folder(release_root / "again") == sha256_of_folder(built_report)


def test_without_differential_privacy_or_a_comparison_the_report_is_silent_about_them(release_root):
    results = release_root / "results"
    privacy = read_json(results / "federation/privacy.json")
    write_json(results / "federation/privacy.json", privacy | {"enabled": False, "epsilon": None, "per_site": {}})
    attack = read_json(results / "attack/attack.json")
    write_json(results / "attack/attack.json", attack | {"attacks": [a | {"bound": None} for a in attack["attacks"]]})
    for curve in ("retrieval", "audit"):
        path = results / f"attack/{curve}.csv"
        path.write_text(path.read_text().splitlines()[0] + "\n")
    write_skipped(results / "comparison")
    build_report(release_root, template=TEMPLATE, target=results / "report")
    absent = {"epsilon", "retrieval", "comparison", "audit"}
    assert {path.stem for path in (results / "report/plots").glob("*.png")} == PLOTS - absent
    card = (results / "report/model_card.md").read_text()
    assert not any(f"plots/{name}.png" in card for name in absent)
    assert "federation and privacy cost" not in card


def test_a_report_about_real_patients_has_no_picture_of_them(release_root):
    (release_root / "results/attack/pictures.safetensors").write_bytes(save({}))
    for path in ("data/raw/source.json", "results/federation/privacy.json"):
        write_json(release_root / path, read_json(release_root / path) | {"synthetic": False})
    build_report(release_root, template=TEMPLATE, target=release_root / "results/report")
    drawn = {path.stem for path in (release_root / "results/report/plots").glob("*.png")}
    assert drawn == PLOTS - {"inversionfirst"}
    card = (release_root / "results/report/model_card.md").read_text()
    assert "Images of test patients that attackers found are not shown: nobody said that they may be" in card


@pytest.mark.parametrize(
    "missing",
    [
        "params.yaml",
        "data/raw/source.json",
        "results/attack/attack.json",
        "results/comparison/comparison.json",
        "results/federation/privacy.json",
        "results/federation/rounds.csv",
    ],
)
def test_a_missing_file_is_named_and_leaves_the_earlier_report_intact(release_root, missing):
    target = release_root / "results/report"
    target.mkdir()
    (target / "model_card.md").write_text("the earlier card")
    (release_root / missing).unlink()
    with pytest.raises(DataError, match=f"{missing} is missing, and the report needs it"):
        build_report(release_root, template=TEMPLATE, target=target)
    assert [path.name for path in target.iterdir()] == ["model_card.md"]
    assert (target / "model_card.md").read_text() == "the earlier card"


def test_a_missing_template_leaves_nothing_behind(release_root):
    with pytest.raises(ConfigError, match="restore it from git"):
        build_report(release_root, template=release_root / "none.md.j2", target=release_root / "new")
    assert not list(release_root.glob("*new*"))
