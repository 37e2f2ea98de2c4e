"""Dead letters: durable before anything is finished, the reason in them, and nobody held up by those that cannot be written."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher
from service.controllers import letters as module
from service.controllers.letters import Letters
from service.core import event
from service.core.errors import CannotStore, RecordRefused, WebexRejected
from service.core.message import Message, Received
from service.telemetry.metrics import Metrics
from tests.controllers.conftest import START
from tests.fakes import CountingObserver, PickyPublisher

RECORD = Received(topic="work", partition=0, offset=7, key="default", value=b"{no", timestamp=0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is tried again at once."""
    monkeypatch.setattr(module, "AGAIN", 0.01)
    monkeypatch.setattr(module, "LONGEST_AGAIN", 0.02)


@dataclass
class Office:
    """Letters that are being written, and what was finished."""

    journal: Journal
    refuse: Callable[[Message], bool] = lambda _: False
    error: type[Exception] = CannotStore
    finished: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publisher = PickyPublisher(JournalPublisher(self.journal), self.refuse, error=self.error)
        self.observer = CountingObserver()
        self.letters = Letters(
            publisher=self.publisher, observer=self.observer, receiver="one", topic="work", now=lambda: START
        )

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Office]:
        """Somebody writes."""
        writing = asyncio.create_task(self.letters.run())
        try:
            yield self
        finally:
            writing.cancel()
            await asyncio.wait({writing})

    def post(self, *records: Received, reason: str = "unreadable") -> None:
        for record in records:
            self.letters.post(record, reason, finish=self.finished.append)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():  # noqa: ASYNC110 - what is waited for is anything a test can see
                await asyncio.sleep(0.005)

    async def written(self) -> list[event.CloudEvent]:
        return [event.decode(each.message.value or b"") for each in await self.journal.read("dead-letters", 0, 1000)]


def poison(offset: int, *, partition: int = 0, value: bytes = b"{no") -> Received:
    return structs.replace(RECORD, partition=partition, offset=offset, value=value)


async def test_a_letter_says_what_why_and_where(journal: Journal) -> None:
    """The record as it was, Webex's own trail, and the same id however often it is written."""
    error = WebexRejected("meetings.get: Webex answered 400", status=400, tracking_id="ROUTER_1")
    async with Office(journal).open() as office:
        for times in (1, 2):
            office.letters.post(RECORD, "WebexRejected", error=error, attempts=3, finish=office.finished.append)
            await office.until(lambda times=times: len(office.finished) == times)  # type: ignore[misc]

    first, second = await office.written()
    assert first.id == second.id
    assert first.type == "webex.record.buried.v1"
    assert base64.b64decode(first.data["valueBase64"]) == b"{no"
    told = {name: first.data[name] for name in ("topic", "offset", "reason", "status", "trackingId", "attempts")}
    assert told == {
        "topic": "work",
        "offset": 7,
        "reason": "WebexRejected",
        "status": 400,
        "trackingId": "ROUTER_1",
        "attempts": 3,
    }
    assert office.observer.letters == ["WebexRejected"] * 2


async def test_what_cannot_be_written_is_neither_finished_nor_forgotten(journal: Journal) -> None:
    """C6: nothing is dropped because the dead letters cannot be written either; when they can, all are, once each."""
    async with Office(journal, refuse=lambda _: True).open() as office:
        office.post(*map(poison, range(120)))
        await office.until(lambda: office.observer.waiting_letters[-3:] == [120] * 3)
        assert (office.finished, await office.written()) == ([], [])
        office.publisher.refuse = lambda _: False
        await office.until(lambda: len(office.finished) == 120)
        assert (office.letters.waiting, office.observer.waiting_letters[-1]) == (0, 0)
    assert sorted(letter.data["offset"] for letter in await office.written()) == list(range(120))
    assert sorted(record.offset for record in office.finished) == list(range(120))


