"""Dead letters: durable before anything is finished, and the reason in them."""

from __future__ import annotations

import asyncio
import base64

import pytest
from msgspec import structs

from service.bus.journal import Journal
from service.bus.journal_bus import JournalPublisher
from service.controllers import letters as module
from service.controllers.letters import Letters
from service.core import event
from service.core.errors import RecordRefused, WebexRejected
from service.core.message import Message, Received
from tests.controllers.conftest import START
from tests.fakes import CountingObserver, PickyPublisher

RECORD = Received(topic="work", partition=0, offset=7, key="default", value=b"{no", timestamp=0)


async def test_a_letter_says_what_why_and_where(journal: Journal) -> None:
    """The record as it was, Webex's own trail, and the same id however often it is written."""
    observer = CountingObserver()
    letters = Letters(publisher=JournalPublisher(journal), observer=observer, receiver="one", now=lambda: START)
    error = WebexRejected("meetings.get: Webex answered 400", status=400, tracking_id="ROUTER_1")
    for _ in range(2):
        await letters.bury(RECORD, "WebexRejected", error=error, attempts=3)

    first, second = [event.decode(each.message.value or b"") for each in await journal.read("dead-letters", 0, 10)]
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
    assert observer.letters == ["WebexRejected"] * 2


async def test_a_letter_that_cannot_be_written_is_waited_for(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is dropped because the dead letters cannot be written either (C6)."""
    monkeypatch.setattr(module, "AGAIN", 0.01)
    refused: list[Message] = []

    def refuse(message: Message) -> bool:
        refused.append(message)
        return len(refused) < 4

    publisher = PickyPublisher(JournalPublisher(journal), refuse)
    letters = Letters(publisher=publisher, observer=CountingObserver(), receiver="one", now=lambda: START)
    async with asyncio.timeout(5):
        await letters.bury(RECORD, "unreadable")
    assert len(refused) == 4
    assert len(await journal.read("dead-letters", 0, 10)) == 1


async def test_a_letter_that_is_too_large_is_written_without_the_record(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the topic takes less than most do, the record's place has to do: nothing ends for that, and nothing is silent."""
    monkeypatch.setattr(module, "AGAIN", 0.01)
    small = PickyPublisher(JournalPublisher(journal), lambda one: len(one.value or b"") > 2000, error=RecordRefused)
    letters = Letters(publisher=small, observer=CountingObserver(), receiver="one", now=lambda: START)
    large = structs.replace(RECORD, key="\x01" * 100_000, value=b"x" * 100_000)
    async with asyncio.timeout(5):
        await letters.bury(large, "unreadable")

    (stored,) = await journal.read("dead-letters", 0, 10)
    letter = event.decode(stored.message.value or b"").data
    assert (letter["offset"], letter["bytes"], letter["valueBase64"]) == (7, 100_000, None)
