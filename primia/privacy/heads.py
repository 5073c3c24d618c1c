"""A hospital's own record of how far its ledgers had come, so that it notices by itself when one is rolled back."""

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from primia.errors import PrivacyError
from primia.files import write_bytes
from primia.privacy.ledger import Ledger

FILE = "heads.json"

_HEADS = TypeAdapter(dict[str, str])


class Heads:
    """heads.json (mode 0600) in a hospital's state folder: by ledger, its head after this hospital's last charge."""

    def __init__(self, state: Path) -> None:
        """Raises `PrivacyError` if the file is damaged."""
        self._path = state / FILE
        self._heads: dict[str, str] = {}
        if self._path.exists():
            try:
                self._heads = _HEADS.validate_json(self._path.read_bytes())
            except ValidationError as error:
                raise PrivacyError(f"{self._path} is damaged; restore it from the site's backup.") from error

    def __contains__(self, ledger: Ledger) -> bool:
        return ledger.source in self._heads

    def sources(self) -> set[str]:
        """Of all ledgers that were ever charged."""
        return set(self._heads)

    def check(self, ledger: Ledger) -> None:
        """Follow the ledger's chain, and find the last known head in it.

        Raises:
            PrivacyError: the ledger was changed, rolled back or written anew.
        """
        ledger.verify(head=self._heads.get(ledger.source))

    def keep(self, ledger: Ledger, head: str) -> None:
        """Remember `head`; on the disk when this returns."""
        self._heads[ledger.source] = head
        write_bytes(self._path, json.dumps(self._heads, indent=2, sort_keys=True).encode(), mode=0o600)
