from pathlib import Path

import pytest

from primia.errors import ConfigError, DataError
from primia.files import read_json
from primia.report.build import to_html
from primia.report.card import render_card
from primia.review.gates import collect_facts

TEMPLATE = Path(__file__).parents[2] / "mlflow/model_card.md.j2"


def card_of(facts, **changes):
    for section, values in changes.items():
        facts = facts | {section: facts[section] | values}
    return render_card(TEMPLATE, facts=facts, plots=())


@pytest.fixture
def facts(written_release):
    return collect_facts(written_release)


def test_the_card_says_what_the_files_say(facts, written_release):
    card = card_of(facts)
    mcc = read_json(written_release / "results/evaluation/metrics.json")["mcc"]
    assert f"| MCC | {mcc['value']:.3f} | {mcc['low']:.3f} to {mcc['high']:.3f} |" in card
    for said in (
        "**NOT A MEDICAL DEVICE.**",
        "**Unfit for patients:**",
        "## Out of scope",
        "| Hospitals | north, river, hill |",
        "| Test images per class | normal 160, bacterial 170, viral 120 |",
        "ε = **7.951** and δ = 0.0001 per **patient**",
        "the factor e^ε = 2,838",
        "| hill | 7.580 | 18 | 19 |",
        "- validation patients, whose figures choose the released round",
        "| gradient_retrieval | 9 | worst case | **PASS** | 0.035 | 0.007 to 0.100 | 0.081 | 200 of 200 |",
        "| Success | 99.9 % interval | Bound |",
        "- gradient_retrieval, round 9: 3.5 % of 200 trials stay within the bound",
        "| Upload / reply / keys (once) | 0.3 MB / 90.1 kB / 35.0 MB |",
        "This very model answers",
        "Covered by: post-processing of the private release.",
        "| ROC-AUC, with its 95 % interval | 0.860 (0.840 to 0.880) |",
    ):
        assert said in card


def test_recalls_stand_in_the_order_of_the_classes(facts):
    card = card_of(facts)
    assert card.index("Recall of normal") < card.index("Recall of bacterial") < card.index("Recall of viral")


def test_text_from_the_results_brings_no_markup(facts, built_report):
    hostile = "<script>x</script> ![p](https://example.org/p.png) | **bold** `code`\n\n# head"
    attacks = [facts["attack"]["attacks"][0] | {"reason": hostile, "name": hostile}]
    page = to_html(card_of(facts, attack={"attacks": attacks}), folder=built_report, title="<b>")
    assert "<script" not in page and 'src="http' not in page and "<strong>bold" not in page
    assert page.count("<h1>") == 1 and "<title>&lt;b&gt;: report</title>" in page
    shown = "&lt;script&gt;x&lt;/script&gt; ![p](https://example.org/p.png) | **bold** `code` # head"
    assert page.count(shown) == 3  # the name in the table and in the list of reasons, and the reason


def test_without_differential_privacy_the_card_says_so(facts):
    card = card_of(facts, privacy={"enabled": False, "epsilon": None, "per_site": {}, "covers": []})
    assert "**Trained without differential privacy: the model carries no privacy guarantee.**" in card
    assert "e^ε" not in card and "Accountant" not in card
    assert "What the guarantee covers:\n\n- nothing\n" in card


def test_the_card_says_whose_images_taught_the_encrypted_network(facts):
    student = {"network": "student", "pixels": 112}
    phantoms = student | {"data": "phantoms", "covered_by": "no guarantee, like its teacher", "covered": False}
    hospitals = student | {"data": "hospitals", "covered_by": "hospitals, no guarantee", "covered": False}
    danger, warning = "**may give away their patients**", "**No differential privacy covers what answers here.**"
    of_phantoms, of_hospitals = card_of(facts, encryption=phantoms), card_of(facts, encryption=hospitals)
    assert "on fresh phantoms, it sees 112 × 112 pixels. No patient's image taught it." in of_phantoms
    assert "on fresh phantoms and then at the hospitals, it sees 112 × 112 pixels" in of_hospitals
    assert danger in of_hospitals and danger not in of_phantoms and danger not in card_of(facts)
    assert warning in of_hospitals and warning in of_phantoms and warning not in card_of(facts)
    assert "Covered by: hospitals, no guarantee." in of_hospitals


def test_the_card_says_that_an_attack_is_missing(facts):
    missing = card_of(facts, attack={"complete": False, "required": ["imprint", "membership"]})
    assert "**Not every attack was made.** To this training apply: imprint, membership." in missing
    assert "Not every attack" not in card_of(facts)


def test_without_secure_aggregation_the_card_says_so(facts):
    scheme = facts["params"]["secure_aggregation"] | {"scheme": "none"}
    card = card_of(facts, params={"secure_aggregation": scheme})
    assert "**Without secure aggregation the coordinator saw the update of each hospital in clear.**" in card
    assert "saw only the sum" in card_of(facts) and "saw only the sum" not in card


def test_real_images_are_not_called_synthetic_and_stay_out_of_medicine(facts):
    card = card_of(facts, data={"synthetic": False})
    assert "ynthetic" not in card and "NOT A MEDICAL DEVICE" in card


def test_an_epsilon_that_protects_no_one_is_still_printed(facts):
    assert "the factor e^ε = about 10^434294482," in card_of(facts, privacy={"epsilon": 1e9})


@pytest.mark.parametrize("section, figure", [("encryption", "student_mcc"), ("federation", "released_round")])
def test_a_figure_that_the_results_lack_is_named(facts, section, figure):
    facts[section] = {name: value for name, value in facts[section].items() if name != figure}
    with pytest.raises(DataError, match=figure):
        card_of(facts)


def test_a_broken_template_is_a_configuration_error(facts, tmp_path):
    broken = tmp_path / "broken.md.j2"
    broken.write_text("fine\n{% if %}\n")
    with pytest.raises(ConfigError, match="line 2"):
        render_card(broken, facts=facts, plots=())
