"""Which sums of a site were unmasked, and with whom: the difference of two sums would be one hospital's share."""

from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from primia.errors import FederationError, SiteRefusal
from primia.files import append_line, read_lines
from primia.secagg.session import Purpose


class CohortRefusal(SiteRefusal):
    """The sum was unmasked before; it is given once more only with exactly the hospitals of `cohort`."""

    def __init__(self, sentence: str, *, cohort: Collection[str]) -> None:
        super().__init__(sentence)
        self.cohort = tuple(sorted(cohort))


class _Released(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    data: str
    purpose: Purpose
    model: str | None
    cohort: list[str]


class ReleasedSums:
    """Append-only JSON lines (mode 0600) over all runs: data, purpose and model of each sum, and its survivors.

    The same question about the same images and the same model is answered again only in the same company. Releases
    with fresh, charged noise are no part of this: each is a sum of its own.
    """

    def __init__(self, path: Path, *, data: str) -> None:
        """`data` is the digest of this site's images.

        Raises:
            FederationError: the file is damaged.
        """
        self._path, self._data = path, data
        self._cohorts: dict[tuple[Purpose, str | None], frozenset[str]] = {}
        for number, line in enumerate(read_lines(path), start=1):
            try:
                released = _Released.model_validate_json(line)
            except ValidationError as error:
                raise FederationError(
                    f"Line {number} of {path} is damaged; restore the file from the site's backup."
                ) from error
            if released.data == data:
                self._cohorts[released.purpose, released.model] = frozenset(released.cohort)

    def check_possible(self, purpose: Purpose, model: str | None, *, present: Collection[str]) -> None:
        """Refuse to begin what could only end in another cohort than the earlier sum's.

        Raises:
            CohortRefusal: a hospital of the earlier sum is not `present`.
        """
        cohort = self._cohorts.get((purpose, model), frozenset())
        if not cohort <= set(present):
            raise self._refusal(purpose, cohort)

    def check(self, purpose: Purpose, model: str | None, *, survivors: Collection[str]) -> None:
        """Refuse a second sum over other hospitals than the first.

        Raises:
            CohortRefusal: names the hospitals of the earlier sum.
        """
        cohort = self._cohorts.get((purpose, model))
        if cohort is not None and cohort != set(survivors):
            raise self._refusal(purpose, cohort)

    def add(self, purpose: Purpose, model: str | None, *, survivors: Collection[str]) -> None:
        """Record that this sum is about to be unmasked; durable when this returns."""
        self.check(purpose, model, survivors=survivors)
        if (purpose, model) in self._cohorts:
            return
        released = _Released(data=self._data, purpose=purpose, model=model, cohort=sorted(survivors))
        append_line(self._path, released.model_dump_json(), mode=0o600)
        self._cohorts[purpose, model] = frozenset(survivors)

    def _refusal(self, purpose: Purpose, cohort: Collection[str]) -> CohortRefusal:
        company = ", ".join(sorted(cohort))
        return CohortRefusal(
            f"The {purpose} sum over these images and this model was unmasked for {company}; with other hospitals the "
            f"difference would be one hospital's own figures. Ask with exactly these, or with another model; the owner "
            f"who accepts the difference removes the line in {self._path}.",
            cohort=cohort,
        )
