"""Twenty organisations and their processors on real Kafka: one is killed, one is added, one stands still for a while."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.cli.clock import utc_now
from tests import line as lines
from tests.faults.organizations import OrganizationsLine
from tests.faults.stage import Stories, calls, eventually, fault, figures, moment, people, quiet
from tests.faults.topics import lag

pytestmark = [pytest.mark.timeout(400), pytest.mark.kafka]

ORGANIZATIONS = 20
EACH = 120
#: Long beside the 18 s after which Kafka gives a dead member's partitions to another one; the default is 300 s.
PERIOD = 40
WRITES = ("batchApproveMeetingRegistrants",)


@pytest.fixture
async def line(kafka: Any, topic_prefix: str, tmp_path: Path) -> AsyncIterator[OrganizationsLine]:
    """Started, with two processors."""
    made = OrganizationsLine(tmp_path, kafka.bootstrap, topic_prefix, count=ORGANIZATIONS, sweep=PERIOD)
    async with lines.closing(made):
        await made.start()
        yield made


async def test_one_killed_one_added_one_frozen(line: OrganizationsLine) -> None:
    """Nobody is decided twice in effect, no meeting is unswept for more than two periods, a standby writes within 45 s of a
    kill, and the lag returns to 0.
    """
    meetings = {name: await line.schedule_for(name, f"Partner day of {name}") for name in line.organizations}
    silent = {name: await line.schedule_for(name, f"Quiet day of {name}") for name in line.organizations}
    everywhere = [*meetings.values(), *silent.values()]
    await eventually(lambda: _all_looked_at(line, everywhere), within=60)
    begun = utc_now()
    await _crowd(line, meetings.values(), 1)
    await eventually(lambda: _all_approved(line, 1), within=60)
    await fault(line, operation="approve", delaySeconds=1.0, times=10**6)

    owners = await line.owners()
    await _crowd(line, meetings.values(), EACH)
    orphaned, victim, killed = await _killed_at_work(line, meetings, owners)
    await eventually(lambda: _all_approved(line, 1 + EACH), within=90)
    standby = await _first_write(line, orphaned, since=killed)

    await line.join("three")
    await _crowd(line, meetings.values(), EACH)
    await eventually(lambda: _some_approved(line, 1 + EACH), within=60)
    survivor = line.processors["one" if victim == "processor-two" else "two"]
    survivor.freeze()
    await asyncio.sleep(30)
    survivor.thaw()
    await eventually(lambda: _all_approved(line, 1 + 2 * EACH), within=90)
    await quiet(line, seconds=3)
    await eventually(lambda: _no_lag(line), within=60, every=1)
    ended, found = utc_now(), await figures(line)
    gaps = await _gaps(line, everywhere, begun, ended)
    await asyncio.gather(*(asyncio.to_thread(each.stop) for each in (survivor, line.processors["three"])))
    stories = await Stories.of(line, everywhere)

    longest = max(gaps.values())
    print(f"\nstandby wrote after {standby:.1f} s, longest without a look {longest:.1f} s")  # noqa: T201
    assert standby <= 45
    assert longest <= 2 * PERIOD, {meeting: gap for meeting, gap in gaps.items() if gap > 2 * PERIOD}
    assert found["statuses"] == {"approved": ORGANIZATIONS * (1 + 2 * EACH)}
    assert (found["most"]["approved"], found["sums"]["repeated"], found["sums"]["mails"]) == (1, 0, 0)
    assert stories.count() == {("registered", "approved"): ORGANIZATIONS * (1 + 2 * EACH)}


async def _crowd(line: OrganizationsLine, meetings: Iterable[str], count: int) -> None:
    """People register everywhere, now, and a webhook says that something happened."""
    for meeting in meetings:
        await people(line, meeting, count, "partner.example", spread=0)
    for name, meeting in zip(line.organizations, meetings, strict=True):
        await _touch(line, name, meeting)


async def _touch(line: OrganizationsLine, name: str, meeting: str) -> None:
    headers = {"authorization": f"Bearer token-of-{name}-0815"}
    body = {"agenda": f"edited at {utc_now().isoformat()}"}
    answer = await line.client.patch(f"{line.webex}/v1/meetings/{meeting}", json=body, headers=headers)
    assert answer.status_code == 200, answer.text


async def _killed_at_work(
    line: OrganizationsLine, meetings: dict[str, str], owners: dict[str, str]
) -> tuple[set[str], str, datetime]:
    """`kill -9` for the processor with most to do, in the middle of it: its meetings, and when."""
    await eventually(lambda: _some_approved(line, 1), within=60, every=0.05)
    busy = max(("processor-one", "processor-two"), key=list(owners.values()).count)
    line.processors[busy.removeprefix("processor-")].kill()
    killed = utc_now()
    return {meetings[name] for name, owner in owners.items() if owner == busy}, busy, killed


async def _first_write(line: OrganizationsLine, meetings: set[str], *, since: datetime) -> float:
    """Seconds until the first write for one of these meetings by whoever took over, not of what the dead one had sent."""
    made = [moment(one) for one in await calls(line, *WRITES) if one["meetingId"] in meetings]
    return min((at - since).total_seconds() for at in made if at > since + timedelta(seconds=5))


async def _all_approved(line: OrganizationsLine, each: int) -> bool:
    return bool((await figures(line))["statuses"] == {"approved": ORGANIZATIONS * each})


async def _some_approved(line: OrganizationsLine, before: int) -> bool:
    return bool((await figures(line))["statuses"].get("approved", 0) > ORGANIZATIONS * (before + EACH // 4))


async def _all_looked_at(line: OrganizationsLine, meetings: list[str]) -> bool:
    return {one["meetingId"] for one in await calls(line, "listMeetingRegistrants")} >= set(meetings)


async def _no_lag(line: OrganizationsLine) -> bool:
    return await lag(line.bootstrap, f"{line.prefix}processors", f"{line.prefix}work") == 0


async def _gaps(line: OrganizationsLine, meetings: list[str], begun: datetime, ended: datetime) -> dict[str, float]:
    """Of every meeting the longest time between two looks."""
    looks: dict[str, list[datetime]] = defaultdict(lambda: [begun])
    for one in await calls(line, "getMeetingById"):
        if one["status"] == 200 and moment(one) > begun:
            looks[one["meetingId"]].append(moment(one))
    return {
        meeting: max(
            (after - before).total_seconds()
            for before, after in zip(looks[meeting], [*looks[meeting][1:], ended], strict=True)
        )
        for meeting in meetings
    }
