"""From a trained polynomial network to a plan: the cheapest packing of each map, found by trying."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from primia.encrypted import costs
from primia.encrypted.layout import Layout, padded, spread_layouts
from primia.encrypted.lowering import Affine, lower
from primia.encrypted.packing import Diagonals, Kind, Steps, diagonals_of
from primia.encrypted.parameters import MOST_CIPHERTEXTS, Packing
from primia.encrypted.plan import PROFILES, Degree, Plan, Profile, Step, check_depth
from primia.errors import EncryptionError

if TYPE_CHECKING:
    from primia.models.polynomial import PolynomialNetwork

MOST_PRODUCTS = 8192  # of one map; several seconds
LOOK_AHEAD = 1  # maps after the next whose cost a choice takes into account


@dataclass(frozen=True)
class _Choice:
    step: Step
    cost: float


def compile_network(network: "PolynomialNetwork", *, profile: Profile = "fast") -> Plan:
    """Lower a network and pack its maps, for `fast` (N = 8192) or `deep` (N = 16384).

    Raises:
        EncryptionError: the network cannot be lowered or does not fit (see `lower` and `Plan.check`).
    """
    if profile not in PROFILES:
        raise EncryptionError(f"There is no profile {profile!r}; choose {' or '.join(PROFILES)}.")
    degree = PROFILES[profile]
    maps = lower(network)
    check_depth([affine.label for affine in maps], degree)
    inputs = Layout.of_packing(packing_of(network, degree=degree), degree // 2)
    plan = Plan(
        degree=degree,
        inputs=inputs,
        steps=choose(maps, inputs, degree=degree),
        matrices=tuple(affine.matrix for affine in maps),
        offsets=tuple(affine.offset for affine in maps),
        largest=tuple(float(value) for value in network.largest),
    )
    plan.check()
    return plan


def packing_of(network: "PolynomialNetwork", *, degree: Degree) -> Packing:
    """How a network's input is packed: in patches if its first layer takes them, by planes if a grid matters."""
    from torch import nn

    channels, height, width = network.shape
    patch = network.patch
    if height % patch or width % patch:
        raise EncryptionError(
            f"The network takes patches of {patch} x {patch}, which do not divide its input of {height} x {width}; "
            "choose a size that does."
        )
    plane = padded(height * width // patch**2)
    is_on_grid = isinstance(network.body[0], nn.Conv2d | nn.AvgPool2d | nn.BatchNorm2d)
    by_planes = (is_on_grid or patch > 1) and plane <= degree // 2
    if patch > 1 and not by_planes:
        raise EncryptionError(
            f"Patches of {patch} x {patch} leave planes of {plane} slots, but a ciphertext holds {degree // 2}; "
            "take larger patches."
        )
    packing = Packing(channels=channels, height=height, width=width, patch=patch, stride=plane if by_planes else None)
    if packing.ciphertexts(degree // 2) > MOST_CIPHERTEXTS:
        raise EncryptionError(
            f"An input of {channels} x {height} x {width} takes {packing.ciphertexts(degree // 2)} ciphertexts, but a "
            f"question holds {MOST_CIPHERTEXTS} at most; use fewer pixels."
        )
    return packing


def choose(maps: tuple[Affine, ...], inputs: Layout, *, degree: Degree) -> tuple[Step, ...]:
    """Pack map after map, each time the choice that is cheapest together with the best for the next map."""
    slots = degree // 2

    @cache
    def choices(index: int, before: Layout) -> tuple[_Choice, ...]:
        return tuple(_choices(maps[index], before, maps=len(maps), index=index, slots=slots))

    def cheapest(index: int, before: Layout, ahead: int) -> tuple[float, Step | None]:
        best: tuple[float, Step | None] = (float("inf"), None)
        for choice in choices(index, before):
            later = 0.0
            if ahead and index + 1 < len(maps):
                later, _ = cheapest(index + 1, choice.step.layout, ahead - 1)
            if choice.cost + later < best[0]:
                best = (choice.cost + later, choice.step)
        return best

    steps: list[Step] = []
    before = inputs
    for index, affine in enumerate(maps):
        _, step = cheapest(index, before, LOOK_AHEAD)
        if step is None:  # nothing fits here, or nothing fits after whatever is chosen here
            blocked = affine if not choices(index, before) else maps[index + 1]
            rows, columns = blocked.matrix.shape
            raise EncryptionError(
                f"Layer {blocked.label} maps {columns} values to {rows}, more than can be packed into {slots} slots "
                "a ciphertext at a bearable cost; use fewer hidden units, fewer channels or a larger stride."
            )
        steps.append(step)
        before = step.layout
    return tuple(steps)


def _choices(affine: Affine, before: Layout, *, maps: int, index: int, slots: int) -> list[_Choice]:
    last = index + 1 == maps
    options: list[tuple[Kind, Layout]] = []
    folded = Layout.folded(affine.shape)
    if folded.period <= slots:
        options.append(("folded", folded))
    if affine.stride is not None and not last:
        options += [("spread", layout) for layout in spread_layouts(before, affine.shape, affine.stride, slots)]
    primes = 2 * (maps - index)
    found: list[_Choice] = []
    for kind, layout in options:
        diagonals = diagonals_of(affine.matrix, before, layout, kind=kind, slots=slots, over_all=last)
        if diagonals.count > MOST_PRODUCTS:
            continue
        results = layout.ciphertexts(slots)
        baby, cost = _split(diagonals, primes=primes, results=results)
        if not last:
            cost += results * costs.squaring(primes - 1)
        found.append(_Choice(Step(label=affine.label, kind=kind, baby=baby, layout=layout), cost))
    return found


def _split(diagonals: Diagonals, *, primes: int, results: int) -> tuple[int, float]:
    """The size of baby steps that makes a map cheapest, and its cost."""
    sizes = [1 << power for power in range(diagonals.slots.bit_length())]
    priced = [
        (costs.evaluation(diagonals, Steps.split(diagonals, size), primes=primes, results=results), size)
        for size in sizes
    ]
    cost, size = min(priced)
    return size, cost
