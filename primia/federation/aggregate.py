"""One sum over all sites: the five steps of a masked session, or one step in clear."""

from collections.abc import Sequence

from primia.federation import messages as m
from primia.federation.channel import Channel, UnavailableError, exchange
from primia.secagg.combine import remove_self_masks, sum_of
from primia.secagg.masks import Words


def aggregate(
    channel: Channel, request: m.MaskedRequest, *, sites: Sequence[str], masked: bool, size: int, deadline_s: float
) -> Words:
    """Ask every site `request` and return the sum of their vectors of `size` words, modulo 2^32.

    Raises:
        PrimiaError: see `exchange`.
    """
    session = request.session

    def ask(question: m.SessionRequest, expect: type[m.R]) -> dict[str, m.R]:
        step = f"{type(question).__name__} ({session})"
        requests: dict[str, m.Request] = dict.fromkeys(sites, question)
        return exchange(channel, requests, expect, step=step, deadline_s=deadline_s, session=session)

    if masked:
        adverts = ask(m.AdvertiseKeys(session=session), m.KeyAdvert)
        ask(m.ShareKeys(session=session, keys=tuple(advert.key for advert in adverts.values())), m.Shares)
    inputs = ask(request, m.MaskedInput)
    wrong = {name: "its vector has the wrong length" for name, i in inputs.items() if len(i.vector) != 4 * size}
    if wrong:
        raise UnavailableError(wrong, step=str(session))
    total = sum_of({name: m.bytes_to_words(answer.vector) for name, answer in inputs.items()})
    if masked:
        survivors = tuple(sorted(inputs))
        signed = ask(m.Consistency(session=session, survivors=survivors), m.Signed)
        signatures = {name: answer.signature for name, answer in signed.items()}
        revealed = ask(m.Unmask(session=session, survivors=survivors, signatures=signatures), m.SelfMask)
        remove_self_masks(total, {name: answer.seed for name, answer in revealed.items()}, session=session)
    return total
