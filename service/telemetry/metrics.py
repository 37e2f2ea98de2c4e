"""What is counted and measured. The methods take plain arguments: nobody else knows of Prometheus.

Names begin with ``webex_events_``. A label never holds an id, an address or anything else that a sender chooses freely;
organisations are those of the settings.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from service.telemetry.collectors import OTHER, Ask, Asked, Durations, Tally, clean

#: Seconds. Kafka answers within milliseconds; at 2 s the journal takes over; at 4.5 s the receiver gives up.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0)

#: Seconds. A call of Webex has 30 at most; its steps are the same for each operation, so they are few.
_CALL_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: Seconds, up to a day: what was asked for may have to wait for Webex, for a person, or for another release of ours.
_HANDLED_SECONDS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 86400.0)

#: Seconds. A timer of uvloop is a millisecond late of itself; a probe waits a few seconds for its answer.
_LATE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

#: What the client library's own collector shows of a process, where the system tells it (Linux).
_OF_PROCESS = (
    ("process_cpu_seconds_total", "Processor time of the process"),
    ("process_max_fds", "Files and sockets that the process may have open"),
    ("process_open_fds", "Files and sockets that the process has open"),
    ("process_resident_memory_bytes", "Memory of the process that is in RAM"),
    ("process_start_time_seconds", "When the process began, in seconds since 1970"),
    ("process_virtual_memory_bytes", "Address space of the process"),
)


class Metrics:
    """All metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._described: dict[str, Description] = {}
        self._labels = _Labels()
        self._add_reception()
        self._add_work()
        self._add_consumers()
        self._add_webex()
        self._add_program()

    def _add_reception(self) -> None:
        self._webhooks = self._tally("webhooks", "Requests to the public listener by answer", "answer")
        self._refusals = self._tally("webhook_refusals", "Requests to the webhook's route refused by reason", "reason")
        # Operators retire a secret by this: each has to be seen under its own name, also one of an organisation's long id.
        self._secrets = self._tally(
            "webhook_secrets", "Verified webhooks by the secret that matched", "secret", longest=253, most=1000
        )
        self._cut_off = self._tally("connections_refused", "Connections to the public listener cut off", "reason")
        self._published = self._tally("events_published", "Events made durable by topic", "topic")
        self._quarantined = self._tally("quarantined", "Signed notifications not understood, and kept", "reason")
        self._seconds = self._durations("publish_seconds", "Seconds from a verified signature to durability", _SECONDS)

    def _add_work(self) -> None:
        self._looks = self._tally("looks", "Looks at meetings by result", "result")
        self._decisions = self._tally("decisions", "Decisions about registrants", "outcome")
        self._found = self._tally("sweep_found", "What sweeps found that no webhook had told of", "what")
        self._letters = self._tally("dead_letters", "Records that went to the dead letters", "reason")
        self._letters_waiting = self._gauge(
            "dead_letters_waiting", "Dead letters that cannot be written for now", "topic"
        )
        self._commands = self._counter("commands", "Commands by outcome", "operation", "outcome")
        self._changes = self._tally("meeting_rules", "What meeting rules did", "result")
        self._stopped = self._gauge("writes_stopped", "Organisations for which nothing is written to Webex", "reason")
        self._keys_parked = self._gauge("parked_keys", "Meetings that wait for another try after a failure")
        meaning = "Seconds from an event or a command to the end of what it asked for"
        self._handled = self._histogram("handled_seconds", meaning, _HANDLED_SECONDS, "what")
        self._depth = self._gauge("work_queue_depth", "Meetings that wait to be looked at")

    def _add_consumers(self) -> None:
        self._entries = self._gauge("ledger_entries", "Entries of the ledger in memory by partition", "partition")
        self._unfinished = self._gauge("consumer_unfinished_records", "Records read and not finished", "topic")
        self._lag = self._gauge("consumer_lag_records", "Records that are not finished, read or not", "topic")
        self._waiting = self._gauge(
            "consumer_waiting_seconds", "Seconds since a record was finished, while others wait", "topic"
        )
        self._oldest = self._gauge(
            "consumer_oldest_seconds", "Age of the oldest record that was read and is not finished", "topic"
        )
        self._partitions = self._gauge("consumer_partitions", "Partitions that this process reads", "topic")

    def _add_webex(self) -> None:
        self._calls = self._counter("webex_calls", "Calls of the Webex API", "operation", "answer")
        meaning = "Seconds of calls of the Webex API"
        self._call_seconds = self._histogram("webex_call_seconds", meaning, _CALL_SECONDS, "operation")
        self._parked = self._gauge("organizations_parked", "Organisations whose token Webex does not accept")
        self._rate = self._gauge("webex_allowed_rate", "Calls of Webex per second that are allowed now", "organization")
        self._throttled = self._gauge(
            "webex_throttled_seconds", "Seconds until Webex may be called again", "organization"
        )
        self._circuit = self._gauge("webex_circuit_open", "1 while Webex does not answer", "organization")
        self._budgets: dict[str, dict[str, _Budget]] = {}
        self._expiries: dict[str, Callable[[], float | None]] = {}
        name = "webex_token_expiry_timestamp_seconds"
        meaning = "When the access token ends, in seconds since 1970, where that is known"
        self._asked(GaugeMetricFamily, name, meaning, "organization", self._token_ends)

    def _add_program(self) -> None:
        """Its version, its files, its event loop and its process."""
        build = self._gauge("build_info", "1, with the versions of the program and of Python", "version", "python")
        build.labels(_version(), platform.python_version()).set(1)
        self._reload_refused = self._gauge(
            "reload_refused", "1 while what its files hold now is refused, and what was read before is in force", "what"
        )
        self._reloaded = self._gauge(
            "reloaded_timestamp_seconds", "When what is in force was read, in seconds since 1970", "what"
        )
        self._late = self._durations("event_loop_lag_seconds", "Seconds that timers come too late", _LATE_SECONDS)
        ProcessCollector(namespace="webex_events", registry=self._registry)
        for name, meaning in _OF_PROCESS:
            self._named(name, meaning)

    def webhook_answered(self, status: int) -> None:
        """A request to the public listener got this answer."""
        self._webhooks.add(status)

    def webhook_refused(self, reason: str) -> None:
        """A request to the webhook's route was refused."""
        self._refusals.add(reason)

    def secret_matched(self, name: str) -> None:
        """The secret of this name verified a request."""
        self._secrets.add(name)

    def connection_refused(self, reason: str) -> None:
        """A connection to the public listener was cut off."""
        self._cut_off.add(reason)

    def watch_connections(self, ask: Callable[[], float]) -> None:
        """Ask at every scrape how many connections to the public listener are open."""
        self._gauge("connections", "Open connections to the public listener").set_function(partial(_number, ask))

    def webhook_stored(self, status: int, topic: str, seconds: float) -> None:
        """An event became durable, so long after its signature was verified, and its request got this answer."""
        self._webhooks.add(status)
        self._published.add(topic)
        self._seconds.observe(seconds)

    def notification_quarantined(self, reason: str) -> None:
        """A signed notification was not understood."""
        self._quarantined.add(reason)

    def looked(self, result: str) -> None:
        """A look at a meeting ended."""
        self._looks.add(result)

    def decided(self, outcome: str, count: int = 1) -> None:
        """So many registrants were decided."""
        self._decisions.add(outcome, count)

    def webex_called(self, operation: str, status: int | None, seconds: float) -> None:
        """A call of the Webex API was answered with ``status``, after so long; None where no answer came."""
        label = self._labels.bounded("operation", operation)
        self._calls.labels(label, _answer(status)).inc()
        self._call_seconds.labels(label).observe(seconds)

    def handled(self, what: str, seconds: float) -> None:
        """What an event or a command asked for has ended, so long after it came."""
        self._handled.labels(what).observe(seconds)

    def loop_was_late(self, seconds: float) -> None:
        """A timer of the event loop came so much too late."""
        self._late.observe(seconds)

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
        self._found.add(what, count)

    def letter_written(self, reason: str) -> None:
        """A record went to the dead letters."""
        self._letters.add(reason)

    def letters_waiting(self, topic: str, letters: int) -> None:
        """So many dead letters of this topic's records cannot be written for now."""
        self._letters_waiting.labels(self._labels.bounded("topic", topic)).set(letters)

    def command_finished(self, operation: str, outcome: str) -> None:
        """A command has its outcome."""
        self._commands.labels(self._labels.bounded("operation", operation), outcome).inc()

    def meeting_changed(self, result: str) -> None:
        """What a meeting rule came to."""
        self._changes.add(result)

    def writes_stopped(self, reason: str, organizations: int) -> None:
        """For so many organisations nothing is written to Webex."""
        self._stopped.labels(self._labels.bounded("reason", reason)).set(organizations)

    def watch_publisher(self, publisher: PublisherState, *, replaced: Ask) -> None:
        """Ask these at every scrape; ``replaced``: how many producers were given up, by reason."""
        for name, meaning, ask in (
            ("producer_healthy", "1 while Kafka acknowledges", lambda: publisher.healthy),
            ("accepting", "1 while an event would be stored", lambda: publisher.accepting),
            ("journal_rows", "Events that wait in the journal for Kafka", lambda: publisher.spooled),
            ("journal_lanes", "Partitions whose events wait in the journal", lambda: publisher.journalling),
            (
                "oldest_unacknowledged_seconds",
                "Age of the oldest event that Kafka has not acknowledged, in memory or in the journal",
                lambda: publisher.oldest,
            ),
        ):
            self._gauge(name, meaning).set_function(partial(_number, ask))
        meaning = "Producers given up for another one"
        self._asked(CounterMetricFamily, "producer_replaced_total", meaning, "reason", replaced)

    def watch_journal(self, state: Callable[[], JournalState]) -> None:
        """Ask for the journal's state at every scrape."""
        for name, meaning, ask in (
            ("journal_records", "Records in the journal, of every stream", lambda: state().rows),
            ("journal_bytes", "Bytes of the journal's files", lambda: state().bytes),
            ("journal_used_ratio", "Share of its room that the journal uses, 0 to 1", lambda: state().used),
            ("journal_full", "1 while the journal takes no more events", lambda: state().full),
            (
                "journal_trusted",
                "0 where the journal could not be opened, or was given up",
                lambda: state().failure is None,
            ),
            (
                "journal_damaged",
                "1 where damage was found when the journal was opened",
                lambda: state().damage is not None,
            ),
        ):
            self._gauge(name, meaning).set_function(partial(_number, ask))

    def no_journal(self) -> None:
        """There should be a journal, and it could not be opened."""
        self._gauge("journal_trusted", "0 where the journal could not be opened, or was given up").set(0)

    def watch_loops(self, ages: Ask) -> None:
        """Ask this at every scrape: the seconds since each loop has turned."""
        self._asked(GaugeMetricFamily, "loop_age_seconds", "Seconds since the loop last turned", "loop", ages)

    def watch_consumer(self, topic: str, consumer: ConsumerState) -> None:
        """Ask these of the consumer of one topic at every scrape."""
        self._unfinished.labels(topic).set_function(lambda: consumer.unfinished)
        self._lag.labels(topic).set_function(lambda: consumer.lag)
        self._waiting.labels(topic).set_function(lambda: consumer.waiting)
        self._oldest.labels(topic).set_function(lambda: consumer.oldest)
        self._partitions.labels(topic).set_function(lambda: consumer.partitions)

    def watch_reload(self, what: str, source: ReloadState) -> None:
        """Ask at every scrape what became of the files that are read again while we run."""
        self._reload_refused.labels(what).set_function(lambda: source.refused)
        self._reloaded.labels(what).set_function(lambda: source.taken)

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

    def watch_token(self, organization: str, expires: Callable[[], float | None]) -> None:
        """Ask at every scrape when an organisation's access token ends (s since 1970); None: nobody knows."""
        self._expiries[organization] = expires

    def _token_ends(self) -> dict[str, float]:
        """Those that share the label ``other`` show the earliest."""
        found: dict[str, float] = {}
        for organization, expires in self._expiries.items():
            if (ends := expires()) is not None:
                label = self._labels.bounded("organization", organization)
                found[label] = min(ends, found.get(label, ends))
        return found

    def render(self) -> tuple[bytes, str]:
        """The metrics in Prometheus' text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def describe(self) -> list[Description]:
        """What is counted and measured so far, in the order of the names."""
        return sorted(self._described.values(), key=lambda each: each.name)

    def _named(self, name: str, meaning: str, *labels: str) -> str:
        self._described[name] = Description(f"webex_events_{name}", labels, meaning)
        return f"webex_events_{name}"

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        full = self._named(f"{name}_total", meaning, *labels)
        return Counter(full, meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(self._named(name, meaning, *labels), meaning, labels, registry=self._registry)

    def _tally(self, name: str, meaning: str, label: str, **bounds: int) -> Tally:
        tally = Tally(self._named(f"{name}_total", meaning, label), meaning, label, **bounds)
        self._registry.register(tally)
        return tally

    def _durations(self, name: str, meaning: str, bounds: Sequence[float]) -> Durations:
        durations = Durations(self._named(name, meaning), meaning, bounds)
        self._registry.register(durations)
        return durations

    def _histogram(self, name: str, meaning: str, bounds: Sequence[float], *labels: str) -> Histogram:
        return Histogram(self._named(name, meaning, *labels), meaning, labels, buckets=bounds, registry=self._registry)

    def _asked(self, family: Callable[..., Any], name: str, meaning: str, label: str, ask: Ask) -> None:
        """A metric with one label, whose values are asked for at every scrape."""
        self._registry.register(Asked(family, self._named(name, meaning, label), meaning, label, ask))


class Description(NamedTuple):
    """A metric: its name as a scrape shows it, its labels, and what it says."""

    name: str
    labels: tuple[str, ...]
    meaning: str


class PublisherState(Protocol):
    """What a publisher on Kafka says of itself; ``spooled`` rows and ``journalling`` lanes wait, ``oldest`` is in seconds."""

    @property
    def healthy(self) -> bool: ...
    @property
    def accepting(self) -> bool: ...
    @property
    def spooled(self) -> int: ...
    @property
    def journalling(self) -> int: ...
    @property
    def oldest(self) -> float: ...


class ConsumerState(Protocol):
    """What a consumer says of itself: records read, and all, that are not finished; seconds without progress; the age (s) of
    the oldest one read; and how many partitions it has.
    """

    @property
    def unfinished(self) -> int: ...
    @property
    def lag(self) -> int: ...
    @property
    def waiting(self) -> float: ...
    @property
    def oldest(self) -> float: ...
    @property
    def partitions(self) -> int: ...


class ReloadState(Protocol):
    """What is read again while we run: whether its newest version is refused, and when that in force was read (s)."""

    @property
    def refused(self) -> bool: ...
    @property
    def taken(self) -> float: ...


class JournalState(Protocol):
    """What a journal says of itself; ``bytes`` are those of its files, ``used`` is a share of its room."""

    @property
    def rows(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def used(self) -> float: ...
    @property
    def full(self) -> bool: ...
    @property
    def failure(self) -> str | None: ...
    @property
    def damage(self) -> str | None: ...


def _number(ask: Callable[[], float]) -> float:
    return float(ask())


def _answer(status: int | None) -> str:
    """429 stands for itself: Webex was asked too much, and that is nobody's mistake in any one call."""
    if status is None:
        return "none"
    return "429" if status == HTTPStatus.TOO_MANY_REQUESTS else f"{status // 100}xx"


def _version() -> str:
    try:
        return importlib.metadata.version("webex-event-processor")
    except importlib.metadata.PackageNotFoundError:  # run from its sources, without having been installed
        return "unknown"


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
        if value not in seen and clean(value, known=len(seen)):
            seen.add(value)
        return value if value in seen else OTHER
