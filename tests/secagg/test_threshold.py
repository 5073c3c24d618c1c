import pytest

from primia.errors import SiteRefusal
from primia.secagg.threshold import check_cohort, check_threshold, threshold


def test_more_than_two_thirds_must_remain():
    tolerated = {sites: sites - threshold(sites) for sites in range(3, 11)}
    assert tolerated == {3: 0, 4: 1, 5: 1, 6: 1, 7: 2, 8: 2, 9: 2, 10: 3}


@pytest.mark.parametrize("sites", range(3, 101))
def test_two_sets_of_survivors_never_both_reach_the_threshold(sites):
    # Colluding sites sign both sets, an honest one signs one of them.
    corrupt = (sites - 1) // 3
    assert 2 * (threshold(sites) - corrupt) > sites - corrupt


@pytest.mark.parametrize("sites", [1, 2])
def test_fewer_than_three_sites_are_refused(sites):
    with pytest.raises(SiteRefusal, match="at least 3"):
        check_cohort(sites)


@pytest.mark.parametrize(("chosen", "sites"), [(1, 3), (2, 3), (4, 3), (3, 5), (0, 10), (6, 10), (11, 10)])
def test_a_threshold_too_low_or_out_of_reach_is_refused(chosen, sites):
    with pytest.raises(SiteRefusal, match="threshold"):
        check_threshold(chosen, sites=sites)
