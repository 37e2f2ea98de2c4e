"""Webex shows too little, or what is out of date, or our own memory is gone: nothing is concluded from that."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from tests.faults.conftest import Start
from tests.faults.stage import (
    Stories,
    calls,
    eventually,
    fault,
    figures,
    logged,
    looked_again,
    no_faults,
    people,
    statuses,
)
from tests.faults.topics import delete_topic
from tests.line import KafkaLine, Line, call, register, schedule, touch

pytestmark = pytest.mark.timeout(200)

RESTLESS = {"SWEEP__INTERVAL": "1", "SWEEP__FULL_INTERVAL": "1"}
EACH = 600


async def once_only(line: Line, meeting: str, *, mails: int = 0) -> None:
    """Nobody was decided twice or written to twice; so many mails went out in all."""
    found = await figures(line, meeting)
    assert (found["most"]["approved"], found["sums"]["repeated"], found["sums"]["mails"]) == (1, 0, mails)


@pytest.mark.quick
async def test_a_list_that_loses_pages(start_on_journal: Start) -> None:
    """Whoever is on a page that got lost is not `deleted`, not decided anew, and not told again when the page is back."""
    async with start_on_journal(settings=RESTLESS) as line:
        meeting = await schedule(line, "Partner day")
        await people(line, meeting, EACH, "rival.example")
        await eventually(lambda: statuses(line, meeting, {"rejected": EACH}), within=60)
        await looked_again(line, [meeting], 2)

        await fault(line, operation="list", losePage=10**6, probability=0.4)
        (late,) = await register(line, meeting, 1, "rival.example")
        await looked_again(line, [meeting], 8)
        await no_faults(line)
        await looked_again(line, [meeting], 3)
        await once_only_rejected(line, meeting)
        await line.stop()
        stories = await Stories.of(line, [meeting])

    assert stories.kinds(late) == ["registered", "rejected"]
    assert stories.count() == {("registered", "rejected"): EACH + 1}


async def once_only_rejected(line: Line, meeting: str) -> None:
    """Everybody was rejected, with one mail each."""
    found = await figures(line, meeting)
    everybody = EACH + 1
    assert found["statuses"] == {"rejected": everybody}
    assert (found["most"]["rejected"], found["sums"]["repeated"], found["sums"]["mails"]) == (1, 0, everybody)


@pytest.mark.quick
async def test_somebody_who_is_really_gone(start_on_journal: Start) -> None:
    """Beside lost pages, a registrant who answers 404 is `deleted`, once."""
    async with start_on_journal(settings=RESTLESS) as line:
        meeting = await schedule(line, "Partner day")
        ids = await people(line, meeting, EACH, "rival.example")
        await eventually(lambda: statuses(line, meeting, {"rejected": EACH}), within=60)
        await looked_again(line, [meeting], 2)
        await fault(line, operation="list", losePage=1, skip=2)
        await call(line, "DELETE", f"/v1/meetings/{meeting}/registrants/{ids[3]}")
        await looked_again(line, [meeting], 4)
        await line.stop()
        stories = await Stories.of(line, [meeting])

    assert stories.kinds(ids[3]) == ["registered", "rejected", "deleted"]
    assert stories.count()["registered", "rejected"] == EACH - 1


@pytest.mark.quick
async def test_rest_still_says_pending(start_on_journal: Start) -> None:
    """While reads lag by ten minutes, nobody whom a 204 settled is written to again, over many looks and a `kill -9`."""
    async with start_on_journal(settings=RESTLESS) as line:
        meeting = await schedule(line, "Partner day")
        await people(line, meeting, 50, "rival.example")
        await call(line, "POST", "/sandbox/clock", json={"advanceSeconds": 1_200})
        await call(line, "POST", "/sandbox/limits", json={"lagSeconds": 600})
        await touch(line, meeting)
        await eventually(lambda: statuses(line, meeting, {"rejected": 50}), within=30)
        await looked_at_anew(line, meeting, 5)
        line.crash()
        await line.start()
        await looked_at_anew(line, meeting, 5)
        writes = await calls(line, "batchRejectMeetingRegistrants")
        await call(line, "POST", "/sandbox/clock", json={"advanceSeconds": 601})
        await eventually(partial(everybody_is_told_of, line, meeting), within=90)  # unconfirmed calls: once a minute
        found = await figures(line, meeting)
        await line.stop()
        stories = await Stories.of(line, [meeting])

    assert [(one["status"], one["registrants"]) for one in writes] == [(204, 50)]
    assert (found["statuses"], found["sums"]["mails"], found["sums"]["repeated"]) == ({"rejected": 50}, 50, 0)
    assert stories.count() == {("registered", "rejected"): 50}


async def everybody_is_told_of(line: Line, meeting: str) -> bool:
    """After some more webhooks."""
    await touch(line, meeting)
    await asyncio.sleep(1)
    return line.printed().count('"event": "registrant.rejected"') >= 50


async def looked_at_anew(line: Line, meeting: str, times: int) -> None:
    """One look after the other, each because of a webhook."""
    for _ in range(times):
        async with asyncio.TaskGroup() as group:
            group.create_task(looked_again(line, [meeting]))
            await asyncio.sleep(0.3)
            await touch(line, meeting)


async def test_a_ledger_that_was_deleted(start_on_kafka: Start) -> None:
    """Without its memory, but with committed offsets, the product observes: no approval, no mail, until it is adopted."""
    async with start_on_kafka(settings={**RESTLESS, "SWEEP__INTERVAL": "2"}) as line:
        assert isinstance(line, KafkaLine)
        meeting = await schedule(line, "Partner day")
        ids = await people(line, meeting, 50, "partner.example")
        await eventually(lambda: statuses(line, meeting, {"approved": 50}), within=60)
        back = {"registrants": [{"id": id_} for id_ in ids[:5]], "sendEmail": False}
        await call(line, "POST", f"/v1/meetings/{meeting}/registrants/cancel", json=back)
        await looked_again(line, [meeting], 3)

        await asyncio.to_thread(line.decides.stop)
        await delete_topic(line.bootstrap, f"{line.prefix}ledger", again=line.partitions)
        line.decides.start()
        await register(line, meeting, 7, "partner.example")
        await touch(line, meeting)
        await looked_again(line, [meeting], 4)
        found = await figures(line, meeting)
        kept = await _keys(line)

        await adopt(line)
        await eventually(lambda: statuses(line, meeting, {"approved": 57}), within=60)
        after = await figures(line, meeting)
        line.before_stop = (
            None  # who was approved before is approved again, as the operator wants: nothing is to be judged
        )
        await line.stop()

    assert found["statuses"] == {"approved": 45, "pending": 12}
    assert (found["most"]["approved"], found["sums"]["repeated"]) == (1, 0)
    assert any(key.startswith("observing") for key in kept)
    assert after["sums"]["repeated"] == 0


async def _keys(line: KafkaLine) -> list[str]:
    return [record.key for record in await line.records("ledger")]


async def adopt(line: KafkaLine) -> None:
    """The operator takes responsibility: `webex-events ledger adopt`."""
    command = line.process("adopt", "ledger", "adopt", "--yes", JOURNAL__PATH=str(line.folder / "adopt"))
    command.start()
    assert await asyncio.to_thread(command.stop_by_itself) == 0, logged(line, "command.failed")
