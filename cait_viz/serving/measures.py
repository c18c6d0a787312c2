"""What the app's server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from cait_viz.errors import CaitVizError

# Upper ends of the histogram's intervals, in seconds.
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)


class Measures:
    """What is counted from the start on; safe for several threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._images = Counter("cait_viz_images", "Images that were analyzed.", registry=self.registry)
        self._answers = Counter(
            "cait_viz_answers", "Questions that were answered, images included.", ["worker"],
            registry=self.registry,
        )  # fmt: skip
        self._errors = Counter(
            "cait_viz_errors", "Questions that failed, by the kind of error.", ["kind"],
            registry=self.registry,
        )  # fmt: skip
        self._waiting = Histogram(
            "cait_viz_waiting_seconds", "From a question to its turn, the loading of a model included.",
            ["worker"], registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip

    def waited(self, worker: str, seconds: float) -> None:
        """Count how long a question waited for its turn."""
        self._waiting.labels(worker).observe(seconds)

    def answered(self, worker: str, *, is_image: bool) -> None:
        """Count an answer, and whether it is the analysis of an image."""
        self._answers.labels(worker).inc()
        if is_image:
            self._images.inc()

    def failed(self, error: BaseException) -> None:
        """Count a question that failed."""
        kind = type(error).__name__ if isinstance(error, CaitVizError) else "other"
        self._errors.labels(kind).inc()
