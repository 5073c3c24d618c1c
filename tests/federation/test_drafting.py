import pytest
from describing import described

from primia.errors import ConfigError
from primia.federation.drafting import draft_plan, privacy_plan
from primia.privacy.accounting import Release, epsilon_of


@pytest.mark.parametrize("change", [{"pixels": 32}, {"classes": ("normal", "viral", "bacterial")}, {"name": "east"}])
def test_a_site_prepared_otherwise_is_named(params_with, change):
    params = params_with()
    with pytest.raises(ConfigError, match="run the preprocess stage again"):
        draft_plan(params, described(params, **change), privacy=None)


@pytest.mark.parametrize(("hospitals", "threshold"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7)])
def test_two_thirds_of_the_hospitals_must_stay(params_with, hospitals, threshold):
    params = params_with(preprocess__hospitals=[f"h{n}" for n in range(hospitals)])
    assert draft_plan(params, described(params), privacy=None).threshold == threshold


def test_the_noise_is_calibrated_to_all_steps_of_all_rounds(params_with):
    privacy = privacy_plan(
        params_with(privacy__enabled=True, privacy__sampling_rate=0.25, privacy__local_steps=2, federation__rounds=5)
    )
    trained = [Release(sampling_rate=0.25, noise_multiplier=privacy.noise_multiplier, steps=2)] * 5
    statistics = Release(sampling_rate=1.0, noise_multiplier=2.0, steps=1)
    validated = [Release(sampling_rate=1.0, noise_multiplier=privacy.validation_noise, steps=1)] * 5
    for spent in ([statistics, *trained], validated):
        assert 0.98 * 8.0 <= epsilon_of(spent, delta=1e-3) <= 8.0 + 1e-3
    assert trained[0] == privacy.release("train") and statistics == privacy.release("statistics")
    assert privacy.expected_batch == 5.0
    assert privacy_plan(params_with()) is None
