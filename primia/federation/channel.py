"""The channel between coordinator and sites: parallel questions, one typed answer or one reason each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from primia.errors import FederationError, PrimiaError
from primia.federation.messages import R, Refusal, Request, Response
from primia.federation.refusals import error_of
from primia.secagg.session import Session


@dataclass(frozen=True)
class Answers:
    """One entry per site that was asked: its response, or why there is none."""

    received: Mapping[str, Response]
    failed: Mapping[str, str]


@dataclass(frozen=True)
class Dropped:
    """Why a site is missing: one reason, and the `refusal` if the site lives and decided so itself."""

    reason: str
    refusal: PrimiaError | None = None


class Channel(Protocol):
    """Asks sites by name; knows how to reach them, and nothing of what is said."""

    def ask(self, requests: Mapping[str, Request], *, deadline_s: float) -> Answers:
        """Send each site its request and wait for all, each at most `deadline_s` seconds."""
        ...

    def restart(self, name: str) -> None:
        """Bring back a site that failed."""
        ...

    def bytes_received(self) -> int:
        """Bytes that all sites have sent so far."""
        ...


class UnavailableError(FederationError):
    """Sites that died, were late or answered nonsense; `sites` maps their names to the reason."""

    def __init__(self, sites: Mapping[str, str], *, step: str) -> None:
        self.sites = dict(sites)
        reasons = "; ".join(f"hospital {name}: {reason}" for name, reason in sorted(sites.items()))
        super().__init__(f"No usable answer to {step} ({reasons}).")


def ask(
    channel: Channel,
    requests: Mapping[str, Request],
    expect: type[R],
    *,
    step: str,
    deadline_s: float,
    session: Session | None = None,
) -> tuple[dict[str, R], dict[str, Dropped]]:
    """The answers of the expected type and session, in the order of the requests, and why the others are missing."""
    answers = channel.ask(requests, deadline_s=deadline_s)
    good: dict[str, R] = {}
    dropped: dict[str, Dropped] = {}
    for name in requests:
        response = answers.received.get(name)
        if response is None:
            dropped[name] = Dropped(answers.failed.get(name, "it gave no answer"))
        elif isinstance(response, Refusal):
            refusal = error_of(response, site=name, step=step)
            dropped[name] = Dropped(str(refusal), refusal)
        elif not isinstance(response, expect) or getattr(response, "session", None) != session:
            dropped[name] = Dropped(f"it answered another question than {step} with {type(response).__name__}")
        else:
            good[name] = response
    return good, dropped


def exchange(
    channel: Channel, requests: Mapping[str, Request], expect: type[R], *, step: str, deadline_s: float
) -> dict[str, R]:
    """Ask sites all of which must answer.

    Raises:
        PrimiaError: a site refuses; its kind and reason.
        UnavailableError: a site died, was late, or answered something else.
    """
    good, dropped = ask(channel, requests, expect, step=step, deadline_s=deadline_s)
    for lost in dropped.values():
        if lost.refusal is not None:
            raise lost.refusal
    if dropped:
        raise UnavailableError({name: lost.reason for name, lost in dropped.items()}, step=step)
    return good
