"""A host knows better, and a captured webhook proves nothing: neither is undone by what comes later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.faults.conftest import Start
from tests.faults.stage import Recorder, Stories, calls, eventually, figures, looked_again, people, send_again
from tests.line import POLICY, Line, call, ledger, schedule

pytestmark = [pytest.mark.timeout(200), pytest.mark.quick]

EVENTS = 1_000
EACH = 30
#: Every second all meetings are looked at, each time from the beginning of the list.
RESTLESS = {"SWEEP__INTERVAL": "1", "SWEEP__FULL_INTERVAL": "1"}

RULES = (
    POLICY
    + """
meetingRules:
  - {name: recorded, when: 'meeting.title.startsWith("Partner")', set: {enabledAutoRecordMeeting: true}, enforce: always}
"""
)


async def decided_meetings(line: Line, count: int) -> dict[str, list[str]]:
    """Meetings whose registrants the policy has approved, all of them."""
    found: dict[str, list[str]] = {}
    for n in range(count):
        meeting = await schedule(line, f"Partner day {n}")
        found[meeting] = await people(line, meeting, EACH, "partner.example")

    async def all_approved() -> bool:
        return bool((await figures(line))["statuses"] == {"approved": EACH * count})

    await eventually(all_approved, within=60)
    await looked_again(line, found, 2)
    return found


async def edit(line: Line, meeting: str, n: int) -> None:
    await call(line, "PATCH", f"/v1/meetings/{meeting}", json={"agenda": f"edited {n} times"})


async def a_thousand_webhooks(line: Line, recorder: Recorder, meetings: list[str]) -> None:
    """The host goes on editing; at last one of the meetings is deleted."""
    for n in range(EVENTS // len(meetings)):
        await asyncio.gather(*(edit(line, meeting, n) for meeting in meetings))
    await call(line, "DELETE", f"/v1/meetings/{meetings[-1]}")
    await eventually(lambda: _has(recorder, EVENTS), within=60)


async def _has(recorder: Recorder, count: int) -> bool:
    return len(recorder.captured) >= count


async def ask(line: Line, meeting: str, verb: str, ids: list[str]) -> None:
    """The host does it."""
    body = {"registrants": [{"id": id_} for id_ in ids], "sendEmail": False}
    await call(line, "POST", f"/v1/meetings/{meeting}/registrants/{verb}", json=body)


async def effects(line: Line) -> dict[str, Any]:
    """What was done to every registrant and every meeting, by anybody."""
    seen = await ledger(line)
    return {"registrants": seen["effects"], "meetings": seen["meetings"]}


async def test_a_thousand_events_bring_nobody_back(start: Start) -> None:
    """Whom the policy approved and a host then cancelled or rejected stays so over 1 000 replayed webhooks and many sweeps.

    The captured webhooks, sent again after the state moved on, have no effect at all: no decision, no mail, no PATCH of the
    meeting rule, and nothing for the meeting that is gone.
    """
    async with start(policy=RULES, settings=RESTLESS) as line, Recorder.listening() as recorder:
        await recorder.register(line)
        registrants = await decided_meetings(line, 4)
        meetings = list(registrants)
        await a_thousand_webhooks(line, recorder, meetings)
        left = meetings[:-1]
        cancelled = {meeting: registrants[meeting][:5] for meeting in left}
        rejected = {meeting: registrants[meeting][5:10] for meeting in left}
        for meeting in left:
            await ask(line, meeting, "cancel", cancelled[meeting])
            await ask(line, meeting, "reject", rejected[meeting])
        await looked_again(line, left, 3)

        before = await effects(line)
        answers = await send_again(line, recorder.captured)
        await looked_again(line, left, 5)
        after, patched = await effects(line), await calls(line, "patchMeeting")
        await line.stop()
        stories = await Stories.of(line, left)

    assert sum(answers.values()) >= EVENTS
    assert set(answers) == {204}
    assert after == before
    assert {each["status"] for id_, each in after["registrants"].items() if id_ in _all(cancelled)} == {"pending"}
    assert {each["status"] for id_, each in after["registrants"].items() if id_ in _all(rejected)} == {"rejected"}
    by_us = sum(one["sendEmail"] is not None for one in patched)
    assert by_us == len(meetings), "one PATCH for each meeting, and none for an echo"
    _told(stories, _all(cancelled), "cancelled")
    _told(stories, _all(rejected), "rejected")


def _all(ids: dict[str, list[str]]) -> set[str]:
    return {id_ for each in ids.values() for id_ in each}


def _told(stories: Stories, ids: set[str], ending: str) -> None:
    """Registered, approved by the policy, then what the host did, by the host; nothing more."""
    for id_ in ids:
        assert stories.kinds(id_) == ["registered", "approved", ending]
        assert stories.told[id_][1].data["decision"]["by"] == "policy"
        assert stories.told[id_][2].data["decision"]["by"] == "host"
