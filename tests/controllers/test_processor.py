"""The processor: hints become looks, and offsets move only past what is done."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import pytest
from msgspec import structs

from service.bus.journal import Journal
from service.controllers.backlog import Backlog
from service.controllers.commands import Done
from service.controllers.ledger import Place
from service.controllers.processor import LOOPS, TAKING_IN
from service.controllers.task import Task
from service.core import event, work
from service.core.errors import WebexError, WebexNotFound, WebexRejected, WebexThrottled, WebexUnavailable
from service.core.ledger import Dirty, Entry, Fact
from service.core.meetings import Meeting
from service.core.message import Message, Received
from service.core.work import Hint, Order
from tests.controllers.conftest import SERIES, START, Desk
from tests.controllers.plan import GROUP, processor

OTHER = "6" * 32


def hint(series: str = SERIES, *, reason: str = "webex.meeting.updated.v1") -> Message:
    return work.to_message(
        Hint(organization="default", series=series, reason=reason, at=event.rfc3339(START), org_id="org")
    )


def command(id_: str) -> work.Command:
    return work.Command(
        organization="default",
        id=id_,
        digest="d",
        operation="registrants.approve",
        series=SERIES,
        parameters={"meetingId": SERIES},
        body={"registrants": [{"id": "unknown"}]},
        key="theirs",
        at=event.rfc3339(START),
    )


#: About another series, so that it holds up nobody's hints.
COMMAND = structs.replace(command("c-0"), series="7" * 32)


def order(verb: Literal["pause", "resume", "adopt"]) -> Message:
    return work.to_message(Order(organization="default", verb=verb, at=event.rfc3339(START)))


@contextlib.asynccontextmanager
async def running(desk: Desk, *, interval: float = 3600, allow: tuple[str, ...] = ()) -> AsyncIterator[None]:
    """A processor that works inside the block and is stopped in order at its end."""
    stop = asyncio.Event()
    task = asyncio.create_task(processor(desk, interval=interval, allow=allow).run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def until(true: Callable[[], bool], *, within: float = 8) -> None:
    async with asyncio.timeout(within):
        while not true():  # noqa: ASYNC110 - what is waited for is anything a test can see
            await asyncio.sleep(0.02)


async def committed(journal: Journal) -> int | None:
    return await journal.committed(GROUP, "work")


async def test_a_hint_becomes_a_look_and_its_offset_is_committed(desk: Desk) -> None:
    """A hint makes the controller look at its series; when that is done, the offset behind it is committed."""
    await desk.publisher.publish([hint(), hint(), hint()])
    desk.now += timedelta(seconds=7)
    async with running(desk):
        await until(lambda: "finished" in desk.observer.looks)

    assert desk.observer.durations[0] == ("look", 7.0)
    assert desk.webex.people["partner"].status == "approved"
    assert len(desk.webex.made("list_registrants")) <= 2
    assert await committed(desk.journal) == 3


async def test_a_failing_key_does_not_hold_up_the_others_and_is_not_committed(desk: Desk) -> None:
    """A series whose look fails waits with backoff; others go on; its hint stays uncommitted for the next process."""
    desk.webex.failures["get_meeting"] = [WebexUnavailable("down", status=503)]
    desk.webex.failures["list_registrants"] = [WebexThrottled("slow down", status=429, retry_after=60)]
    await desk.publisher.publish([hint(), hint(OTHER)])
    async with running(desk):
        await until(lambda: desk.observer.looks == ["failed", "failed", "finished"] or len(desk.observer.looks) > 3)

    assert await committed(desk.journal) in (0, 1)


async def test_an_unfinished_hint_comes_again_after_a_restart(desk: Desk) -> None:
    """What a stopped process left undone, the next one does."""
    desk.webex.failures["list_registrants"] = [WebexThrottled("slow down", status=429, retry_after=60)]
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: bool(desk.observer.looks))
    assert desk.webex.made("change_status") == []

    desk = await desk.restarted()
    async with running(desk):
        await until(lambda: "finished" in desk.observer.looks)
    assert await committed(desk.journal) == 1


@pytest.mark.parametrize(
    ("minutes", "looks"),
    [pytest.param(14, ["failed", "finished"], id="soon"), pytest.param(16, ["failed"], id="late")],
)
async def test_not_found_means_look_again_later_for_a_quarter_of_an_hour(
    desk: Desk, minutes: float, looks: list[str]
) -> None:
    """A 404 within 15 minutes of the hint is looked at again; a later one is taken for an answer."""
    desk.now += timedelta(minutes=minutes)
    desk.webex.failures["get_meeting"] = [WebexNotFound("not there", status=404)]
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: len(desk.observer.looks) >= len(looks))
        await asyncio.sleep(1.2)

    assert desk.observer.looks == looks
    assert await committed(desk.journal) == 1


async def test_a_deleted_meeting_is_remembered_as_missing(desk: Desk) -> None:
    """When a meeting was deleted and is not found, that is remembered, and what people decided too: a replayed notification
    proves nothing.
    """
    await desk.look()
    desk.webex.failures["get_meeting"] = [WebexNotFound("gone", status=404)]
    await desk.publisher.publish([hint(reason="webex.meeting.deleted.v1")])
    async with running(desk):
        await until(lambda: any(m.meeting and m.meeting.deleted for _, _, m in desk.ledger.known()))
        known = desk.ledger.series(desk.place, SERIES)
        assert known.meeting is not None
        assert known.meeting.missing == desk.now
        assert known.registrants


async def test_a_meeting_that_is_there_again_is_missing_no_more(desk: Desk) -> None:
    """Webex's 404 was its lag."""
    await desk.look()
    desk.webex.failures["get_meeting"] = [WebexNotFound("gone", status=404)]
    await desk.publisher.publish([hint(reason="webex.meeting.deleted.v1")])
    async with running(desk):
        await until(lambda: desk.observer.looks == ["failed"])
        await desk.publisher.publish([hint()])
        await until(lambda: desk.observer.looks == ["failed", "finished"])
        assert all(m.meeting and m.meeting.missing is None for _, _, m in desk.ledger.known())


