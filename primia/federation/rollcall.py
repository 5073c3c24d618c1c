"""Who is still there in a session, who dropped out of it and why, and what each of its steps cost."""

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from primia.errors import FederationError
from primia.federation import messages as m
from primia.federation.channel import Channel, Dropped, ask
from primia.federation.plan import Plan
from primia.secagg.session import Session

_TOLD = 3  # reasons in one sentence; rounds.jsonl holds all


@dataclass(frozen=True)
class Phase:
    """What one step of a session cost: wall time, and the bytes that all sites sent."""

    seconds: float
    bytes_up: int


class SessionError(FederationError):
    """A session without a sum: fewer hospitals stayed than it needs. Nobody's share of it can be read.

    With the `spoilers` in it a repetition would fail in the same way.
    """

    def __init__(
        self,
        sentence: str,
        *,
        dropped: dict[str, Dropped],
        phases: dict[str, Phase],
        spoilers: Collection[str] = (),
    ) -> None:
        super().__init__(sentence)
        self.dropped, self.phases = dropped, phases  # not copied: the phase that failed still counts its seconds
        self.spoilers = frozenset(spoilers)


class RollCall:
    """Asks the sites of one session step by step; a site that fails at one is dropped from the others."""

    def __init__(
        self,
        channel: Channel,
        session: Session,
        *,
        plan: Plan,
        needed: Collection[str],
        dropped: dict[str, Dropped],
        deadline_s: float,
    ) -> None:
        self._channel, self.session, self.plan, self._deadline_s = channel, session, plan, deadline_s
        self.needed, self.dropped, self.phases = set(needed), dropped, dict[str, Phase]()

    def check(self, left: Collection[str]) -> None:
        """Raise `SessionError` unless enough sites are left, all needed ones among them."""
        missing = self.needed - set(left)
        if len(left) < self.plan.threshold:
            raise self.failure(
                f"{len(left)} of {len(self.plan.hospitals)} hospitals are left in {self.session}, and the plan "
                f"needs {self.plan.threshold}"
            )
        if missing:
            raise self.failure(
                f"{', '.join(sorted(missing))} must take part in {self.session}, since the same sum was begun or "
                "given with them before"
            )

    def failure(self, what: str, *, spoilers: Collection[str] = ()) -> SessionError:
        """The error that says `what` and why sites are missing."""
        reasons = [
            (lost.reason if lost.refusal is not None else f"hospital {name}: {lost.reason}").removesuffix(".")
            for name, lost in sorted(self.dropped.items())
        ]
        more = [f"and {len(reasons) - _TOLD} more"] if len(reasons) > _TOLD else []
        return SessionError(
            f"{what} ({'; '.join(reasons[:_TOLD] + more)}).",
            dropped=self.dropped,
            phases=self.phases,
            spoilers=spoilers,
        )

    def ask_all(self, sites: Collection[str], question: m.SessionRequest, expect: type[m.R]) -> dict[str, m.R]:
        """The good answers to one question to all `sites`; the others are dropped."""
        return self.ask(dict.fromkeys(sites, question), expect)

    def ask(self, requests: Mapping[str, m.SessionRequest], expect: type[m.R]) -> dict[str, m.R]:
        """The good answers to a question for each site; the others are dropped."""
        kind = type(next(iter(requests.values()))).__name__
        good, dropped = ask(
            self._channel,
            requests,
            expect,
            step=f"{kind} ({self.session})",
            deadline_s=self._deadline_s,
            session=self.session,
        )
        self.drop(dropped)
        return good

    def drop_if(self, name: str, answers: dict[str, Any], reason: str | None) -> None:
        """Take a site that gave an unusable answer out of `answers`, unless `reason` is None."""
        if reason is not None:
            del answers[name]
            self.drop({name: Dropped(reason)})

    def drop(self, sites: Mapping[str, Dropped]) -> None:
        """Note why sites are missing; what was noted first stays."""
        self.dropped |= {name: lost for name, lost in sites.items() if name not in self.dropped}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count time and bytes of a step, also if it fails."""
        started, before = time.monotonic(), self._channel.bytes_received()
        try:
            yield
        finally:
            self.phases[name] = Phase(time.monotonic() - started, self._channel.bytes_received() - before)
