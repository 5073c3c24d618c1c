import itertools
import random
import secrets

import numpy as np
import pytest
from scipy.stats import chisquare

from primia.secagg.shamir import PRIME, SHARE_BYTES, combine, split

KNOWN = {
    # f(x) = secret + 7 x + 11 x^2, worked out by hand for secret = 2^256 - 1
    1: "01" + "00" * 31 + "11",
    2: "01" + "00" * 31 + "39",
    4: "01" + "00" * 31 + "cb",
}


def probably_prime(number):
    """Miller-Rabin; a composite passes with a probability below 4^-64."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    rng = random.Random(1)
    for _ in range(64):
        power = pow(rng.randrange(2, number - 1), odd, number)
        if power not in (1, number - 1) and all((power := power * power % number) != number - 1 for _ in range(twos)):
            return False
    return True


def test_the_field_is_the_smallest_prime_field_that_holds_every_secret():
    assert PRIME > 2**256
    assert probably_prime(PRIME)
    assert not any(probably_prime(number) for number in range(2**256 + 1, PRIME, 2))


@pytest.mark.parametrize(("holders", "needed"), [(3, 3), (4, 3), (5, 4), (7, 5), (6, 1)])
def test_every_set_of_enough_shares_gives_the_secret(holders, needed):
    secret = secrets.token_bytes(32)
    shares = split(secret, threshold=needed, holders=range(1, holders + 1))
    assert all(len(share) == SHARE_BYTES for share in shares.values())
    for size in range(needed, holders + 1):
        for chosen in itertools.combinations(shares, size):
            assert combine({x: shares[x] for x in chosen}, threshold=needed) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\x01"])
def test_the_smallest_and_largest_secrets_survive(secret):
    shares = split(secret, threshold=3, holders=(2, 50, 100))
    assert combine(shares, threshold=3) == secret


def test_shares_worked_out_by_hand_give_their_secret():
    shares = {x: bytes.fromhex(share) for x, share in KNOWN.items()}
    assert combine(shares, threshold=3) == b"\xff" * 32


def test_too_few_shares_fit_every_secret_equally_well():
    # Two of three shares and any guess of the secret determine a third share that is a field element: no guess is out.
    shares = split(b"\x00" * 32, threshold=3, holders=(1, 2, 3))
    y1, y2 = (int.from_bytes(shares[x]) for x in (1, 2))
    for guess in (b"\x00" * 32, b"\xff" * 32, secrets.token_bytes(32)):
        third = (int.from_bytes(guess) - 3 * y1 + 3 * y2) % PRIME
        assert combine({1: shares[1], 2: shares[2], 3: third.to_bytes(33)}, threshold=3) == guess


def test_a_share_of_a_constant_secret_is_uniform():
    shares = [split(bytes(32), threshold=2, holders=(1, 2))[1] for _ in range(4096)]
    counts = np.bincount([share[1] for share in shares], minlength=256)  # byte 0 is the carry above 2^256
    assert chisquare(counts).pvalue > 1e-7


def test_one_share_too_few_is_refused():
    shares = split(bytes(32), threshold=3, holders=(1, 2, 3))
    with pytest.raises(ValueError, match="2 shares do not give a secret shared among 3"):
        combine({x: shares[x] for x in (1, 2)}, threshold=3)


@pytest.mark.parametrize("bad", [b"", bytes(32), bytes(34), PRIME.to_bytes(33), b"\xff" * 33])
def test_what_is_no_field_element_is_no_share(bad):
    shares = split(bytes(32), threshold=3, holders=(1, 2, 3))
    with pytest.raises(ValueError, match="no element of the field"):
        combine({**shares, 2: bad}, threshold=3)


def test_shares_of_a_number_too_large_for_a_secret_are_refused():
    largest = (PRIME - 1).to_bytes(33)
    with pytest.raises(ValueError, match="one secret of 32 bytes"):
        combine({1: largest}, threshold=1)
