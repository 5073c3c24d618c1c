"""Whether the diagnosis service bears clients at once, and loses nothing when a worker is killed.

    python -m benchmarks.serve_load --json
    python -m benchmarks.serve_load --bundle FOLDER --requests 200 --clients 8 --json

The real service runs in a process of its own, with the network in FOLDER or one of 28 pixels with random weights and
the statistics of phantoms. Each client has its own token, keys and identity, and asks about several phantoms in turns,
one question at a time, over HTTP on loopback. In the middle one worker is killed. Every answer is decrypted and
compared with the network in the clear. The last line of `--json` is one JSON object:

- requests, clients: as asked; seconds, requests_per_s: of all of them together.
- lost: requests without an answer; wrong: answers that differ from the clear ones by 0.05 in a logit or more.
- retried: requests that the service gave to a second worker; killed: workers killed.
- p50_s, p95_s: from sending a question to holding its answer; queue_p50_s, evaluate_p50_s: the service's part of it.
- server_mb, workers_mb: resident memory, the workers' together: [after half of the requests, just before a worker is
  killed; at the end].
- question_mb, keys_mb: what a client sends; logit_error: largest difference; machine, load, workers: where.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from primia.diagnosis.service.release import Release
from primia.diagnosis.service.run import run_service
from primia.diagnosis.service.settings import ServiceSettings
from primia.diagnosis.service.tokens import TOKENS_FILE, Tokens
from primia.diagnosis.wire import SIGNATURE_HEADER, Answer, Enrolment, Question, decode, digest_of, encode, sign
from primia.encrypted.bundle import Bundle, load_bundle, save_bundle
from primia.encrypted.ckks import Scheme
from primia.encrypted.inputs import answer_logits, image_slots
from primia.encrypted.packing import Floats

NAME = "benchmark"
IMAGES = 6
WRONG = 0.05  # far above the noise of an answer, far below what separates two diagnoses


@dataclass(frozen=True)
class Asked:
    """What became of a question; seconds are None when it was lost."""

    seconds: float | None
    queue_s: float = 0.0
    evaluate_s: float = 0.0
    error: float = 0.0


class Clinic:
    """A client with keys of its own, and its images already encrypted."""

    def __init__(self, url: str, token: str, bundle: Bundle, images: Sequence[Any]) -> None:
        said = bundle.specification
        self._bundle, self._scheme = bundle, Scheme(said.parameters)
        secret, self._keys = self._scheme.generate_keys()
        self._secret = self._scheme.load_secret(secret)
        self._identity = Ed25519PrivateKey.generate()
        self._http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=600.0)
        self._questions = [
            [self._scheme.encrypt(slots, self._secret) for slots in image_slots(image, said)] for image in images
        ]
        self.question_bytes = sum(map(len, self._questions[0]))
        self.key_bytes = len(self._keys)

    def close(self) -> None:
        """End its connection."""
        self._http.close()

    def enrol(self) -> None:
        """Send the keys."""
        body = encode(
            Enrolment(
                identity=self._identity.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex(),
                parameters=self._bundle.specification.parameters.digest(),
                keys=self._keys,
                time=int(time.time()),
            )
        )
        self._http.post("/keys", content=body, headers=self._signed(Enrolment, body)).raise_for_status()

    def ask(self, image: int, expected: Floats) -> Asked:
        """Ask about one image, and hold the decrypted answer against the clear one."""
        body = encode(
            Question(
                name=NAME,
                model=self._bundle.specification.model_digest,
                keys=digest_of(self._keys),
                nonce=os.urandom(16),
                time=int(time.time()),
                ciphertexts=self._questions[image],
            )
        )
        started = time.perf_counter()
        try:
            answer = self._http.post(
                f"/models/{NAME}/predict", content=body, headers=self._signed(Question, body)
            ).raise_for_status()
        except httpx.HTTPError as error:
            print(f"lost: {error}", file=sys.stderr)
            return Asked(None)
        seconds = time.perf_counter() - started
        slots = self._scheme.decrypt(decode(Answer, answer.content).ciphertext, self._secret)
        timing = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
        return Asked(
            seconds,
            queue_s=float(timing["queue"]) / 1e3,
            evaluate_s=float(timing["evaluate"]) / 1e3,
            error=float(np.abs(answer_logits(slots, self._bundle.specification) - expected).max()),
        )

    def _signed(self, kind: Any, body: bytes) -> dict[str, str]:
        return {SIGNATURE_HEADER: sign(self._identity, kind, body)}


class Server:
    """The service in a process of its own."""

    def __init__(self, state: Path, bundle: Path, *, workers: int) -> None:
        self._log = state / "events.jsonl"
        arguments = ["--serve", str(state), str(bundle), str(workers)]
        self.process = subprocess.Popen([sys.executable, "-m", "benchmarks.serve_load", *arguments])
        until = time.monotonic() + 600
        while not self._events("serving"):
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit("The service did not start; its messages are above.")
            time.sleep(0.1)
        self.url = f"http://127.0.0.1:{self._events('listening')[0]['port']}"

    def memory_mb(self) -> tuple[float, float]:
        """Resident memory of the service, and of its workers together."""
        service = psutil.Process(self.process.pid)
        return service.memory_info().rss / 1e6, sum(worker.memory_info().rss for worker in service.children()) / 1e6

    def kill_a_worker(self) -> None:
        """As a crash or the kernel would."""
        psutil.Process(self.process.pid).children()[0].send_signal(signal.SIGKILL)

    def retried(self) -> int:
        """What the service counted."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return int(next(float(line.split()[1]) for line in lines if line.startswith("primia_retried_total")))

    def stop(self) -> None:
        """As an operator would."""
        self.process.terminate()
        self.process.wait(300)

    def _events(self, kind: str) -> list[dict[str, Any]]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]


