"""What is counted, under which names."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from service.bus.journal import State
from service.telemetry.metrics import _SECONDS, Metrics

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


@dataclass(frozen=True)
class Publisher:
    """Kafka acknowledges, and yet nothing more is taken."""

    healthy: bool = True
    accepting: bool = False
    spooled: int = 12
    journalling: int = 3
    oldest: float = 4.5


@dataclass(frozen=True)
class Consumer:
    """One that is behind."""

    unfinished: int = 5
    lag: int = 7
    waiting: float = 61.5
    oldest: float = 75.25
    partitions: int = 2


@dataclass(frozen=True)
class Reloaded:
    """A file whose newest version is refused."""

    refused: bool = True
    taken: float = 1_900_000_000.0


#: One that was damaged, mended, and has failed since.
JOURNAL = State(
    rows=13, bytes=4096, waiting=0, commits=1, full=False, used=0.25, failure="the disk is gone", damage="2 rows"
)


def text(metrics: Metrics) -> str:
    """The metrics as a scrape sees them."""
    content, media_type = metrics.render()
    assert media_type.startswith("text/plain")
    return content.decode()


def test_everything_that_happens_is_counted() -> None:
    """Each method moves its own metric."""
    metrics = Metrics()
    metrics.webhook_stored(204, "meetings", 0.02)
    metrics.webhook_answered(401)
    metrics.notification_quarantined("unknownResource")
    metrics.looked("finished")
    metrics.decided("approve", 3)
    metrics.webex_called("meetings.get", 404, 0.3)
    metrics.webex_called("meetings.get", None, 30.5)
    metrics.webex_called("registrants.list", 429, 0.01)
    metrics.handled("look", 7.0)
    metrics.handled("command", 0.2)
    metrics.loop_was_late(0.03)
    metrics.swept_up("meeting", 2)
    metrics.restored(0, 17)
    metrics.queue_depth(4)
    metrics.webhook_refused("overloaded")
    metrics.secret_matched("2026-11")
    metrics.connection_refused("tooMany")
    metrics.watch_connections(lambda: 12)
    metrics.letter_written("refusedByKafka")
    metrics.letters_waiting("work", 2)
    metrics.letters_waiting("commands", 0)  # another one has nothing to do with it
    metrics.watch_publisher(Publisher(), replaced=lambda: {"stalled": 2})
    metrics.watch_journal(lambda: JOURNAL)
    metrics.watch_loops(lambda: {"work": 0.5})
    metrics.watch_consumer("work", Consumer())
    metrics.watch_webex("default", rate=lambda: 7.5, throttled_for=lambda: 30, circuit_open=lambda: True)
    metrics.watch_token("default", lambda: 1_900_000_001.0)
    metrics.watch_reload("policy", Reloaded())

    shown = text(metrics)

    for line in (
        'webhooks_total{answer="204"} 1.0',
        'webhooks_total{answer="401"} 1.0',
        'events_published_total{topic="meetings"} 1.0',
        'publish_seconds_bucket{le="0.025"} 1.0',
        'quarantined_total{reason="unknownResource"} 1.0',
        'looks_total{result="finished"} 1.0',
        'decisions_total{outcome="approve"} 3.0',
        'webex_calls_total{answer="4xx",operation="meetings.get"} 1.0',
        'webex_calls_total{answer="none",operation="meetings.get"} 1.0',
        'webex_calls_total{answer="429",operation="registrants.list"} 1.0',
        'webex_call_seconds_bucket{le="0.25",operation="meetings.get"} 0.0',
        'webex_call_seconds_bucket{le="0.5",operation="meetings.get"} 1.0',
        'webex_call_seconds_count{operation="meetings.get"} 2.0',
        'handled_seconds_bucket{le="5.0",what="look"} 0.0',
        'handled_seconds_bucket{le="10.0",what="look"} 1.0',
        'handled_seconds_sum{what="command"} 0.2',
        'event_loop_lag_seconds_bucket{le="0.025"} 0.0',
        'event_loop_lag_seconds_bucket{le="0.05"} 1.0',
        'sweep_found_total{what="meeting"} 2.0',
        'ledger_entries{partition="0"} 17.0',
        "work_queue_depth 4.0",
        'webhook_refusals_total{reason="overloaded"} 1.0',
        'webhook_secrets_total{secret="2026-11"} 1.0',
        'connections_refused_total{reason="tooMany"} 1.0',
        "connections 12.0",
        'dead_letters_total{reason="refusedByKafka"} 1.0',
        'dead_letters_waiting{topic="work"} 2.0',
        "producer_healthy 1.0",
        'producer_replaced_total{reason="stalled"} 2.0',
        "accepting 0.0",
        "oldest_unacknowledged_seconds 4.5",
        "journal_rows 12.0",
        "journal_lanes 3.0",
        "journal_records 13.0",
        "journal_bytes 4096.0",
        "journal_used_ratio 0.25",
        "journal_full 0.0",
        "journal_trusted 0.0",
        "journal_damaged 1.0",
        'loop_age_seconds{loop="work"} 0.5',
        'consumer_unfinished_records{topic="work"} 5.0',
        'consumer_lag_records{topic="work"} 7.0',
        'consumer_waiting_seconds{topic="work"} 61.5',
        'consumer_oldest_seconds{topic="work"} 75.25',
        'consumer_partitions{topic="work"} 2.0',
        'webex_allowed_rate{organization="default"} 7.5',
        'webex_throttled_seconds{organization="default"} 30.0',
        'webex_circuit_open{organization="default"} 1.0',
        'webex_token_expiry_timestamp_seconds{organization="default"} 1.900000001e+09',
        'reload_refused{what="policy"} 1.0',
        'reloaded_timestamp_seconds{what="policy"} 1.9e+09',
    ):
        assert f"webex_events_{line}\n" in shown


def test_durations_are_counted_as_the_client_library_does() -> None:
    """Our plain histogram shows what prometheus_client's own would, at the bounds, between them, and beyond the last."""
    seconds = (0.0, 0.001, 0.0011, 0.0025, 0.7, 5.0, 5.1, 60.0)
    registry = CollectorRegistry()
    own = Histogram("webex_events_publish_seconds", "Seconds", buckets=_SECONDS, registry=registry)
    metrics = Metrics()
    for each in seconds:
        own.observe(each)
        metrics.webhook_stored(204, "meetings", each)

    def shown(scrape: str) -> list[str]:
        return re.findall(r"^webex_events_publish_seconds_(?:bucket|count|sum).*", scrape, re.MULTILINE)

    assert shown(text(metrics)) == shown(generate_latest(registry).decode())


