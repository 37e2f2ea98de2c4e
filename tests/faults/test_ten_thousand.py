"""Ten thousand registrants of one webinar: what they cost, and that they end the same whatever goes wrong."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Start
from tests.faults.stage import Stories, calls, eventually, fault, figures, no_faults, people, quiet, statuses
from tests.line import Line, call, register, schedule, touch

pytestmark = pytest.mark.timeout(280)

PARTNERS, RIVALS = 7_000, 3_000
END = {"approved": PARTNERS, "rejected": RIVALS}
MEMORY = 256


async def webinar(line: Line) -> str:
    """A meeting for which ten thousand people have registered over a month, and which nobody has looked at yet."""
    await fault(line, webhook="lose", times=1)
    meeting = await schedule(line, "Partner day")
    await people(line, meeting, PARTNERS, "partner.example")
    await people(line, meeting, RIVALS, "rival.example")
    return meeting


async def test_what_ten_thousand_cost(start: Start) -> None:
    """At most 310 calls and 256 MiB, nobody decided twice, everybody with a reason; a newcomer costs at most four calls."""
    async with start() as line:
        meeting = await webinar(line)
        before = await calls(line)
        await touch(line, meeting)
        await eventually(lambda: statuses(line, meeting, END), within=150)
        await quiet(line)
        cost = [one["operationId"] for one in (await calls(line))[len(before) :]][1:]  # without the touch itself
        first_look = cost[: len(cost) - cost[::-1].index("queryMeetingRegistrants")]
        peak = line.decides.peak()
        decided = await figures(line, meeting)

        newcomer = await _newcomer(line, meeting)
        await line.stop()
        stories = await Stories.of(line, [meeting])

    print(f"\n{line.name}: {len(first_look)} calls, {peak} MiB, a newcomer {len(newcomer)} calls")  # noqa: T201
    assert len(first_look) <= 310, first_look
    assert peak <= MEMORY
    assert decided["sums"] == {
        "approved": PARTNERS,
        "rejected": RIVALS,
        "cancelled": 0,
        "repeated": 0,
        "other": 0,
        "mails": RIVALS,
    }
    assert len(newcomer) <= 4, newcomer
    assert stories.without_reason() == []
    assert stories.count() == {("registered", "approved"): PARTNERS + 1, ("registered", "rejected"): RIVALS}


async def _newcomer(line: Line, meeting: str) -> list[str]:
    """One more registers: the operations of the look that dealt with that, from the meeting to the read-back."""
    before = len(await calls(line))
    await register(line, meeting, 1, "partner.example")
    await touch(line, meeting)
    await eventually(lambda: statuses(line, meeting, {**END, "approved": PARTNERS + 1}), within=30)
    await quiet(line)
    made = [one["operationId"] for one in (await calls(line))[before:] if one["meetingId"] == meeting]
    acted = made.index("batchApproveMeetingRegistrants")
    begun = len(made) - 1 - made[::-1].index("getMeetingById", len(made) - 1 - acted)
    read_back = made.index("queryMeetingRegistrants", acted)
    return made[begun : read_back + 1]


async def test_the_same_end_whatever_goes_wrong(start: Start) -> None:
    """A fifth of all answers lost, one call in a hundred throttled, each webhook five times, and `kill -9` in the middle."""
    async with start() as line:
        meeting = await webinar(line)
        await _trouble(line)
        await touch(line, meeting)

        async def half_way() -> bool:
            found = (await figures(line, meeting))["statuses"]
            return bool(found.get("pending", 0) < (PARTNERS + RIVALS) * 0.6)

        took = await eventually(half_way, within=120, every=0.05)
        line.crash()
        left = dict((await figures(line, meeting))["statuses"]) if line.name == "kafka" else {}
        await line.start()
        if line.name == "journal":
            await _trouble(line)  # the sandbox has forgotten them: it died too
        for n in range(20):
            await call(line, "PATCH", f"/v1/meetings/{meeting}", json={"agenda": f"edited {n} times"})
        took += await eventually(lambda: statuses(line, meeting, END), within=120)
        await no_faults(line)
        await quiet(line, seconds=3)
        ended = await figures(line, meeting)
        await line.stop()
        stories = await Stories.of(line, [meeting])

    print(f"\n{line.name}: {took:.0f} s, {ended['calls']} calls, left by the kill: {left}")  # noqa: T201
    assert ended["statuses"] == END
    assert (ended["most"]["approved"], ended["most"]["rejected"], ended["most"]["mails"]) == (1, 1, 1)
    assert {name: ended["sums"][name] for name in ("cancelled", "repeated", "other", "mails")} == {
        "cancelled": 0,
        "repeated": 0,
        "other": 0,
        "mails": RIVALS,
    }
    assert stories.without_reason() == []
    assert stories.count() == {("registered", "approved"): PARTNERS, ("registered", "rejected"): RIVALS}


async def _trouble(line: Line) -> None:
    await fault(line, webhook="duplicate", copies=5, probability=1)
    for operation in ("listMeetings", "getMeeting", "list", "query", "get", "approve", "reject"):
        await fault(line, operation=operation, status=429, retryAfter="1", probability=0.01)
        await fault(line, operation=operation, dropResponse=10**6, probability=0.2)
