"""What the service answers when it does not do what was asked: a status and one sentence."""

import json
from collections.abc import Mapping

from primia.errors import EncryptionError


class Refusal(EncryptionError):
    """Ends a request with `status` and one sentence; `retry_after` in seconds says when to come back."""

    def __init__(self, status: int, sentence: str, *, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after

    def headers(self) -> Mapping[str, str]:
        """The headers that belong to the status."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, int(-(-self.retry_after // 1))))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def body_of(sentence: str) -> bytes:
    """The JSON body of every refusal."""
    return json.dumps({"detail": sentence}).encode()


# What HTTP itself refuses; anything else that FastAPI raises is a request this service has no route for.
SENTENCES = {
    404: "There is nothing at this address; the routes are /keys, /models/{name} and /models/{name}/predict.",
    405: "This address does not take that method; see the documentation of the service.",
}
UNREADABLE = "The request is no HTTP this service reads; send it again with a client of this version."
UNFORESEEN = "The service could not answer for a reason of its own; send the request again, or tell who runs it."