def test_counters_tell_when_they_began() -> None:
    """As those of the client library do, so that a rate knows a restart from a fall."""
    metrics, before = Metrics(), time.time()
    metrics.webhook_answered(204)
    metrics.webhook_answered(204)

    created = re.search(r'^webex_events_webhooks_created\{answer="204"\} (\S+)$', text(metrics), re.MULTILINE)

    assert created is not None
    assert before <= float(created[1]) <= time.time()


def test_names_begin_with_the_products_name() -> None:
    """Every metric can be told from those of other programs."""
    lines = [line for line in text(Metrics()).splitlines() if not line.startswith("#")]

    assert all(line.startswith("webex_events_") for line in lines)


def test_a_label_holds_nothing_odd() -> None:
    """A value that is no plain word is counted as ``other``."""
    metrics = Metrics()
    metrics.notification_quarantined("bob@example.org")
    metrics.notification_quarantined("two words")
    metrics.notification_quarantined("x" * 65)

    assert 'webex_events_quarantined_total{reason="other"} 3.0' in text(metrics)


def test_labels_stay_few() -> None:
    """However many values come, a metric has 64 of them and ``other``."""
    metrics = Metrics()
    for number in range(1000):
        metrics.looked(f"result{number}")

    assert text(metrics).count("webex_events_looks_total{") == 65
    assert 'webex_events_looks_total{result="other"} 936.0' in text(metrics)
    metrics.looked("result63")  # one that was there before goes on
    assert 'webex_events_looks_total{result="result63"} 2.0' in text(metrics)


def watch(metrics: Metrics, organization: str, *, rate: float = 8.0, wait: float = 0.0, is_open: bool = False) -> None:
    """A budget that stays as it is."""
    metrics.watch_webex(organization, rate=lambda: rate, throttled_for=lambda: wait, circuit_open=lambda: is_open)


