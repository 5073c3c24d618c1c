"""A transcript with the signatures of those who agreed to it: evidence of a session that outlives the session."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from primia.errors import ProtocolError
from primia.secagg.keys import SignedKeys, keys_digest, verify_keys
from primia.secagg.session import Session
from primia.secagg.threshold import MINIMUM_COHORT
from primia.secagg.transcript import check_signatures, transcript


class Countersigned(BaseModel):
    """Everything that `transcript` digests, and the signatures; it holds nothing that the coordinator may not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    session: Session
    plan: str
    request: str
    threshold: int
    keys: tuple[SignedKeys, ...]
    cohort: tuple[str, ...]
    survivors: tuple[str, ...]
    signatures: dict[str, bytes]

    def heads(self, identities: Mapping[str, bytes]) -> dict[str, str]:
        """By site, the head its ledger had when the session began, in hexadecimal.

        Args:
            identities: the pinned Ed25519 public keys of the sites.

        Raises:
            ProtocolError: a site is not pinned, too few signed, or a signature is not that of this transcript.
        """
        strangers = ({keys.name for keys in self.keys} | set(self.signatures)) - set(identities)
        if strangers:
            raise ProtocolError(f"The transcript names {min(strangers)}, whose identity is not pinned here.")
        if len(self.signatures) < max(self.threshold, MINIMUM_COHORT) or not set(self.signatures) <= set(
            self.survivors
        ):
            raise ProtocolError(f"The transcript of {self.session} is not signed by enough of those who took part.")
        for keys in self.keys:
            verify_keys(keys, self.session, identity=identities[keys.name])
        signed = transcript(
            self.session,
            plan=self.plan,
            request=self.request,
            threshold=self.threshold,
            keys=keys_digest(self.keys, self.session),
            cohort=self.cohort,
            survivors=self.survivors,
        )
        check_signatures(self.signatures, signed, identities=identities, session=self.session)
        return {keys.name: keys.ledger.hex() for keys in self.keys}
