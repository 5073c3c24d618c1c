"""What a site has answered so far: on disk before the answer leaves, so that a restart forgets nothing."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from primia.errors import FederationError, ProtocolError, SiteRefusal
from primia.files import write_bytes
from primia.secagg.session import Session

_ORDER = {"statistics": 0, "train": 1, "evaluate": 2}


class _Answered(BaseModel):
    """The latest answer of a run. Rounds only go forward, so the latest one speaks for all earlier ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    session: Session
    content: str
    released: bool

    @property
    def position(self) -> tuple[int, int]:
        return self.session.round, _ORDER[self.session.purpose]


class History:
    """One file per run in `folder`: the latest session answered, what it asked, and whether it was unmasked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self, session: Session) -> None:
        """Refuse a session that was answered before, or that lies behind the latest one.

        Raises:
            ProtocolError: a replay, or a round rolled back.
        """
        last = self._last(session.run)
        if last is None:
            return
        position = (session.round, _ORDER[session.purpose])
        if position < last.position:
            raise ProtocolError(
                f"{session} lies behind {last.session}, which was answered; a round is never rolled back."
            )
        if position == last.position and session.attempt <= last.session.attempt:
            raise ProtocolError(f"{session} was answered before; only a new attempt with fresh keys is.")

    def admit(self, session: Session, *, content: str, fresh_noise: bool) -> None:
        """Record that `session` is being answered; durable when this returns.

        A sum that was unmasked may be repeated only for the very same question, whose answer is then the same to
        the bit, or with fresh noise that is charged anew: the difference of two sums would be one site's update.

        Raises:
            ProtocolError: see `check`.
            SiteRefusal: another question after the sum was unmasked.
        """
        self.check(session)
        last = self._last(session.run)
        here = last is not None and last.position == (session.round, _ORDER[session.purpose])
        released = here and last is not None and last.released
        if released and last is not None and content != last.content and not fresh_noise:
            raise SiteRefusal(f"The sum of {last.session} was unmasked; {session} asks something else about it.")
        self._write(_Answered(session=session, content=content, released=released))

    def release(self, session: Session) -> None:
        """Record that the sum of `session`, the latest answered, is about to be unmasked; durable on return."""
        last = self._last(session.run)
        assert last is not None and last.session == session
        self._write(last.model_copy(update={"released": True}))

    def _path(self, run: str) -> Path:
        return self._folder / f"{run}.json"

    def _last(self, run: str) -> _Answered | None:
        path = self._path(run)
        if not path.exists():
            return None
        try:
            return _Answered.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise FederationError(f"{path} is damaged; start a new run by removing the coordinator's state.") from error

    def _write(self, answered: _Answered) -> None:
        write_bytes(self._path(answered.session.run), answered.model_dump_json().encode(), mode=0o600)