async def test_what_ended_for_good_is_forgotten(desk: Desk) -> None:
    """A day after it was deleted, and still not there, nothing is remembered of a meeting: not in the ledger either."""
    await desk.look()
    gone: list[WebexError | None] = [WebexNotFound("gone", status=404)]
    desk.webex.failures["get_meeting"] = gone * 2
    deleted = hint(reason="webex.meeting.deleted.v1")
    await desk.publisher.publish([deleted])
    async with running(desk):
        await until(lambda: desk.observer.looks == ["failed"])
        desk.now += timedelta(days=1, minutes=1)
        await desk.publisher.publish([deleted])
        await until(lambda: list(desk.ledger.known()) == [])
    desk = await desk.restarted()
    assert list(desk.ledger.known()) == []


async def test_an_operator_pauses_and_resumes(desk: Desk) -> None:
    """After the order nothing is written, after the other one everything is done."""
    await desk.publisher.publish([order("pause"), hint()])
    async with running(desk):
        await until(lambda: len(desk.observer.looks) == 1)
        assert desk.webex.made("change_status") == []
        await desk.publisher.publish([order("resume")])
        await until(lambda: desk.webex.people["partner"].status == "approved")
    assert await committed(desk.journal) == 3


async def test_a_lost_ledger_is_not_acted_upon(desk: Desk) -> None:
    """Committed offsets and no ledger: people are seen and told of, and nothing is written until it is adopted."""
    await desk.journal.commit(GROUP, "work", 1)
    await desk.publisher.publish([hint(), hint()])
    desk.ledger.forget(0)
    async with running(desk):
        await until(lambda: len(desk.observer.looks) == 1)
        assert ("partner", "registered") in await desk.told()
        assert desk.webex.made("change_status") == []
        await desk.publisher.publish([order("adopt")])
        await until(lambda: desk.webex.people["partner"].status == "approved")


async def test_a_command_that_waits_does_not_keep_us_from_looking(desk: Desk) -> None:
    """While an operator pauses, commands wait, and what people do meanwhile is seen and told of."""
    await desk.publisher.publish([order("pause"), work.to_message(command("c-1")), hint()])
    async with running(desk, allow=("registrants.*",)):
        await until(lambda: len(desk.observer.looks) == 1)
        assert ("partner", "registered") in await desk.told()
        assert desk.webex.made("change_status") == []
        await asyncio.sleep(1.1)
    assert await committed(desk.journal) == 1  # the command is behind it, unfinished


