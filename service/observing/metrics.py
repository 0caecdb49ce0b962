"""The service's metrics, each defined once, all of them there from the start.

Several workers share theirs by prometheus_client's multiprocess mode: each writes to files of its
own in one folder, and whichever is asked adds up what all have written.
"""

import os
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from tritserve.service.errors import ClientGoneError, QueueFullError
from tritserve.service.observing.reports import BatchReport

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
REQUEST_SECONDS = (*SECONDS, 10, 30)
TIMESTEPS = (1, 4, 16, 64, 256, 1024, 2048, 4096, 8192, 16_384)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# What the time of an answered request is spent on.
STAGES = ("decode", "queue", "compute", "encode")

T = TypeVar("T")

# prometheus_client looks for it when it is imported.
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

REFUSALS = (
    "slow_headers",
    "large_headers",
    "malformed",
    "slow_reader",
    "pipelined",
    "too_many",
    # Of TLS, that failed or took too long.
    "handshake",
)


class Metrics:
    """One registry and what is in it.

    Args:
        routes: the paths whose requests are counted.
        statuses: the statuses that they answer with.

    Attributes:
        shared: whether other processes add to the same metrics.
    """

    def __init__(self, routes: Sequence[str], statuses: Collection[int]) -> None:
        self.shared = SHARED_FOLDER in os.environ
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tritserve_requests", "Answered requests.", ["route", "status"], registry=registry
        )
        # A series is looked up by its labels behind a lock, and those of most answers are these.
        self._answers = {
            (route, status): self.requests.labels(route, str(status))
            for route in routes
            for status in statuses
        }
        self.request_seconds = Histogram(
            "tritserve_request_seconds",
            "From a request's headers until its answer was handed over.",
            ["route"],
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        self._request_seconds = {route: self.request_seconds.labels(route) for route in routes}
        self.timesteps = Counter(
            "tritserve_timesteps", "Timesteps of answered sequences.", registry=registry
        )
        self.queue_requests = Gauge(
            "tritserve_queue_requests",
            "Requests waiting or computing.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.queue_timesteps = Gauge(
            "tritserve_queue_timesteps",
            "Timesteps waiting or computing.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.batch_sequences = Histogram(
            "tritserve_batch_sequences",
            "Sequences in one call of the engine.",
            buckets=SEQUENCES,
            registry=registry,
        )
        self.batch_timesteps = Histogram(
            "tritserve_batch_timesteps",
            "Timesteps in one call of the engine.",
            buckets=TIMESTEPS,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "tritserve_batch_seconds",
            "Duration of one call of the engine.",
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "tritserve_queue_seconds",
            "From admission of a request until the engine took it up, or it was given up before.",
            buckets=SECONDS,
            registry=registry,
        )
        self.compute_seconds = Histogram(
            "tritserve_compute_seconds",
            "In calls of the engine, by answered request.",
            buckets=SECONDS,
            registry=registry,
        )
        self.decode_seconds = Histogram(
            "tritserve_decode_seconds",
            "Reading and checking a request's body.",
            buckets=SECONDS,
            registry=registry,
        )
        self.encode_seconds = Histogram(
            "tritserve_encode_seconds",
            "Writing an answer's body.",
            buckets=SECONDS,
            registry=registry,
        )
        answered_seconds = Counter(
            "tritserve_answered_seconds",
            "Spent on answered requests, by stage.",
            ["stage"],
            registry=registry,
        )
        self._answered_seconds = {stage: answered_seconds.labels(stage) for stage in STAGES}
        self.rejected = Counter(
            "tritserve_rejected", "Requests refused because the queue was full.", registry=registry
        )
        self.cancelled = Counter(
            "tritserve_cancelled",
            "Requests whose client left before the answer.",
            registry=registry,
        )
        self.ready = Gauge(
            "tritserve_ready",
            "1 if requests can be answered, else 0.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.stuck = Gauge(
            "tritserve_stuck",
            "1 if the engine has been in one call for too long, else 0.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.connections = Gauge(
            "tritserve_connections",
            "Open connections.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.refused_connections = Counter(
            "tritserve_refused_connections",
            "Connections that were closed for what their client did, or because of too many; "
            "gRPC calls too, of which there were too many.",
            ["reason"],
            registry=registry,
        )
        for reason in REFUSALS:
            self.refused_connections.labels(reason)
        if not self.shared:
            ProcessCollector(registry=registry)
        self.model_info = Gauge(
            "tritserve_model_info",
            "1 for the served model, 0 for those that it replaced.",
            ["name", "revision", "kernel"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._model: dict[str, str] = {}

    def render(self) -> bytes:
        """The text that Prometheus reads; of all processes where they are shared."""
        return self._read(generate_latest)

    def totals(self) -> dict[str, float]:
        """The values of all series; of all processes where they are shared.

        Returns:
            The values by name, which those of the labels follow, each after a slash.
        """
        return self._read(
            lambda registry: {
                "/".join([sample.name, *sample.labels.values()]): sample.value
                for metric in registry.collect()
                for sample in metric.samples
            }
        )

    def _read(self, read: Callable[[CollectorRegistry], T]) -> T:
        if not self.shared:
            return read(self.registry)
        everything = CollectorRegistry()
        try:
            MultiProcessCollector(everything)  # type: ignore[no-untyped-call]
            return read(everything)
        except (OSError, ValueError):
            # The folder is gone, and with it the supervisor: this worker is about to end.
            return read(self.registry)

    def show_model(self, labels: dict[str, str]) -> None:
        """Says which model is served: its `name`, `revision` and `kernel`."""
        if self._model:
            self.model_info.labels(**self._model).set(0)
        self.model_info.labels(**labels).set(1)
        self._model = labels

    def count_answer(self, route: str, status: int) -> None:
        """Records how one request was answered."""
        series = self._answers.get((route, status))
        (series or self.requests.labels(route, str(status))).inc()
        if status == QueueFullError.status:
            self.rejected.inc()
        elif status == ClientGoneError.status:
            self.cancelled.inc()

    def time_request(self, route: str, seconds: float) -> None:
        """Records how long one request took, from its headers until its answer."""
        self._request_seconds[route].observe(seconds)

    def time_answer(self, **seconds: float) -> None:
        """Records one answered request: the seconds that each of `STAGES` took."""
        self.encode_seconds.observe(seconds["encode"])
        for stage, series in self._answered_seconds.items():
            series.inc(seconds[stage])

    def count_batch(self, report: BatchReport) -> None:
        """Records one call of the engine."""
        self.batch_sequences.observe(report.sequences)
        self.batch_timesteps.observe(report.timesteps)
        self.batch_seconds.observe(report.seconds)
