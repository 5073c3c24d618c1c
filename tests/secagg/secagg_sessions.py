"""Whole sessions of the protocol between real participants, with any site leaving at any round."""

import copy
import hashlib

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from primia.secagg.combine import sum_of, unmask
from primia.secagg.graph import neighbours
from primia.secagg.keys import Identity
from primia.secagg.participant import Participant
from primia.secagg.session import Session
from primia.secagg.threshold import threshold

SESSION = Session(run="run-0001", round=1, attempt=1, purpose="train")
PLAN = hashlib.sha256(b"plan").hexdigest()
REQUEST = hashlib.sha256(b"request").hexdigest()
NAMES = tuple(f"site-{number:03d}" for number in range(100))
IDENTITIES = {name: Identity(Ed25519PrivateKey.generate()) for name in NAMES}


class Cohort:
    """`count` sites and an honest coordinator; a test plays the liar between the rounds.

    Every round method takes the names of the sites that leave before they answer it.
    """

    def __init__(self, count, *, session=SESSION, plan=PLAN, required=None):
        self.session, self.threshold = session, threshold(count) if required is None else required
        roster = {name: IDENTITIES[name].public for name in NAMES[:count]}
        self.sites = {
            name: Participant(
                name=name,
                identity=IDENTITIES[name],
                session=session,
                plan=plan,
                roster=roster,
                threshold=self.threshold,
            )
            for name in roster
        }
        self.names = tuple(self.sites)

    def copied(self):
        """The same session once more, as if what follows had not happened yet."""
        other = copy.copy(self)
        other.sites = {name: copy.copy(site) for name, site in self.sites.items()}
        return other

    def advertise(self, without=()):
        self.keys = {name: site.advertise() for name, site in self.sites.items() if name not in without}
        return self

    def share(self, without=()):
        keys = list(self.keys.values())
        self.sealed = {name: self.sites[name].share(keys) for name in self.keys if name not in without}
        self.near = neighbours(keys, session=self.session)
        return self

    def addressed_to(self, name, cohort=None):
        cohort = self.sealed if cohort is None else cohort
        return {sender: self.sealed[sender].shares[name] for sender in self.near[name] if sender in cohort}

    def receive(self):
        for name in self.sealed:
            self.sites[name].receive(self.addressed_to(name), cohort=list(self.sealed))
        return self

    def mask(self, plain, without=()):
        self.plain = plain
        self.vectors = {name: plain[name].copy() for name in self.sealed if name not in without}
        for name, vector in self.vectors.items():
            self.sites[name].mask(vector, request=REQUEST)
        return self

    def masked(self, words=4):
        """All rounds up to the masked vector, with nobody leaving."""
        return self.advertise().share().receive().mask({name: np.zeros(words, dtype=np.uint32) for name in self.names})

    @property
    def dropped(self):
        return [name for name in self.sealed if name not in self.vectors]

    def sign(self, without=()):
        survivors = list(self.vectors)
        self.signatures = {name: self.sites[name].sign(survivors) for name in survivors if name not in without}
        return self

    def reveal(self, without=()):
        self.revealed = {
            name: self.sites[name].reveal(
                survivors=list(self.vectors), dropped=self.dropped, signatures=self.signatures
            )
            for name in self.signatures
            if name not in without
        }
        return self

    def unmask(self):
        """The sum, and whoever gave false shares."""
        total = sum_of(self.vectors)
        false = unmask(
            total,
            session=self.session,
            keys=self.keys,
            commitments={name: sealed.commitments for name, sealed in self.sealed.items()},
            cohort=list(self.sealed),
            survivors=list(self.vectors),
            revealed=self.revealed,
            threshold=self.threshold,
            request=REQUEST,
        )
        return total, false

    def expected(self):
        """The plain sum of the vectors that arrived."""
        return sum(self.plain[name].astype(object) for name in self.vectors) % 2**32


def random_words(names, *, words=5, seed=0):
    random = np.random.default_rng(seed)
    return {name: random.integers(0, 2**32, words, dtype=np.uint32) for name in names}
