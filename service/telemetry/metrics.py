"""What is counted and measured. The methods take plain arguments: nobody else knows of Prometheus.

Names begin with ``webex_events_``. A label never holds an id, an address or anything else that a sender chooses freely;
organisations are those of the settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

#: Seconds. Kafka answers within milliseconds; at 2 s the journal takes over; at 4.5 s the receiver gives up.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0)
_LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MOST_VALUES = 64


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._labels = _Labels()
        self._webhooks = self._counter("webhooks", "Requests to the public listener by answer", "answer")
        self._published = self._counter("events_published", "Events made durable by topic", "topic")
        self._quarantined = self._counter("quarantined", "Signed notifications not understood, and kept", "reason")
        self._looks = self._counter("looks", "Looks at meetings by result", "result")
        self._decisions = self._counter("decisions", "Decisions about registrants", "outcome")
        self._calls = self._counter("webex_calls", "Calls of the Webex API", "operation", "answer")
        self._found = self._counter("sweep_found", "What sweeps found that no webhook had told of", "what")
        self._letters = self._counter("dead_letters", "Records that went to the dead letters", "reason")
        self._commands = self._counter("commands", "Commands by outcome", "operation", "outcome")
        self._changes = self._counter("meeting_rules", "What meeting rules did", "result")
        self._stopped = self._gauge("writes_stopped", "Organisations for which nothing is written to Webex", "reason")
        self._keys_parked = self._gauge("parked_keys", "Meetings that wait for another try after a failure")
        self._seconds = Histogram(
            "webex_events_publish_seconds",
            "From a verified signature to durability",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._entries = self._gauge("ledger_entries", "Entries of the ledger in memory by partition", "partition")
        self._parked = self._gauge("organizations_parked", "Organisations whose token Webex does not accept")
        self._depth = self._gauge("work_queue_depth", "Meetings that wait to be looked at")
        self._rate = self._gauge("webex_allowed_rate", "Calls of Webex per second that are allowed now", "organization")
        self._throttled = self._gauge("webex_throttled_seconds", "Until Webex may be called again", "organization")
        self._circuit = self._gauge("webex_circuit_open", "1 while Webex does not answer", "organization")
        self._budgets: dict[str, dict[str, _Budget]] = {}

    def webhook_answered(self, status: int) -> None:
        """A request to the public listener got this answer."""
        self._webhooks.labels(str(status)).inc()

    def event_published(self, topic: str, seconds: float) -> None:
        """An event became durable, so long after its signature was verified."""
        self._published.labels(self._labels.bounded("topic", topic)).inc()
        self._seconds.observe(seconds)

    def notification_quarantined(self, reason: str) -> None:
        """A signed notification was not understood."""
        self._quarantined.labels(self._labels.bounded("reason", reason)).inc()

    def looked(self, result: str) -> None:
        """A look at a meeting ended."""
        self._looks.labels(self._labels.bounded("result", result)).inc()

    def decided(self, outcome: str, count: int = 1) -> None:
        """So many registrants were decided."""
        self._decisions.labels(self._labels.bounded("outcome", outcome)).inc(count)

    def webex_called(self, operation: str, status: int | None) -> None:
        """A call of the Webex API was answered with ``status``; None where no answer came."""
        answer = "none" if status is None else f"{status // 100}xx"
        self._calls.labels(self._labels.bounded("operation", operation), answer).inc()

    def restored(self, partition: int, entries: int) -> None:
        """A partition of the ledger is in memory."""
        self._entries.labels(str(partition)).set(entries)

    def queue_depth(self, keys: int) -> None:
        """So many meetings wait to be looked at."""
        self._depth.set(keys)

    def organizations_parked(self, organizations: int) -> None:
        """So many organisations are parked."""
        self._parked.set(organizations)

    def keys_parked(self, keys: int) -> None:
        """So many meetings wait for another try after a failure."""
        self._keys_parked.set(keys)

    def swept_up(self, what: str, count: int) -> None:
        """A sweep found so many that no webhook had told of."""
        self._found.labels(self._labels.bounded("what", what)).inc(count)

    def letter_written(self, reason: str) -> None:
        """A record went to the dead letters."""
        self._letters.labels(self._labels.bounded("reason", reason)).inc()

    def command_finished(self, operation: str, outcome: str) -> None:
        """A command has its outcome."""
        self._commands.labels(self._labels.bounded("operation", operation), outcome).inc()

    def meeting_changed(self, result: str) -> None:
        """What a meeting rule came to."""
        self._changes.labels(self._labels.bounded("result", result)).inc()

    def writes_stopped(self, reason: str, organizations: int) -> None:
        """For so many organisations nothing is written to Webex."""
        self._stopped.labels(self._labels.bounded("reason", reason)).set(organizations)

    def watch_publisher(self, *, healthy: Callable[[], bool], journal_rows: Callable[[], float]) -> None:
        """Ask these at every scrape: whether Kafka acknowledges, and how many events wait in the journal."""
        self._gauge("producer_healthy", "1 while Kafka acknowledges").set_function(lambda: float(healthy()))
        self._gauge("journal_rows", "Events that wait in the journal for Kafka").set_function(journal_rows)

    def watch_consumer(self, *, unfinished: Callable[[], float]) -> None:
        """Ask this at every scrape: how many records were read and are not finished."""
        self._gauge("unfinished_records", "Records of work that are read and not finished").set_function(unfinished)

    def watch_webex(
        self,
        organization: str,
        *,
        rate: Callable[[], float],
        throttled_for: Callable[[], float],
        circuit_open: Callable[[], bool],
    ) -> None:
        """Ask these at every scrape: what an organisation's credential may do.

        ``rate`` is in calls per second, ``throttled_for`` in seconds. Organisations that share the label ``other`` show the
        worst of each.
        """
        label = self._labels.bounded("organization", organization)
        budgets = self._budgets.setdefault(label, {})
        budgets[organization] = _Budget(rate, throttled_for, circuit_open)
        self._rate.labels(label).set_function(lambda: min(each.rate() for each in budgets.values()))
        self._throttled.labels(label).set_function(lambda: max(each.throttled_for() for each in budgets.values()))
        self._circuit.labels(label).set_function(lambda: float(any(each.circuit_open() for each in budgets.values())))

    def render(self) -> tuple[bytes, str]:
        """The metrics in Prometheus' text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"webex_events_{name}", meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"webex_events_{name}", meaning, labels, registry=self._registry)


@dataclass(frozen=True)
class _Budget:
    """Whom to ask about one credential."""

    rate: Callable[[], float]
    throttled_for: Callable[[], float]
    circuit_open: Callable[[], bool]


class _Labels:
    """Keeps the values of a label few and harmless: whatever is odd, or comes after the 64th, is ``other``."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}

    def bounded(self, label: str, value: str) -> str:
        seen = self._seen.setdefault(label, set())
        if value not in seen and len(seen) < _MOST_VALUES and _LABEL.fullmatch(value):
            seen.add(value)
        return value if value in seen else "other"