async def test_a_command_belongs_to_its_own_organisation(desk: Desk) -> None:
    """Also where another one's hint about the same series waits already."""
    carried_out: list[str] = []

    async def execute(place: Place, command: work.Command, attempts: int) -> Done:
        carried_out.append(place.organization)
        return Done()

    working = processor(desk)
    working._worker._commands.execute = execute  # type: ignore[method-assign]
    await desk.publisher.publish([hint(), work.to_message(structs.replace(command("c-1"), organization="second"))])
    stop = asyncio.Event()
    task = asyncio.create_task(working.run(stop))
    await until(lambda: bool(carried_out))
    stop.set()
    await task
    assert carried_out == ["second"]


@pytest.mark.parametrize("inside", [b"[" * 100_000 + b"]" * 100_000, b'"\xff"'], ids=["deep", "not UTF-8"])
async def test_a_record_that_nobody_can_read_stops_nobody(desk: Desk, inside: bytes) -> None:
    """It goes to the dead letters like any other."""
    deep = b'{"kind":"hint","organization":' + inside + b"}"
    await desk.publisher.publish([Message(topic="work", key="default", value=deep, partition_by="default"), hint()])
    async with running(desk):
        await until(lambda: "finished" in desk.observer.looks)
    assert desk.observer.letters == ["unreadable"]


@pytest.mark.parametrize("registrants", [("",), ("a/b",), ()])
async def test_an_order_that_nobody_can_obey_stops_nobody(desk: Desk, registrants: tuple[str, ...]) -> None:
    """It is kept with the dead letters, and what comes behind it is done."""
    raw = {"kind": "order", "organization": "default", "verb": "release", "at": "", "series": SERIES}
    poison = msgspec.json.encode({**raw, "registrants": registrants})
    await desk.publisher.publish([Message(topic="work", key="default", value=poison, partition_by="default"), hint()])
    async with running(desk):
        await until(lambda: "finished" in desk.observer.looks)
    assert desk.observer.letters == ["unreadable"]
    assert await committed(desk.journal) == 2


