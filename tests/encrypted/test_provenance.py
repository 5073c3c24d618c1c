import pytest

from primia.encrypted.provenance import provenance
from primia.errors import EncryptionError


@pytest.mark.parametrize(
    ("itself", "data", "private", "expected"),
    [
        (True, "phantoms", True, ("model itself", "none", True, "post-processing of the private release")),
        (True, "phantoms", False, ("model itself", "none", False, "no guarantee, like the release")),
        (False, "phantoms", False, ("student", "phantoms", False, "no guarantee, like its teacher")),
        (False, "hospitals", False, ("student", "hospitals", False, "hospitals, no guarantee")),
    ],
)
def test_only_what_is_computed_from_a_private_release_alone_is_covered(itself, data, private, expected) -> None:
    told = provenance(itself=itself, data=data, private=private)
    assert (told.network, told.data, told.covered, told.covered_by) == expected


def test_a_student_of_a_private_model_is_covered_when_it_saw_phantoms_only() -> None:
    told = provenance(itself=False, data="phantoms", private=True)
    assert told.covered and told.covered_by.startswith("public phantoms")


def test_a_student_of_a_private_model_that_saw_patients_is_refused() -> None:
    with pytest.raises(EncryptionError, match=r"which no budget covers; set encryption\.data to phantoms"):
        provenance(itself=False, data="hospitals", private=True)
