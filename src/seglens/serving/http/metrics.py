"""The server's numbers for Prometheus, in their own registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The numbers of one server. Routes are those of the application, never a path that a client invented."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        labels = ("route", "method", "status")
        self.requests = Counter("seglens_requests", "Requests answered.", labels, registry=registry)
        self.seconds = Histogram(
            "seglens_request_seconds",
            "From the header to the last byte.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self.under_way = Gauge("seglens_requests_under_way", "Requests not yet answered.", registry=registry)
        self.batch = Histogram(
            "seglens_batch_questions",
            "Questions, or pictures to open, that ran together.",
            buckets=SIZES,
            registry=registry,
        )
        self.waiting = Gauge("seglens_questions_waiting", "Questions in the queue.", registry=registry)
        self.busy = Counter("seglens_model_seconds", "Seconds that the model worked.", registry=registry)
        self.images = Gauge("seglens_images", "Open images.", registry=registry)
        self.images_bytes = Gauge("seglens_images_bytes", "Memory of the open images.", registry=registry)
        self.dropped = Counter("seglens_images_dropped", "Images dropped, by reason.", ("reason",), registry=registry)
        self.opening = Histogram(
            "seglens_open_seconds", "The model's time to open an image.", buckets=SECONDS, registry=registry
        )
        self.asking = Histogram(
            "seglens_question_seconds", "The model's time for a batch of questions.", buckets=SECONDS, registry=registry
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)
