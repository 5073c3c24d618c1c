"""Counts and times for Prometheus: of the service, never of a client."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

ROUTES = frozenset({"/keys", "/models/{name}", "/models/{name}/predict", "/healthz", "/metrics"})


class Metrics:
    """Everything that GET /metrics tells, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("primia_requests", "Requests answered.", ("route", "status"))
        self.seconds = self._histogram("primia_request_seconds", "From the headers to the answer.", ("route",))
        self.queue = self._histogram("primia_queue_seconds", "Time a question waited for a worker.")
        self.evaluate = self._histogram("primia_evaluate_seconds", "Time a worker took for a question.")
        self.restarts = self._counter("primia_worker_restarts", "Workers that died and were replaced.")
        self.retried = self._counter("primia_retried", "Requests given to a second worker because the first died.")
        self.model = Gauge(
            "primia_model_info",
            "The version served now; no line when none is.",
            ("name", "version"),
            registry=self._registry,
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A figure that is asked for when the metrics are read."""
        Gauge(name, text, registry=self._registry).set_function(value)

    def serves(self, name: str | None, version: str = "") -> None:
        """Say which model version is served, or none."""
        self.model.clear()
        if name is not None:
            self.model.labels(name=name, version=version).set(1)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; addresses that are no route share a label."""
        known = route if route in ROUTES else "other"
        self.requests.labels(route=known, status=str(status)).inc()
        self.seconds.labels(route=known).observe(seconds)

    def text(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        buckets = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
        return Histogram(name, text, labels, registry=self._registry, buckets=buckets)
