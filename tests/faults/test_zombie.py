"""Processors that are not what they think: one that stood still for a minute, and one whose name somebody else has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from service.cli.clock import utc_now
from tests import line as lines
from tests.faults.organizations import OrganizationsLine, token_of
from tests.faults.stage import Stories, calls, eventually, fault, figures, moment, no_faults, people, quiet
from tests.faults.topics import lag
from tests.kafka.harness import Cluster
from tests.line import KafkaLine
from tests.ports import free_port

pytestmark = [pytest.mark.timeout(400), pytest.mark.kafka]

ORGANIZATIONS = 4
EACH = 150
STILL = 60
APPROVE = "batchApproveMeetingRegistrants"


@pytest.fixture
async def organizations(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> AsyncIterator[OrganizationsLine]:
    """Two processors for four organisations."""
    made = OrganizationsLine(tmp_path, kafka.bootstrap, topic_prefix, count=ORGANIZATIONS, sweep=40)
    async with lines.closing(made):
        await made.start()
        yield made


async def test_c9_a_zombie_acts_once(organizations: OrganizationsLine) -> None:
    """SIGSTOP for a minute in the middle of a call; its partitions go to the other one, who does its work; then it goes on:
    everybody is approved once, by one call, and nothing is told twice.
    """
    line = organizations
    meetings = {name: await line.schedule_for(name, f"Partner day of {name}") for name in line.organizations}
    await _crowd(line, meetings, 1)
    await eventually(lambda: _approved(line, 1), within=60)
    await fault(line, operation="approve", delaySeconds=4.0, times=10**6)
    owners = await line.owners()
    busy = max(("processor-one", "processor-two"), key=list(owners.values()).count)
    before = len(await calls(line, APPROVE))
    await _crowd(line, meetings, EACH)
    await eventually(lambda: _under_way(line, before), within=60, every=0.1)
    zombie = line.processors[busy.removeprefix("processor-")]
    zombie.freeze()
    frozen = utc_now()
    await asyncio.sleep(STILL)
    await no_faults(line)
    done_without = (await figures(line))["statuses"].get("approved", 0)
    zombie.thaw()
    await eventually(lambda: _approved(line, 1 + EACH), within=90)
    await quiet(line, seconds=5)
    await eventually(lambda: _no_lag(line), within=60, every=1)
    found = await figures(line)
    orphans = {meetings[name] for name, owner in owners.items() if owner == busy}
    took_over = [moment(one) for one in await calls(line, APPROVE) if one["meetingId"] in orphans]
    after = min((at - frozen).total_seconds() for at in took_over if at > frozen + timedelta(seconds=6))
    await asyncio.gather(*(asyncio.to_thread(line.processors[name].stop) for name in ("one", "two")))
    stories = await Stories.of(line, meetings.values())
    print(  # noqa: T201
        f"\nC9: {STILL} s frozen in a call: the other one wrote after {after:.0f} s and had"
        f" {done_without} of {ORGANIZATIONS * (1 + EACH)} approved by then; approvals of one person at most"
        f" {found['most']['approved']}, facts told twice {stories.repeated}"
    )
    assert found["statuses"] == {"approved": ORGANIZATIONS * (1 + EACH)}
    assert (found["most"]["approved"], found["sums"]["mails"]) == (1, 0)
    assert stories.count() == {("registered", "approved"): ORGANIZATIONS * (1 + EACH)}


async def _crowd(line: OrganizationsLine, meetings: dict[str, str], count: int) -> None:
    for name, meeting in meetings.items():
        await people(line, meeting, count, "partner.example", spread=0)
        headers = {"authorization": f"Bearer {token_of(name)}"}
        body = {"agenda": f"edited at {utc_now().isoformat()}"}
        answer = await line.client.patch(f"{line.webex}/v1/meetings/{meeting}", json=body, headers=headers)
        assert answer.status_code == 200, answer.text


async def _approved(line: OrganizationsLine, each: int) -> bool:
    return bool((await figures(line))["statuses"] == {"approved": ORGANIZATIONS * each})


async def _under_way(line: OrganizationsLine, before: int) -> bool:
    return len(await calls(line, APPROVE)) > before


async def _no_lag(line: KafkaLine) -> bool:
    return await lag(line.bootstrap, f"{line.prefix}processors", f"{line.prefix}work") == 0


@pytest.mark.quick
async def test_a_processor_whose_name_is_taken_ends(kafka: Cluster, topic_prefix: str, tmp_path: Path) -> None:
    """Two with one KAFKA__INSTANCE_ID: the first ends with 1 and one sentence that says what to do; the second goes on."""
    line = KafkaLine(tmp_path, kafka.bootstrap, topic_prefix)
    async with lines.closing(line):
        await line.start()
        port = free_port()
        second = line.process(
            "second",
            "serve",
            "processor",
            JOURNAL__PATH=str(tmp_path / "second-journal"),
            ADMIN__PORT=str(port),
            KAFKA__INSTANCE_ID="processor-0",
        )
        second.start()
        code = await asyncio.to_thread(line.decides.stop_by_itself)
        said = [each for each in line.decides.output.read_text().splitlines() if "KAFKA__INSTANCE_ID" in each]
        meeting = await lines.schedule(line, "Partner day")
        await lines.register(line, meeting, 3, "partner.example")
        await lines.touch(line, meeting)
        await eventually(lambda: _all_three(line), within=60)
        print(f"\nname taken: exit {code}: {said}")  # noqa: T201
        assert code == 1
        assert len(said) == 1
        assert "processor-0" in said[0]
        assert second.stop() == 0


async def _all_three(line: KafkaLine) -> bool:
    return bool((await figures(line))["statuses"] == {"approved": 3})
