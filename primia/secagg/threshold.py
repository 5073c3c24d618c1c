"""How many sites must take part, and how many must remain, before a sum may be opened."""

from primia.errors import SiteRefusal

MINIMUM_COHORT = 3  # with two, each site could subtract itself from the sum and read the other


def threshold(sites: int) -> int:
    """Fewest of `sites` that must remain: floor(2n/3) + 1 (Bonawitz et al. 2017, section 6.2, active coordinator).

    With that many signatures a coordinator that colludes with fewer than a third of the sites cannot have two
    different sets of survivors signed. It tolerates no dropout of 3 sites, one of 4 to 6, two of 7 to 9, three of 10.
    """
    assert sites >= 1
    return 2 * sites // 3 + 1


def check_cohort(sites: int) -> None:
    """Refuse a cohort in which no site is hidden.

    Raises:
        SiteRefusal: fewer than three sites.
    """
    if sites < MINIMUM_COHORT:
        raise SiteRefusal(
            f"A sum over {sites} hospitals hides none of them; secure aggregation needs at least {MINIMUM_COHORT}."
        )


def check_threshold(chosen: int, *, sites: int) -> None:
    """Refuse a threshold under which a lying coordinator could open one site, or which nobody can reach.

    Raises:
        SiteRefusal: `chosen` lies outside threshold(sites) … sites.
    """
    if not threshold(sites) <= chosen <= sites:
        raise SiteRefusal(
            f"A threshold of {chosen} of {sites} hospitals is refused; "
            f"it must lie between {threshold(sites)} and {sites} (two thirds must remain)."
        )
