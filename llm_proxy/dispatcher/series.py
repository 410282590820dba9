"""The dispatcher's metrics. It is one process with its own registry, so nothing is folded."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CLASSES = ("transient", "configuration")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_EVENTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Series:
    """All series of one dispatcher; `service` is set on each."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str) -> Counter:
            family = Counter(f"llm_proxy_dispatcher_{name}", text, ["service"], registry=self.registry)
            return family.labels(service)

        def gauge(name: str, text: str) -> Gauge:
            family = Gauge(f"llm_proxy_dispatcher_{name}", text, ["service"], registry=self.registry)
            return family.labels(service)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            family = Histogram(
                f"llm_proxy_dispatcher_{name}", text, ["service"], buckets=buckets, registry=self.registry
            )
            return family.labels(service)

        self.received = counter("events_received_total", "Entries taken from the bus.")
        self.processed = counter("events_processed_total", "Events made into payloads.")
        self.sent = counter("events_sent_total", "Events that the service accepted.")
        self.filtered = counter("events_filtered_total", "Events of methods that are not forwarded.")
        self.trimmed = counter("events_trimmed_total", "Events that were trimmed before they were delivered.")
        dead = Counter(
            "llm_proxy_dispatcher_events_dead_lettered_total",
            "Events given up, by reason.",
            ["service", "reason"],
            registry=self.registry,
        )
        self.dead_lettered = {
            reason: dead.labels(service, reason)
            for reason in ("unparsable", "transform_error", "rejected", "exhausted")
        }
        retries = Counter(
            "llm_proxy_dispatcher_retries_total",
            "Deliveries that failed and are tried again, by class of failure.",
            ["service", "class"],
            registry=self.registry,
        )
        self.retries = {name: retries.labels(service, name) for name in CLASSES}
        self.send_seconds = histogram("send_seconds", "Duration of a call of the back end.", _SECONDS)
        self.batch_events = histogram("batch_events", "Events in a batch.", _EVENTS)
        self.pending = gauge("pending", "Entries given to a consumer and not acknowledged.")
        self.lag = gauge("lag", "Entries pending or not delivered yet.")
        self.stream_length = gauge("stream_length", "Entries on the bus.")
        self.oldest_pending_seconds = gauge("oldest_pending_seconds", "Age of the oldest pending entry.")
        self.held = gauge("held", "1 while the configuration keeps anything from being accepted.")
        self.last_success = gauge("last_success_timestamp_seconds", "When the service last accepted an event.")
        self.up = gauge("up", "1 while the bus can be reached.")

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
