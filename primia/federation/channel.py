"""The channel between coordinator and sites: parallel questions, one typed answer or one reason each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from primia.errors import FederationError
from primia.federation.messages import R, Refusal, Request, Response
from primia.federation.refusals import error_of
from primia.secagg.session import Session


@dataclass(frozen=True)
class Answers:
    """One entry per site that was asked: its response, or why there is none."""

    received: Mapping[str, Response]
    failed: Mapping[str, str]


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


def exchange(
    channel: Channel,
    requests: Mapping[str, Request],
    expect: type[R],
    *,
    step: str,
    deadline_s: float,
    session: Session | None = None,
) -> dict[str, R]:
    """Ask all sites and return the answers of the expected type, in the order of the requests.

    Raises:
        PrimiaError: a site refuses; its kind and reason. A refusal is a decision and is never asked again.
        UnavailableError: a site died, was late, or answered something else.
    """
    answers = channel.ask(requests, deadline_s=deadline_s)
    failed, good = dict(answers.failed), {}
    for name, response in answers.received.items():
        if isinstance(response, Refusal):
            raise error_of(response, site=name, step=step)
        if not isinstance(response, expect) or getattr(response, "session", None) != session:
            failed[name] = f"it answered another question with {type(response).__name__}"
        else:
            good[name] = response
    if failed:
        raise UnavailableError(failed, step=step)
    return {name: good[name] for name in requests}