def test_a_budget_is_asked_at_every_scrape() -> None:
    """What is shown is what holds now, for each organisation its own; where one is watched again, only the latest counts."""
    metrics, waits = Metrics(), [0.0]
    watch(metrics, "one", wait=99.0)
    watch(metrics, "two", wait=12.0)
    metrics.watch_webex("one", rate=lambda: 4.0, throttled_for=lambda: waits[-1], circuit_open=lambda: False)

    assert 'webex_throttled_seconds{organization="one"} 0.0' in text(metrics)
    waits.append(3.0)
    assert 'webex_throttled_seconds{organization="one"} 3.0' in text(metrics)
    assert 'webex_throttled_seconds{organization="two"} 12.0' in text(metrics)


def test_organisations_stay_few_and_none_in_trouble_is_hidden() -> None:
    """Whatever comes after the 64th is ``other``, which shows the worst of each."""
    metrics = Metrics()
    for number in range(70):
        watch(
            metrics,
            f"org{number}",
            rate=1.0 if number == 66 else 8.0,
            wait=40.0 if number == 67 else 0.0,
            is_open=number == 65,
        )

    shown = text(metrics)

    for name, value in (("allowed_rate", 1.0), ("throttled_seconds", 40.0), ("circuit_open", 1.0)):
        assert f'webex_events_webex_{name}{{organization="other"}} {value}\n' in shown
    assert shown.count("webex_events_webex_allowed_rate{") == 65


def test_a_token_whose_end_nobody_knows_has_none() -> None:
    """Nothing is shown, rather than a moment long ago; whatever shares a label shows the one that ends first."""
    metrics = Metrics()
    metrics.watch_token("fixed", lambda: None)
    ends = {f"org{number}": 5.0 if number == 66 else 9.0 for number in range(70)}
    for organization in ends:
        metrics.watch_token(organization, partial(ends.get, organization))

    shown = text(metrics)

    assert 'organization="fixed"' not in shown
    assert 'webex_events_webex_token_expiry_timestamp_seconds{organization="org0"} 9.0\n' in shown
    assert 'webex_events_webex_token_expiry_timestamp_seconds{organization="other"} 5.0\n' in shown


def test_the_program_says_which_it_is() -> None:
    """By the version that was installed, so that a dashboard shows what runs where; and what its process takes."""
    shown = text(Metrics())

    version = importlib.metadata.version("webex-event-processor")
    assert f'webex_events_build_info{{python="{platform.python_version()}",version="{version}"}} 1.0\n' in shown
    assert re.search(r"^webex_events_process_open_fds \d", shown, re.MULTILINE) or sys.platform != "linux"


def test_two_processes_in_one_test_do_not_meet() -> None:
    """Each has its own registry."""
    one, other = Metrics(), Metrics()
    one.webhook_answered(204)

    assert 'answer="204"' not in text(other)


def test_a_journal_that_could_not_be_opened_is_not_trusted() -> None:
    """The metric to alert on is the same, whether it failed at the start or later."""
    metrics = Metrics()
    metrics.no_journal()

    assert "webex_events_journal_trusted 0.0\n" in text(metrics)


def test_the_reference_is_complete() -> None:
    """docs/reference/metrics.md has one row for each metric, as the metrics describe themselves."""
    metrics = Metrics()
    metrics.watch_publisher(Publisher(), replaced=dict)
    metrics.watch_journal(lambda: JOURNAL)
    metrics.watch_loops(dict)
    metrics.watch_connections(lambda: 0)
    rows = [
        f"| `{each.name}` | {', '.join(f'`{label}`' for label in each.labels)} | {each.meaning} |".replace(
            "|  |", "| |"
        )
        for each in metrics.describe()
    ]
    written = [line for line in REFERENCE.read_text("utf-8").splitlines() if re.match(r"\| `webex_\w+` \|", line)]

    assert written == rows, "the table should be:\n" + "\n".join(rows)


def test_what_is_shown_is_described() -> None:
    """A scrape shows no metric that the reference could not know of."""
    metrics = Metrics()
    shown = re.findall(r"^# TYPE (\S+) ", text(metrics), re.MULTILINE)
    described = {each.name for each in metrics.describe()}

    assert [name for name in shown if name not in described and not name.endswith("_created")] == []


def test_each_secret_is_counted_under_its_own_name() -> None:
    """An operator takes one away when its count stands still: none may hide among others, however long its name is."""
    metrics = Metrics()
    names = [f"{'Y2lzY29zcGFyazov' * 5}.{n}" for n in range(100)]
    for name in names:
        metrics.secret_matched(name)
    shown = metrics.render()[0].decode()
    assert all(f'webex_events_webhook_secrets_total{{secret="{name}"}} 1.0' in shown for name in names)
    assert 'secret="other"' not in shown