@pytest.mark.parametrize("poison", [hint("7" * 32), work.to_message(COMMAND)], ids=["hint", "command"])
async def test_a_bug_in_one_key_stops_no_other(desk: Desk, poison: Message, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again, ever more rarely; what is tried in vain for long goes to the dead letters."""
    monkeypatch.setattr("service.controllers.worker.SURPRISES", 2)

    async def surprise(*_: object) -> None:
        raise ZeroDivisionError

    working = processor(desk)
    usual = desk.webex.get_meeting

    async def get_meeting(meeting_id: str, *, host_email: str = "") -> Meeting:
        return await (usual(meeting_id) if meeting_id == SERIES else surprise())  # type: ignore[return-value]

    monkeypatch.setattr(desk.webex, "get_meeting", get_meeting)
    monkeypatch.setattr(working._worker._commands, "execute", surprise)
    await desk.publisher.publish([poison, hint()])
    stop = asyncio.Event()
    task = asyncio.create_task(working.run(stop))
    await until(lambda: "finished" in desk.observer.looks and desk.observer.letters == ["unexpected"])
    stop.set()
    await task
    assert await committed(desk.journal) == 2


async def test_tidying_looks_before_it_forgets(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What seems to have ended for good is asked for once more: a meeting that is there keeps what people decided."""
    monkeypatch.setattr("service.controllers.processor.TIDY", 0.2)
    await desk.look()
    known = desk.ledger.series(desk.place, SERIES).meeting
    assert known is not None
    long_gone = structs.replace(known, missing=desk.now - timedelta(days=2), deleted=True)
    human = Entry(kind="human", subject=SERIES, registrant="partner", value=Fact(at=desk.now))
    await desk.obey(Entry(kind="meeting", subject=SERIES, value=long_gone), human)
    async with running(desk):
        await until(lambda: desk.observer.looks == ["finished"])
    memory = desk.ledger.known()
    assert list(memory) == []  # given up in order
    again = (await desk.restarted()).ledger
    (known_again,) = [remembered for _, _, remembered in again.known()]
    assert known_again.registrants["partner"].human


async def test_a_hint_that_comes_while_another_is_settled_keeps_its_mark(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger says that the series is dirty until the newer one has its look."""
    dirty = Entry(kind="dirty", subject=SERIES, value=Dirty(organization="default", since=desk.now))
    await desk.obey(dirty)
    gate = desk.webex.hold("list_registrants")
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: bool(desk.webex.made("list_registrants")))
        desk.webex.failures["get_meeting"] = [WebexThrottled("slow down", status=429, retry_after=60)]
        await desk.publisher.publish([hint()])
        await asyncio.sleep(1.2)
        gate.set()
        await until(lambda: desk.observer.looks == ["finished", "failed"])
        assert desk.ledger.series(desk.place, SERIES).dirty is not None


async def test_a_command_goes_before_the_look_and_has_one_outcome(desk: Desk) -> None:
    """One that is refused has its outcome although nothing is asked of Webex."""
    refused = structs.replace(command("c-1"), refusal="notAllowed", message="no")
    await desk.publisher.publish([work.to_message(refused), work.to_message(refused), hint()])
    written = (await desk.journal.read("work", 0, 1))[0].timestamp / 1000
    desk.now = datetime.fromtimestamp(written + 3, UTC)
    async with running(desk):
        await until(lambda: "finished" in desk.observer.looks)
    assert [what for what, _ in desk.observer.durations] == ["command", "command", "look"]
    assert desk.observer.durations[0][1] == pytest.approx(3)
    (outcome,) = [event.decode(each.message.value or b"") for each in await desk.journal.read("outcomes", 0, 10)]
    assert (outcome.type, outcome.data["commandId"]) == ("webex.command.refused.v1", "c-1")
    assert await committed(desk.journal) == 3


async def test_a_record_that_is_no_hint_goes_to_the_dead_letters(desk: Desk) -> None:
    """Poison is kept with its coordinates and does not stop what comes behind it."""
    poison = Message(topic="work", key="default", value=b"\xff not a hint", partition_by="default")
    await desk.publisher.publish([poison, hint()])
    async with running(desk):
        await until(lambda: "finished" in desk.observer.looks)

    (stored,) = await desk.journal.read("dead-letters", 0, 10)
    letter = event.decode(stored.message.value or b"").data
    assert (letter["topic"], letter["partition"], letter["offset"], letter["reason"]) == ("work", 0, 0, "unreadable")
    assert await committed(desk.journal) == 2


async def test_poison_that_cannot_be_buried_holds_up_nobody_else(desk: Desk) -> None:
    """C6: its offset does not move, what comes behind it is done, and when the letter can be written all is committed."""
    desk.publisher.refuse = lambda message: message.topic == "dead-letters"
    poison = Message(topic="work", key="default", value=b"\xff not a hint", partition_by="default")
    await desk.publisher.publish([poison, hint(), poison, order("pause"), order("resume"), hint(OTHER)])
    async with running(desk):
        await until(lambda: desk.observer.looks.count("finished") >= 2)
        assert desk.webex.people["partner"].status == "approved"
        await asyncio.sleep(1.2)
        assert await committed(desk.journal) == 0
        assert desk.observer.waiting_letters[-1] == 2
        desk.publisher.refuse = lambda _: False
        await until(lambda: desk.observer.letters == ["unreadable"] * 2, within=15)
    assert await committed(desk.journal) == 6
    assert len(await desk.journal.read("dead-letters", 0, 10)) == 2


async def test_work_that_is_refused_for_good_does_not_wait_for_its_letter(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6 again, where a worker writes the letter: there are two workers here, and four such keys."""
    monkeypatch.setattr("service.controllers.worker.SURPRISES", 1)
    desk.publisher.refuse = lambda message: message.topic == "dead-letters"
    usual = desk.webex.get_meeting

    async def get_meeting(meeting_id: str, *, host_email: str = "") -> Meeting:
        if meeting_id == SERIES:
            return await usual(meeting_id)
        raise (ZeroDivisionError if meeting_id < "9" else WebexRejected("no", status=400))

    monkeypatch.setattr(desk.webex, "get_meeting", get_meeting)
    await desk.publisher.publish([*(hint(digit * 32) for digit in "a7b8"), hint()])
    async with running(desk):
        await until(lambda: "finished" in desk.observer.looks)
        await until(lambda: desk.observer.waiting_letters[-1:] == [4], within=15)
        await asyncio.sleep(1.2)
        assert await committed(desk.journal) == 0
        desk.publisher.refuse = lambda _: False
        await until(lambda: len(desk.observer.letters) == 4, within=15)
    assert sorted(desk.observer.letters) == ["WebexRejected", "WebexRejected", "unexpected", "unexpected"]
    assert await committed(desk.journal) == 5


async def test_a_bug_in_taking_in_a_record_stops_nobody(desk: Desk) -> None:
    """Else that record would end every process that meets it, one after another."""
    working = processor(desk)
    working._take_hint = lambda record, hint: 1 / (hint.series != OTHER)  # type: ignore[method-assign,assignment]
    stop = asyncio.Event()
    await desk.publisher.publish([hint(OTHER), order("pause")])
    task = asyncio.create_task(working.run(stop))
    await until(lambda: desk.observer.letters == ["unexpected"])
    stop.set()
    await task
    assert await committed(desk.journal) == 2


async def test_what_waits_behind_a_command_that_fails_keeps_its_order(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C7: later commands of the same meeting come after it, those of others do not wait."""
    monkeypatch.setattr("service.controllers.worker.backoff", lambda *_, **__: 0.05)
    carried_out: list[tuple[str, str]] = []

    async def execute(place: Place, command: work.Command, attempts: int) -> Done:
        if command.id == "c-1" and attempts < 3:
            raise WebexUnavailable("down", status=503)
        carried_out.append((command.series[:1], command.id))
        return Done()

    working = processor(desk)
    working._worker._commands.execute = execute  # type: ignore[method-assign]
    first = [work.to_message(command(f"c-{n}")) for n in (1, 2)]
    others = [work.to_message(structs.replace(command(f"o-{n}"), series="7" * 32)) for n in (1, 2)]
    stop = asyncio.Event()
    task = asyncio.create_task(working.run(stop))
    await desk.publisher.publish([*first, *others])
    await until(lambda: len(carried_out) == 2)
    await desk.publisher.publish([work.to_message(command("c-3"))])
    await until(lambda: len(carried_out) == 5)
    stop.set()
    await task
    assert carried_out[:2] == [("7", "o-1"), ("7", "o-2")]
    assert [id_ for series, id_ in carried_out if series == "5"] == ["c-1", "c-2", "c-3"]


async def test_its_loops_beat(desk: Desk) -> None:
    """So that whoever looks from outside sees one that hangs."""
    beats: Counter[str] = Counter()
    stop = asyncio.Event()
    working = processor(desk)
    working._pulse = lambda name: beats.update([name])
    task = asyncio.create_task(working.run(stop))
    await until(lambda: all(beats[name] for name in LOOPS) and beats[TAKING_IN] >= 2)
    stop.set()
    await task
    assert set(beats) == set(LOOPS)


async def test_the_sweep_finds_those_for_whom_no_webhook_came(desk: Desk) -> None:
    """A known meeting is looked at again without any hint."""
    await desk.look()
    desk.webex.register("late", at=desk.now)
    async with running(desk, interval=0.2):
        await until(lambda: approved_in_time(desk))


def approved_in_time(desk: Desk) -> bool:
    """Time passes until they are."""
    desk.now += timedelta(seconds=1)
    return desk.webex.people["late"].status == "approved"


async def test_a_hint_that_waits_is_remembered_in_the_ledger(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint that cannot be answered for a minute lets its partition move on, and is taken up by the next process."""
    monkeypatch.setattr("service.controllers.worker.PARKED", 0.3)
    desk.webex.failures["list_registrants"] = [WebexThrottled("slow down", status=429, retry_after=60)]
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: any(memory.dirty for _, _, memory in desk.ledger.known()))
        await asyncio.sleep(1.1)
    assert await committed(desk.journal) == 1

    desk = await desk.restarted()
    async with running(desk):
        await until(lambda: "finished" in desk.observer.looks)
        assert not any(memory.dirty for _, _, memory in desk.ledger.known())


async def test_a_hint_may_be_answered_while_it_is_parked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger takes its time to remember it: that it is not there any more then ends nothing."""
    monkeypatch.setattr("service.controllers.worker.PARKED", 0.2)
    record, parked = desk.ledger.record, list[Entry]()

    async def slowly(place: Place, entries: Sequence[Entry], *more: Any, **others: Any) -> None:
        if any(entry.kind == "dirty" and entry.value is not None for entry in entries):
            parked.extend(entries)
            await until(lambda: "finished" in desk.observer.looks)
        await record(place, entries, *more, **others)

    monkeypatch.setattr(desk.ledger, "record", slowly)
    desk.webex.failures["get_meeting"] = [WebexUnavailable("down", status=503)]
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: "finished" in desk.observer.looks)
        await asyncio.sleep(0.3)
    assert len(parked) == 1
    assert await committed(desk.journal) == 1


async def test_parking_beats_at_every_key(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a long outage there are thousands of them, and whoever looks from outside must not take that for a hang."""
    monkeypatch.setattr("service.controllers.worker.PARKED", 0.1)
    backlog = Backlog()
    working = processor(desk, backlog=backlog)
    beats = list[int]()
    for number in range(5):
        waiting = backlog.mark(Task(place=desk.place, series=str(number) * 32))
        hinted = Received(topic="work", partition=0, offset=number, key="default", value=b"", timestamp=0)
        waiting.hints.append((float("-inf"), hinted))

    def dirty() -> int:
        return sum(memory.dirty is not None for _, _, memory in desk.ledger.known())

    parking = asyncio.create_task(working._worker.park(lambda: beats.append(dirty())))
    await until(lambda: dirty() == 5)
    await asyncio.sleep(0.05)
    parking.cancel()
    assert sorted(set(beats)) == [0, 1, 2, 3, 4, 5]


async def test_a_bus_that_cannot_store_only_delays(desk: Desk) -> None:
    """While the ledger cannot be written nothing is asked of Webex, and afterwards everything is done."""
    desk.publisher.refuse = lambda message: message.topic == "ledger"
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: desk.observer.looks.count("failed") >= 1)
        assert desk.webex.made("change_status") == []
        desk.publisher.refuse = lambda _: False
        await until(lambda: "finished" in desk.observer.looks)

    assert desk.webex.people["partner"].status == "approved"


async def test_a_task_that_dies_ends_the_processor(desk: Desk) -> None:
    """A bug in what belongs to no key is not survived in silence: the processor ends with it."""
    working = processor(desk)
    working._sweep.mark_due = lambda: 1 / 0  # type: ignore[assignment]
    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(8):
            await working.run(asyncio.Event())


async def test_a_hint_that_comes_during_a_long_look_is_answered_by_a_look_of_its_own(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where it was parked meanwhile: the look that was under way does not answer it."""
    monkeypatch.setattr("service.controllers.worker.PARKED", 0.2)
    gate = desk.webex.hold("get_meeting")
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: len(desk.webex.made("get_meeting")) == 1)
        await desk.publisher.publish([hint()])
        await asyncio.sleep(0.6)
        assert any(memory.dirty for _, _, memory in desk.ledger.known())
        gate.set()
        await until(lambda: desk.observer.looks == ["finished", "finished"])
        assert not any(memory.dirty for _, _, memory in desk.ledger.known())
    assert await committed(desk.journal) == 2


async def test_a_hint_is_not_parked_where_the_ledger_cannot_say_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the ledger remembers the series, the hint stays uncommitted."""
    monkeypatch.setattr("service.controllers.worker.PARKED", 0.2)
    desk.publisher.refuse = lambda message: message.key.startswith("dirty/")
    desk.webex.failures["list_registrants"] = [WebexThrottled("slow down", status=429, retry_after=60)]
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: bool(desk.observer.looks))
        await asyncio.sleep(0.8)
    assert await committed(desk.journal) == 0


async def test_a_hint_does_not_cut_a_backoff_short(desk: Desk) -> None:
    """While Webex says when to come back, new webhooks do not bring us back earlier."""
    desk.webex.failures["get_meeting"] = [WebexThrottled("slow down", status=429, retry_after=60)]
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: desk.observer.looks == ["failed"])
        await desk.publisher.publish([hint()] * 5)
        await asyncio.sleep(0.5)

    assert len(desk.webex.made("get_meeting")) == 1


