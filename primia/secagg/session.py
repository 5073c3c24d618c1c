"""Names of one run of the protocol, and the byte statements that keys, masks and signatures are bound to."""

from typing import Annotated, Any, Literal

import msgpack
from pydantic import BaseModel, ConfigDict, Field

PROTOCOL = "primia-secagg"
VERSION = 3

Purpose = Literal["statistics", "train", "evaluate"]
RunName = Annotated[str, Field(pattern=r"^[0-9a-z][0-9a-z-]{7,63}$")]


class Session(BaseModel):
    """One masked sum: `attempt` counts repetitions of the same purpose in the same round, from 1.

    Keys live for one session and no session is answered twice, so a mask is never used twice.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    run: RunName
    round: int = Field(ge=0, le=1_000_000)
    attempt: int = Field(ge=1, le=1_000_000)
    purpose: Purpose

    def __str__(self) -> str:
        return f"{self.purpose} of round {self.round}, attempt {self.attempt}"


def statement(kind: str, session: Session, *fields: Any) -> bytes:
    """Unambiguous bytes of (protocol, version, kind, session, fields): what is signed, hashed or fed to HKDF.

    msgpack writes the length of every string and list, so two different statements never share their bytes.
    """
    named = [PROTOCOL, VERSION, kind, session.run, session.round, session.attempt, session.purpose]
    return bytes(msgpack.packb([*named, *fields]))