def serve(state: Path, bundle: Path, workers: int) -> None:
    """What the service's process runs."""
    release = Release(name=NAME, version="1", marks=None, folder=bundle)
    settings = ServiceSettings(
        workers=workers, log=state / "events.jsonl", rate_per_s=1e3, rate_burst=1000, queue_s=600.0, evaluate_s=300.0
    )
    run_service(lambda: release, state=state, host="127.0.0.1", port=0, settings=settings)


def measure(bundle: Bundle, *, requests: int, clients: int, workers: int, seed: int) -> dict[str, Any]:
    """Start the service, load it, and count; the keys are those of the module's docstring."""
    from benchmarks.encrypted import phantoms
    from primia.encrypted.agreement import plaintext_logits

    images = phantoms(IMAGES, bundle.specification.pipeline_pixels, seed=seed)
    expected = plaintext_logits(bundle, images)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as connections:
        state = Path(folder) / "serving"
        save_bundle(Path(folder) / "bundle", bundle)
        server = Server(state, Path(folder) / "bundle", workers=workers)
        try:
            tokens = Tokens(state / TOKENS_FILE)
            clinics = [
                Clinic(server.url, tokens.add(f"clinic {number}", daily=requests, days=1).text, bundle, list(images))
                for number in range(clients)
            ]
            for clinic in clinics:
                connections.callback(clinic.close)
                clinic.enrol()
            answered: list[Asked] = []
            memory: list[tuple[float, float]] = []
            lock = threading.Lock()

            def asks(number: int) -> None:
                for turn in range(number, requests, clients):
                    image = (turn // clients + number) % len(images)
                    asked = clinics[number].ask(image, expected[image])
                    with lock:
                        answered.append(asked)
                        if len(answered) in (requests // 2, requests):
                            memory.append(server.memory_mb())
                        if len(answered) == requests // 2:
                            server.kill_a_worker()

            started = time.perf_counter()
            with ThreadPoolExecutor(clients) as threads:
                list(threads.map(asks, range(clients)))
            seconds = time.perf_counter() - started
            retried = server.retried()
        finally:
            server.stop()
    kept = [asked for asked in answered if asked.seconds is not None]
    times = sorted(asked.seconds or 0.0 for asked in kept)
    return {
        "requests": len(answered),
        "clients": clients,
        "lost": len(answered) - len(kept),
        "wrong": sum(asked.error >= WRONG for asked in kept),
        "retried": retried,
        "killed": 1,
        "seconds": seconds,
        "requests_per_s": len(kept) / seconds,
        "p50_s": statistics.median(times),
        "p95_s": times[int(0.95 * (len(times) - 1))],
        "queue_p50_s": statistics.median(asked.queue_s for asked in kept),
        "evaluate_p50_s": statistics.median(asked.evaluate_s for asked in kept),
        "logit_error": max(asked.error for asked in kept),
        "server_mb": [memory[0][0], memory[-1][0]],
        "workers_mb": [memory[0][1], memory[-1][1]],
        "question_mb": clinics[0].question_bytes / 1e6,
        "keys_mb": clinics[0].key_bytes / 1e6,
        "workers": workers,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
    }


def built_in(seed: int) -> Bundle:
    """A network of 28 pixels with random weights and the statistics of phantoms."""
    from benchmarks.encrypted import bundles_of

    return bundles_of(None, ["28"], seed=seed, images=1)["28"][0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a few lines and, with --json, one JSON object as the last line."""
    parser = argparse.ArgumentParser(description="Whether the diagnosis service bears clients at once.")
    parser.add_argument("--bundle", type=Path, help="folder of an exported network; a small one is built in")
    parser.add_argument("--requests", type=int, default=200, help="questions of all clients together")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--seed", type=int, default=1, help="of the phantoms and the built-in weights")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(Path(options.serve[0]), Path(options.serve[1]), int(options.serve[2]))
        return
    if options.requests < 10 or not 1 <= options.clients <= options.requests or options.workers < 1:
        parser.error("--requests must be at least 10, --clients from 1 to as many, --workers at least 1")
    bundle = load_bundle(options.bundle) if options.bundle else built_in(options.seed)
    result = measure(
        bundle, requests=options.requests, clients=options.clients, workers=options.workers, seed=options.seed
    )
    print(
        f"{result['requests']} questions of {result['clients']} clients to {result['workers']} workers, one killed: "
        f"{result['lost']} lost, {result['wrong']} wrong, {result['retried']} retried\n"
        f"  answer      median {result['p50_s']:.2f} s, 95 % within {result['p95_s']:.2f} s, "
        f"{result['requests_per_s']:.2f} a second\n"
        f"  of that     queue {result['queue_p50_s']:.2f} s, evaluation {result['evaluate_p50_s']:.2f} s\n"
        f"  memory      service {result['server_mb'][0]:.0f} -> {result['server_mb'][1]:.0f} MB, "
        f"workers {result['workers_mb'][0]:.0f} -> {result['workers_mb'][1]:.0f} MB"
    )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
