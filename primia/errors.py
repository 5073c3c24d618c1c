"""The exceptions a user can meet; each carries one sentence: what was wrong, where, and the way out.

PrimiaError
├── ConfigError        a key or value in params.yaml
├── DataError          a folder, a file, a label or a patient
├── FederationError    a round that cannot be completed
│   ├── ProtocolError  a message that breaks the protocol
│   └── SiteRefusal    a site that was asked for something it does not give
├── PrivacyError       a budget, a ledger or an accountant
├── EncryptionError    a key, a ciphertext or a network that does not fit
└── GateError          a model version that may not take a step in the registry
"""


class PrimiaError(ValueError):
    """Base of every error a user can act on."""


class ConfigError(PrimiaError):
    """A key or value in params.yaml is unknown or out of range."""


class DataError(PrimiaError):
    """A folder, file, label or patient cannot be used."""


class FederationError(PrimiaError):
    """A round, or the whole federation, cannot be completed."""


class ProtocolError(FederationError):
    """A message breaks the protocol: malformed, replayed, unsigned or out of order."""


class SiteRefusal(FederationError):
    """A site refuses a request and says why."""


class PrivacyError(PrimiaError):
    """A privacy budget, ledger or accountant does not allow the step."""


class EncryptionError(PrimiaError):
    """A key, a ciphertext or a network does not fit the encrypted engine."""


class GateError(PrimiaError):
    """A model version may not take the requested step in the registry."""
