"""What to type next, as the summary of a run says it."""

import pytest

from tasks.approval import CHALLENGER, CHAMPION
from tasks.summary import next_steps


@pytest.mark.system  # a real store
def test_a_version_is_to_be_promoted_until_it_is_the_champion(desk) -> None:
    number = desk.register()
    assert f"flows.promote --version {number} " in next_steps(desk.client.get_model_version(desk.model, number))
    for alias, due in ((CHALLENGER, True), (CHAMPION, False)):
        desk.client.set_registered_model_alias(desk.model, alias, number)
        said = next_steps(desk.client.get_model_version(desk.model, number))
        assert ("flows.promote" in said) == due
        assert "make up" in said and "primia token add clinic-a" in said


def test_without_a_version_its_number_is_left_open() -> None:
    assert "flows.promote --version N " in next_steps(None)
