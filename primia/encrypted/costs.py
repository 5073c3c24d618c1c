"""What a step on ciphertexts costs, for the compiler to choose by.

Fitted to SEAL 4.3 on one core (ms at N = 8192, six down to two primes: rotation 6.6 to 1.5, product and sum 0.46 to
0.15, rescaling 1.3 to 0.4); N = 16384 costs twice as much. Only ratios matter.
"""

from primia.encrypted.packing import Diagonals, Steps

# A key of one more rotation is uploaded once and kept by the server; it should earn a little.
KEY = 1.0


def rotation(primes: int) -> float:
    """One rotation, or one relinearisation, of a ciphertext with so many primes left."""
    return 0.135 * primes**2 + 0.29 * primes


def product(primes: int) -> float:
    """A product with a plaintext, added to a sum."""
    return 0.078 * primes


def rescaling(primes: int) -> float:
    """Dropping the last of so many primes."""
    return 0.22 * primes


def squaring(primes: int) -> float:
    """A square, relinearised and rescaled."""
    return 0.1 * primes + rotation(primes) + rescaling(primes)


def evaluation(diagonals: Diagonals, steps: Steps, *, primes: int, results: int) -> float:
    """A map from babies to doublings, as the engine makes it."""
    turned = steps.babies(diagonals) + steps.giants(diagonals)
    return (
        turned * rotation(primes)
        + diagonals.count * product(primes)
        + results * rescaling(primes)
        + len(diagonals.doublings) * rotation(primes - 1)
        + len(steps.rotations()) * KEY
    )
