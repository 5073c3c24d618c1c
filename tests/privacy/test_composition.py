import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.privacy import composition
from primia.privacy.accounting import Release, epsilon_of
from primia.privacy.composition import completed, epsilon_of_run, epsilon_of_source, source_stays_within
from primia.privacy.ledger_line import Entry

DELTA = 1e-4
TRAIN = Release(1.0, 2.0, 1)  # all patients: the accountant's answer is a formula, and quick
SMALL = Release(1.0, 9.0, 1)


def entry(release, run="a", hospital="north", group="training"):
    return Entry(release, run, hospital, group)


def eps(*releases):
    return epsilon_of(releases, delta=DELTA)


def test_nothing_is_spent_without_an_entry():
    assert epsilon_of_run([], "a", delta=DELTA) == 0
    assert epsilon_of_source([], delta=DELTA) == 0
    assert epsilon_of_run([entry(TRAIN, "b")], "a", delta=DELTA) == 0


def test_within_a_run_the_worst_hospital_and_group_count_since_their_patients_are_others():
    entries = [
        entry(TRAIN),
        entry(TRAIN),
        entry(TRAIN, hospital="hill"),
        entry(SMALL, group="validation"),
        entry(SMALL, hospital="hill", group="validation"),
    ]
    assert epsilon_of_run(entries, "a", delta=DELTA) == eps(TRAIN, TRAIN)
    assert epsilon_of_source(entries, delta=DELTA) == eps(TRAIN, TRAIN)


def test_runs_compose_each_with_its_worst_place_since_patients_may_have_been_dealt_anew():
    entries = [
        entry(TRAIN, "a", "north"),
        entry(TRAIN, "a", "north"),
        entry(TRAIN, "a", "hill"),
        entry(TRAIN, "b", "north"),
        entry(TRAIN, "b", "lake"),
        entry(TRAIN, "b", "lake"),
        entry(TRAIN, "b", "lake"),
    ]
    assert epsilon_of_run(entries, "a", delta=DELTA) == eps(TRAIN, TRAIN)
    assert epsilon_of_run(entries, "b", delta=DELTA) == eps(*[TRAIN] * 3)
    assert epsilon_of_source(entries, delta=DELTA) == eps(*[TRAIN] * 5)


def test_a_line_of_unknown_run_counts_everywhere():
    entries = [entry(TRAIN), entry(SMALL, group="validation"), Entry(TRAIN)]
    assert epsilon_of_run(entries, "a", delta=DELTA) == eps(TRAIN, TRAIN)
    assert epsilon_of_run(entries, "b", delta=DELTA) == eps(TRAIN)
    assert epsilon_of_source(entries, delta=DELTA) == eps(TRAIN, TRAIN)


def test_one_release_of_two_steps_is_two_of_one():
    assert epsilon_of_source([entry(Release(1.0, 2.0, 2))], delta=DELTA) == eps(TRAIN, TRAIN)


PLACES = list(itertools.product(("north", "hill"), ("training", "validation")))
RELEASES = st.sampled_from([Release(1.0, 2.0, 1), Release(1.0, 2.0, 3), Release(1.0, 5.0, 2), Release(1.0, 8.0, 4)])


@given(
    runs=st.lists(
        st.dictionaries(st.sampled_from(PLACES), st.lists(RELEASES, min_size=1, max_size=2), min_size=1),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_patient_who_is_dealt_to_any_place_in_each_run_spends_more_and_one_spends_as_much(runs):
    entries = [
        entry(release, f"run-{number}", *place)
        for number, run in enumerate(runs)
        for place, releases in run.items()
        for release in releases
    ]
    spent = [eps(*itertools.chain(*way)) for way in itertools.product(*(run.values() for run in runs))]
    counted = epsilon_of_source(entries, delta=DELTA)
    assert counted >= max(spent) - 1e-9
    if len(composition._ways(entries)) > 1:  # else they may be too many, and one that holds the most stands for all
        assert counted == pytest.approx(max(spent))
    for number, run in enumerate(runs):
        worst = max(eps(*releases) for releases in run.values())
        assert epsilon_of_run(entries, f"run-{number}", delta=DELTA) == pytest.approx(worst)
    assert source_stays_within(entries, counted, delta=DELTA)
    assert not source_stays_within(entries, counted - 1e-6, delta=DELTA)


def test_too_many_ways_to_follow_give_an_upper_bound():
    places = [("training", Release(1.0, 3.0, 1)), ("validation", Release(0.99, 3.0, 1))]
    entries = [entry(release, str(run), group=group) for run in range(10) for group, release in places]
    assert len(composition._ways(entries)) <= 8
    assert epsilon_of_source(entries, delta=DELTA) >= eps(Release(1.0, 3.0, 10))


PLAN = [entry(Release(1.0, 5.0, 2)), entry(Release(1.0, 5.0, 6)), entry(Release(1.0, 8.0, 3), group="validation")]


@given(done=st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_what_is_foreseen_adds_up_to_the_same_at_every_point_of_a_plan(done):
    spent = [entry(replace(e.release, steps=n), group=e.group) for e, n in zip(PLAN, done, strict=True) if n]
    whole = completed(spent, PLAN)
    assert whole[: len(spent)] == spent
    if done[0] + done[1] <= 8:  # releases of one kind, whatever for, stand for each other
        assert epsilon_of_run(whole, "a", delta=DELTA) == epsilon_of_run(PLAN, "a", delta=DELTA)
    else:  # repeated more often than was foreseen: that counts, too
        assert epsilon_of_run(whole, "a", delta=DELTA) > epsilon_of_run(PLAN, "a", delta=DELTA)


def test_what_another_hospital_run_or_group_released_completes_nothing():
    for other in ({"hospital": "hill"}, {"run": "b"}, {"group": "validation"}):
        whole = completed([entry(TRAIN, **other)], [entry(TRAIN)])
        assert whole == [entry(TRAIN, **other), entry(TRAIN)]
