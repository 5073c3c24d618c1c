"""Which model is served: the approved release, asked for again and again while the service runs."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from primia.diagnosis.service.events import EventLog
from primia.diagnosis.service.identity import Identity
from primia.diagnosis.service.metrics import Metrics
from primia.diagnosis.service.pool import Pool
from primia.diagnosis.service.refusals import Refusal
from primia.diagnosis.service.settings import ServiceSettings
from primia.diagnosis.wire import ModelDescription, sign
from primia.encrypted.bundle import load_bundle, save_bundle
from primia.encrypted.parameters import Specification
from primia.errors import PrimiaError


@dataclass(frozen=True)
class Release:
    """An approved model version: the folder of its bundle, and the marks that its approval put on it."""

    name: str
    version: str
    marks: str | None
    folder: Path


@dataclass(frozen=True)
class Served:
    """A release with its workers, its public specification and the signed description."""

    release: Release
    specification: Specification
    pool: Pool
    folder: Path
    description: bytes
    signature: str


class Releases:
    """Follows `ask`: the release that is approved now, or None.

    A new version is loaded beside the old one and takes its place when its workers are ready. Requests that run finish
    on the old one, which gets no new ones: it is no longer the approved one. When `ask` raises or hangs, the last
    release is served for `grace_s` more. A version that cannot be loaded takes the old one out of service, too.
    """

    def __init__(
        self,
        ask: Callable[[], Release | None],
        *,
        folder: Path,
        identity: Identity,
        settings: ServiceSettings,
        events: EventLog,
        metrics: Metrics,
    ) -> None:
        self._ask, self._folder, self._identity = ask, folder, identity
        self._settings, self._events, self._metrics = settings, events, metrics
        self._changed = threading.Condition()
        self._wanted: Release | None = None
        self._answered = False  # whether the registry has said anything yet
        self._unanswered_since: float | None = time.monotonic()
        self._served: Served | None = None
        self._broken: tuple[Release, float] | None = None  # what could not be loaded, and when
        self._stopping = False
        self._loads = 0
        self._retiring: list[threading.Thread] = []
        self._asking = threading.Thread(target=self._follow, daemon=True)
        self._loading = threading.Thread(target=self._load_wanted, daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        shutil.rmtree(self._folder, ignore_errors=True)  # what a killed service left
        self._asking.start()
        self._loading.start()

    def close(self) -> None:
        """Stop following, finish running requests, end all workers."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._loading.join()
        with self._changed:
            self._retire()
        for thread in self._retiring:
            thread.join()

    def served(self, name: str | None = None) -> Served:
        """The release that may answer now.

        Raises:
            Refusal: 404 when nothing of that name is approved; 503 when that is not known, or it is not ready.
        """
        with self._changed:
            since, wanted, served = self._unanswered_since, self._wanted, self._served
            broken = self._broken is not None and self._broken[0] == wanted
        if since is not None and time.monotonic() - since > self._settings.grace_s:
            raise Refusal(503, "Which model is approved cannot be found out at the moment; ask again.", retry_after=30)
        if self._answered and (wanted is None or (name is not None and name != wanted.name)):
            raise Refusal(404, "No model of this name is approved here; ask who runs the service.")
        if broken:
            raise Refusal(503, "The approved model cannot be loaded; tell who runs the service.", retry_after=60)
        if served is None or (wanted is not None and not _is_same_version(served.release, wanted)):
            raise Refusal(503, "The model is being loaded; ask again in a moment.", retry_after=5)
        return served

    def pool(self) -> Pool | None:
        """The workers in service, for the metrics."""
        served = self._served
        return served.pool if served else None

    def _follow(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                if self._unanswered_since is None:
                    self._unanswered_since = time.monotonic()  # also a registry that never answers is noticed
            try:
                wanted = self._ask()
            except Exception as error:  # whatever the registry's client raises
                said = str(error) if isinstance(error, PrimiaError) else type(error).__name__
                self._events.write("registry_unreachable", reason=said)
            else:
                with self._changed:
                    self._answered, self._unanswered_since = True, None
                    if wanted != self._wanted:
                        self._wanted = wanted
                        self._events.write("approved", version=wanted.version if wanted else "none")
                    self._changed.notify_all()
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, self._settings.poll_s)

    def _load_wanted(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._must_change(), 1.0)
                if self._stopping:
                    return
                if not self._must_change():
                    continue
                wanted = self._wanted
                if wanted is None:
                    self._retire()
                    continue
                again = self._described_anew(wanted)
            if again is None:
                self._load(wanted)

    def _must_change(self) -> bool:
        if self._wanted is None:
            return self._served is not None
        if self._served is not None and self._served.release == self._wanted:
            return False
        if self._broken is not None and self._broken[0] == self._wanted:
            return time.monotonic() - self._broken[1] > max(self._settings.grace_s, self._settings.poll_s)
        return True

    def _described_anew(self, wanted: Release) -> Served | None:
        """The same version with other marks needs no new workers."""
        old = self._served
        if old is None or not _is_same_version(old.release, wanted):
            return None
        self._served = self._described(wanted, old.specification, old.pool, old.folder)
        return self._served

    def _load(self, wanted: Release) -> None:
        self._loads += 1
        folder = self._folder / f"{self._loads}"
        try:
            bundle = load_bundle(wanted.folder)
            # A copy of our own: the release's folder may hold another version when a worker is replaced.
            save_bundle(folder, bundle)
            pool = Pool(folder, self._settings, events=self._events, metrics=self._metrics)
            served = self._described(wanted, bundle.specification, pool, folder)
            pool.start()
        except Exception as error:  # whatever is wrong with the files; the service stays up
            said = str(error) if isinstance(error, PrimiaError) else f"It cannot be read ({type(error).__name__})."
            self._events.write("release_refused", version=wanted.version, reason=said)
            with self._changed:
                self._broken = (wanted, time.monotonic())
                self._retire()
            shutil.rmtree(folder, ignore_errors=True)
            return
        with self._changed:
            self._retire()
            self._served, self._broken = served, None
        self._metrics.serves(wanted.name, wanted.version)
        self._events.write("serving", version=wanted.version, model=bundle.specification.model_digest)

    def _described(self, release: Release, specification: Specification, pool: Pool, folder: Path) -> Served:
        description = ModelDescription(
            name=release.name,
            version=release.version,
            marks=release.marks,
            identity=self._identity.public,
            specification=specification,
        )
        body = description.model_dump_json().encode()
        signature = sign(self._identity.private, ModelDescription, body)
        return Served(release, specification, pool, folder, body, signature)

    def _retire(self) -> None:
        """Take the served release out of service; its workers finish what they have."""
        old, self._served = self._served, None
        if old is None:
            return
        self._metrics.serves(None)

        def finish() -> None:
            old.pool.close()
            shutil.rmtree(old.folder, ignore_errors=True)

        thread = threading.Thread(target=finish, daemon=True)
        thread.start()
        self._retiring = [*(t for t in self._retiring if t.is_alive()), thread]


def _is_same_version(one: Release, other: Release) -> bool:
    """Whether two releases differ in their marks at most."""
    return (one.name, one.version, one.folder) == (other.name, other.version, other.folder)
