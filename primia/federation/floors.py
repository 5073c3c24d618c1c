"""What a hospital demands of every federation, whatever its coordinator says: floors.json in the site's own state."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from primia.errors import ConfigError, SiteRefusal
from primia.federation.plan import Plan
from primia.privacy.accounting import check_delta
from primia.secagg.threshold import MINIMUM_COHORT, threshold


class Floors(BaseModel):
    """The owner of a hospital raises these by writing floors.json; a missing file stands for the defaults.

    `minimum_sites` is the smallest number of hospitals among which this one may be hidden; `allow_clear` lets the
    coordinator see this hospital's updates without secure aggregation. `allow_newcomers` pins hospitals that are not
    yet in roster.json; else a coordinator could invent hospitals until only this one is real. `maximum_epsilon` and
    `maximum_delta` hold per patient and run: noise below that is no privacy, and must not count as such.
    `lifetime_epsilon`, at `lifetime_delta`, holds per patient over all runs that the ledger knows; phantoms have none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    minimum_sites: int = Field(default=MINIMUM_COHORT, ge=MINIMUM_COHORT)
    allow_clear: bool = False
    allow_newcomers: bool = False
    require_privacy: bool = False
    maximum_epsilon: float = Field(default=10.0, gt=0.0, allow_inf_nan=False)
    maximum_delta: float = Field(default=1e-3, gt=0.0, le=1.0)
    lifetime_epsilon: float = Field(default=10.0, gt=0.0, allow_inf_nan=False)
    lifetime_delta: float = Field(default=1e-4, gt=0.0, lt=1.0)


def read_floors(path: Path) -> Floors:
    """The floors at `path`, or the defaults.

    Raises:
        ConfigError: the file is there and holds something else.
    """
    if not path.exists():
        return Floors()
    try:
        return Floors.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{path}: {where} is not valid ({first['msg']}); correct it, or remove the file.") from error


def check_plan(floors: Floors, plan: Plan, *, path: Path) -> None:
    """Refuse a plan in which this hospital would be hidden less well than its owner demands; `path` is the file.

    Raises:
        SiteRefusal: sums in clear, too few hospitals, a threshold that a lying coordinator could get around, too
            little privacy for the patients, or a student within it.
    """
    _check_privacy(floors, plan, path=path)
    if plan.secure_aggregation.scheme == "none":
        if not floors.allow_clear:
            raise SiteRefusal(
                "The plan has no secure aggregation (secure_aggregation.scheme: none), so this hospital's updates "
                f'would be seen in clear; if its owner wants that, write {{"allow_clear": true}} to {path}.'
            )
        return
    hospitals = len(plan.hospitals)
    if hospitals < floors.minimum_sites:
        raise SiteRefusal(
            f"The plan has {hospitals} hospitals, but this one demands {floors.minimum_sites} to hide among; "
            f"add hospitals, or let its owner lower minimum_sites in {path} (at least {MINIMUM_COHORT})."
        )
    demanded = max(threshold(hospitals), floors.minimum_sites)
    if plan.threshold < demanded:
        raise SiteRefusal(
            f"The plan's threshold is {plan.threshold}, but this hospital demands that {demanded} of {hospitals} "
            f"hospitals stay to the end of every sum; its own demand, minimum_sites, stands in {path}."
        )


def _check_privacy(floors: Floors, plan: Plan, *, path: Path) -> None:
    if plan.student is not None and plan.privacy is not None:
        raise SiteRefusal(
            "The plan teaches a student on patients to whom it promises differential privacy, but teaching draws no "
            "noise; distil the student on phantoms instead."
        )
    if plan.privacy is None:
        if floors.require_privacy:
            raise SiteRefusal(
                f"The plan trains without differential privacy, which require_privacy in {path} forbids; set "
                "privacy.enabled to true, or let the owner change the file."
            )
        return
    told = (plan.privacy.target_epsilon, plan.privacy.delta)
    if told[0] > floors.maximum_epsilon or told[1] > floors.maximum_delta:
        raise SiteRefusal(
            f"The plan spends epsilon {told[0]:g} at delta {told[1]:g}, but this hospital allows "
            f"{floors.maximum_epsilon:g} at {floors.maximum_delta:g}; lower privacy.target_epsilon or privacy.delta, "
            f"or let the owner raise maximum_epsilon or maximum_delta in {path}."
        )
    # What is released is one hospital's change, or the sum over the patients of all.
    hospitals = len(plan.hospitals) if plan.distributed else 1
    check_delta(plan.privacy.delta, patients=hospitals * plan.privacy.site_population)


def check_survivors(floors: Floors, survivors: int, *, path: Path) -> None:
    """Refuse a sum over fewer hospitals than this one demands.

    Raises:
        SiteRefusal: too few survivors.
    """
    if survivors < floors.minimum_sites:
        raise SiteRefusal(
            f"Only {survivors} hospitals are left, but this one demands {floors.minimum_sites} to hide among; "
            f"its owner may change minimum_sites in {path}."
        )
