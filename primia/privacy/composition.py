"""What the entries of a ledger add up to for one patient: parallel within a run, sequential over runs.

Within a run a patient is at one hospital and in one group, so only the releases of that hospital and group concern
the patient (parallel composition, McSherry 2009, theorem 4): the run's ε is that of its worst hospital and group.
Between two runs patients may have been dealt anew. A patient may have been at the worst place every time, and the
releases of those places compose (sequential composition, by the accountant).

"Worst" needs care: the place with the larger ε in one run need not give the larger ε together with other runs, since
two mechanisms' privacy curves can cross. So every way through the runs is followed, one place for each run, and the
largest ε counts. A way that holds no more of each kind of release than another need not be followed.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace

from primia.privacy.accounting import Release, epsilon_of
from primia.privacy.ledger_line import Entry, Group

# More ways than these are taken for one that holds the most of each kind: still an upper bound, but no longer tight.
_MOST_WAYS = 8

_Steps = Counter[Release]  # by kind (a release of one step), how many steps


def epsilon_of_run(entries: Iterable[Entry], run: str, *, delta: float) -> float:
    """ε at `delta` of one run for any patient: that of its worst hospital and group.

    An entry of unknown run counts at each of them.
    """
    unknown, runs = _by_run(entries)
    return max(_epsilon(_releases(unknown + place), delta) for place in runs.get(run, [_Steps()]))


def completed(entries: Sequence[Entry], foreseen: Iterable[Entry]) -> list[Entry]:
    """`entries` with what is missing of those `foreseen`: an upper bound that stays the same while a plan is followed.

    Whoever finds it within a budget need not ask the accountant again after each step of the plan.
    """
    spent: dict[tuple[str | None, str, Group], _Steps] = {}
    for entry in entries:
        spent.setdefault((entry.run, entry.hospital, entry.group), _Steps()).update(_steps(entry))
    missing = []
    for entry in foreseen:
        before = spent.get((entry.run, entry.hospital, entry.group), _Steps())
        left = _steps(entry) - before
        before.subtract(_steps(entry) - left)  # each step that is spent stands for one that is foreseen
        missing += [replace(entry, release=replace(kind, steps=steps)) for kind, steps in left.items()]
    return [*entries, *missing]


def epsilon_of_source(entries: Iterable[Entry], *, delta: float) -> float:
    """ε at `delta` of all runs together, for any patient of the source, however the patients were dealt each time."""
    return max(_epsilon(_releases(way), delta) for way in _ways(entries))


def source_stays_within(entries: Sequence[Entry], epsilon: float, *, delta: float) -> bool:
    """Whether `epsilon_of_source` is at most `epsilon`, mostly found out with a single question to the accountant."""
    most = functools.reduce(lambda a, b: a | b, _ways(entries))
    return _epsilon(_releases(most), delta) <= epsilon or epsilon_of_source(entries, delta=delta) <= epsilon


def _by_run(entries: Iterable[Entry]) -> tuple[_Steps, dict[str, list[_Steps]]]:
    """What is spent in an unknown run, and in each known one at each place that matters."""
    unknown, runs = _Steps(), dict[str, dict[tuple[str, str], _Steps]]()
    for entry in entries:
        steps = unknown
        if entry.run is not None:
            steps = runs.setdefault(entry.run, {}).setdefault((entry.hospital, entry.group), _Steps())
        steps.update(_steps(entry))
    return unknown, {run: _undominated(places.values()) for run, places in runs.items()}


def _steps(entry: Entry) -> _Steps:
    return _Steps({replace(entry.release, steps=1): entry.release.steps})


def _ways(entries: Iterable[Entry]) -> list[_Steps]:
    unknown, runs = _by_run(entries)
    ways = [unknown]
    for places in runs.values():
        ways = _undominated(way + place for way in ways for place in places)
        if len(ways) > _MOST_WAYS:
            ways = [functools.reduce(lambda a, b: a | b, ways)]
    return ways


def _undominated(candidates: Iterable[_Steps]) -> list[_Steps]:
    """Those that no other one contains: leaving a release out never costs a patient anything."""
    kept: list[_Steps] = []
    for one in candidates:
        if not any(one <= other for other in kept):
            kept = [other for other in kept if not other <= one] + [one]
    return kept


def _releases(steps: _Steps) -> tuple[Release, ...]:
    """One release for each kind, in an order that does not depend on when they were charged."""
    return tuple(sorted((replace(kind, steps=number) for kind, number in steps.items()), key=astuple))


@functools.lru_cache(maxsize=1024)
def _epsilon(releases: tuple[Release, ...], delta: float) -> float:
    """Kept, since the accountant takes a second and is asked about the same releases several times a round."""
    return epsilon_of(releases, delta=delta)