async def test_a_full_look_that_failed_is_full_again(desk: Desk) -> None:
    """What was asked of a look is asked of the next try too."""
    await desk.look()
    desk.now += timedelta(hours=2)
    desk.webex.failures["list_registrants"] = [WebexUnavailable("down", status=503)]
    async with running(desk, interval=3600):
        await until(lambda: desk.observer.looks == ["failed", "finished"])

    assert desk.webex.made("list_registrants") == [None, None, None]


async def test_an_unconfirmed_call_is_looked_at_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a call is not confirmed by any list, the series comes back by itself."""
    monkeypatch.setattr("service.controllers.series.SETTLE_AGAIN", 0.1)
    desk.webex.lagging = True
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: len(desk.observer.looks) >= 2)

    assert len(desk.webex.made("change_status")) == 2


async def test_what_webex_refuses_for_good_goes_to_the_dead_letters(desk: Desk) -> None:
    """A hint whose look can never succeed is kept with its reason, and its partition moves on."""
    desk.webex.failures["get_meeting"] = [WebexRejected("no", status=400)]
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: desk.observer.looks == ["failed"] and desk.observer.letters == ["WebexRejected"])

    (letter,) = await desk.journal.read("dead-letters", 0, 10)
    assert b'"reason":"WebexRejected"' in (letter.message.value or b"")
    assert await committed(desk.journal) == 1


async def test_stopping_lets_a_running_look_end(desk: Desk) -> None:
    """A look that runs when the processor is told to stop is finished, and its hint committed."""
    gate = desk.webex.hold("query_registrants")
    await desk.publisher.publish([hint()])
    stop = asyncio.Event()
    task = asyncio.create_task(processor(desk).run(stop))
    await until(lambda: len(desk.webex.made("query_registrants")) == 1)
    stop.set()
    await asyncio.sleep(0.2)
    gate.set()
    await task

    assert desk.observer.looks == ["finished"]
    assert await committed(desk.journal) == 1
    assert list(desk.ledger.known()) == []


async def test_nothing_begins_while_partitions_go_away(desk: Desk) -> None:
    """Whatever comes while a look that runs is waited for: who writes then takes back what was just given up."""
    gate, backlog = desk.webex.hold("query_registrants"), Backlog()
    await desk.publisher.publish([hint()])
    stop = asyncio.Event()
    task = asyncio.create_task(processor(desk, backlog=backlog).run(stop))
    await until(lambda: len(desk.webex.made("query_registrants")) == 1)
    stop.set()
    await asyncio.sleep(0.2)
    backlog.mark(Task(place=desk.place, series=OTHER, org_id="org"))
    await asyncio.sleep(0.2)
    gate.set()
    await task

    assert set(desk.webex.made("get_meeting")) == {SERIES}
    assert await committed(desk.journal) == 1


async def test_no_order_is_obeyed_while_partitions_go_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would count as done, and the next owner may have read the ledger already."""
    gate, obeying, obeyed = desk.webex.hold("query_registrants"), asyncio.Event(), list[str]()
    working = processor(desk)

    async def obey(_: Place, order: Order) -> None:
        obeyed.append(order.verb)
        await obeying.wait()

    monkeypatch.setattr(working._orders, "obey", obey)
    await desk.publisher.publish([hint(), order("pause"), order("resume")])
    stop = asyncio.Event()
    task = asyncio.create_task(working.run(stop))
    await until(lambda: obeyed == ["pause"] and len(desk.webex.made("query_registrants")) == 1)
    stop.set()
    await asyncio.sleep(0.2)
    obeying.set()
    await asyncio.sleep(0.2)
    gate.set()
    await task

    assert obeyed == ["pause"]
    assert await committed(desk.journal) == 2


async def test_the_lease_is_renewed_while_nothing_is_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that has written once goes on saying that it is there, and stops saying so when it leaves."""
    monkeypatch.setattr("service.controllers.ownership.RENEWAL", 0.5)
    await desk.publisher.publish([hint()])
    async with running(desk):
        await until(lambda: "finished" in desk.observer.looks)
        await asyncio.sleep(2.2)

    owners = [kind for kind in await desk.ledger_kinds() if kind == "owner"]
    assert len(owners) >= 4
    _, following = await desk.journal.bounds("ledger")
    (last,) = await desk.journal.read("ledger", following - 1, 1)
    assert b'"released":true' in (last.message.value or b"")