async def test_it_is_said_once_and_again_and_when_it_is_over(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert, not a line for every try."""
    monkeypatch.setattr(module, "REMIND", 0.2)
    async with Office(journal, refuse=lambda _: True).open() as office:
        with capture_logs() as logs:
            office.post(RECORD)
            await asyncio.sleep(0.5)
            office.publisher.refuse = lambda _: False
            await office.until(lambda: any(line["log_level"] == "info" for line in logs))
    assert len(office.finished) == 1
    alerts = [line for line in logs if line["event"] == "letters.cannot_be_written"]
    assert 2 <= len(alerts) <= 4
    assert (alerts[0]["log_level"], alerts[0]["waiting"], alerts[0]["reason"]) == ("error", 1, "CannotStore")
    assert "dead-letters" in alerts[0]["to_do"]
    assert [line["event"] for line in logs if line["log_level"] == "info"] == ["letters.written_again"]


async def test_a_letter_that_is_too_large_is_written_without_the_record(journal: Journal) -> None:
    """Where the topic takes less than most do, the record's place has to do: nothing ends for that, and nothing is silent."""
    large = structs.replace(RECORD, key="\x01" * 100_000, value=b"x" * 100_000)
    small = Office(journal, refuse=lambda one: len(one.value or b"") > 2000, error=RecordRefused)
    async with small.open() as office:
        office.post(large)
        await office.until(lambda: bool(office.finished))

    (letter,) = await office.written()
    assert (letter.data["offset"], letter.data["bytes"], letter.data["valueBase64"]) == (7, 100_000, None)


async def test_a_letter_that_is_refused_for_ever_holds_up_no_other(journal: Journal) -> None:
    """Its record waits, and is counted; those of all others are finished."""
    one = poison(1)
    refusing = Office(journal, refuse=lambda letter: b'"offset":1,' in (letter.value or b""), error=RecordRefused)
    async with refusing.open() as office:
        office.post(*map(poison, range(5)))
        await office.until(lambda: len(office.finished) == 4)
        office.post(poison(5))
        await office.until(lambda: len(office.finished) == 5)
        assert office.letters.waiting == 1
        await office.until(lambda: office.observer.waiting_letters[-1] == 1)
    assert one not in office.finished


async def test_letters_are_not_written_all_at_once(journal: Journal) -> None:
    """Neither more than fifty, nor many large ones: each stands in memory twice while it is written."""
    async with Office(journal).open() as office:
        under_way, most = 0, list[int]()
        usual = office.publisher.publish

        async def publish(messages: Sequence[Message]) -> None:
            nonlocal under_way
            under_way += 1
            most.append(under_way)
            await asyncio.sleep(0.001)
            await usual(messages)
            under_way -= 1

        office.publisher.publish = publish  # type: ignore[method-assign]
        office.post(*(poison(n, value=b"x" * 300_000) for n in range(6)))
        await office.until(lambda: len(office.finished) == 6)
        large = max(most)
        office.post(*(poison(n) for n in range(100, 300)))
        await office.until(lambda: len(office.finished) == 206)
    assert (large, max(most)) == (1, 50)


async def test_a_letter_that_has_no_room_holds_up_no_other(journal: Journal) -> None:
    """One partition of the dead letters has no leader: those for the others are written, once each."""
    stuck = Office(journal, refuse=lambda letter: b'"offset":1,' in (letter.value or b""))
    async with stuck.open() as office:
        office.post(*map(poison, range(5)))
        await office.until(lambda: len(office.finished) == 4 and len(office.observer.waiting_letters) > 3)
    assert [letter.data["offset"] for letter in await office.written()] == [0, 2, 3, 4]


async def test_the_letters_of_a_partition_that_is_gone_are_forgotten(journal: Journal) -> None:
    """Whoever has it now meets its records again."""
    async with Office(journal, refuse=lambda _: True).open() as office:
        office.post(poison(1), poison(1, partition=1))
        await office.until(lambda: bool(office.observer.waiting_letters))
        office.letters.forget({0})
        office.publisher.refuse = lambda _: False
        await office.until(lambda: bool(office.finished))
    assert [record.partition for record in office.finished] == [1]


async def test_letters_of_one_topic_hide_none_of_another(journal: Journal) -> None:
    """Both are counted in one process: that those of the commands are written says nothing of those that wait."""
    metrics, bus = Metrics(), JournalPublisher(journal)
    stuck = Letters(
        publisher=PickyPublisher(bus, lambda _: True), observer=metrics, receiver="one", topic="work", now=lambda: START
    )
    written = Letters(publisher=bus, observer=metrics, receiver="one", topic="commands", now=lambda: START)
    stuck.post(RECORD, "unreadable", finish=lambda _: None)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(stuck.run())]
        await asyncio.sleep(0.1)
        written.post(structs.replace(RECORD, topic="commands"), "unreadable", finish=lambda _: None)
        running.append(tasks.create_task(written.run()))
        await asyncio.sleep(0.2)
        for each in running:
            each.cancel()
    shown = metrics.render()[0].decode()
    assert 'webex_events_dead_letters_waiting{topic="work"} 1.0' in shown
    assert 'webex_events_dead_letters_waiting{topic="commands"} 0.0' in shown
