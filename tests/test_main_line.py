"""The main job, end to end, on real input and on both buses: signed webhook → durable event → registrant approved."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service.cli.clock import utc_now
from service.cli.trigger import notification
from service.core import event
from tests import line as lines
from tests.kafka.fixtures import ClusterFactory
from tests.line import JournalLine, KafkaLine, Line, facts, ledger, register, schedule, touch, until

PEOPLE = {"partner.example": 60, "rival.example": 25, "example.com": 15}
OUTCOME = {"partner.example": "approved", "rival.example": "rejected", "example.com": "pending"}


@pytest.fixture(params=["journal", pytest.param("kafka", marks=pytest.mark.kafka)])
async def line(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Line]:
    """The product, started, on each bus."""
    made: JournalLine | KafkaLine
    if request.param == "kafka":
        cluster = request.getfixturevalue("kafka")
        made = KafkaLine(tmp_path, cluster.bootstrap, request.getfixturevalue("topic_prefix"))
    else:
        made = JournalLine(tmp_path)
    async with lines.closing(made):
        await made.start()
        yield made


async def five_meetings(line: Line) -> list[str]:
    """Five meetings with registration, each looked at once while nobody has registered."""
    meetings = [await schedule(line, f"Partner day {n}") for n in range(5)]

    async def looked_at() -> bool:
        calls = (await ledger(line))["calls"]
        return {c["meetingId"] for c in calls if c["operationId"] == "listMeetingRegistrants"} >= set(meetings)

    await until(looked_at)
    await _quiet(line)
    return meetings


async def five_hundred_people(line: Line, meetings: list[str]) -> dict[str, str]:
    """Registrant → what the policy wants of them."""
    wanted: dict[str, str] = {}
    for meeting in meetings:
        for domain, count in PEOPLE.items():
            wanted |= dict.fromkeys(await register(line, meeting, count, domain), OUTCOME[domain])
    return wanted


async def settled(line: Line, wanted: dict[str, str]) -> bool:
    effects = (await ledger(line))["effects"]
    return all(effects[id_]["status"] == status for id_, status in wanted.items())


def decided_once(effects: dict[str, Any], wanted: dict[str, str]) -> None:
    """Everybody is where the policy wants them, by exactly one effect."""
    for id_, status in wanted.items():
        effect = effects[id_]
        assert effect["status"] == status
        assert (effect["approved"], effect["rejected"]) == (int(status == "approved"), int(status == "rejected"))
        assert (effect["repeated"], effect["cancelled"]) == (0, 0)


async def test_five_hundred_people_in_five_meetings(line: Line) -> None:
    """All end as the policy says, each decided exactly once, with one write and one read-back for each started hundred."""
    meetings = await five_meetings(line)
    before = len((await ledger(line))["calls"])
    wanted = await five_hundred_people(line, meetings)
    for meeting in meetings:
        await touch(line, meeting)
    await until(lambda: settled(line, wanted))
    await _quiet(line)
    seen = await ledger(line)
    decided_once(seen["effects"], wanted)
    posts = Counter(
        (one["meetingId"], one["operationId"]) for one in seen["calls"][before:] if "Registrant" in one["operationId"]
    )
    assert await line.stop() == [0] * (1 if line.name == "journal" else 3)

    assert all(count == 1 for (_, operation), count in posts.items() if "Approve" in operation or "Reject" in operation)
    assert sum(posts[m, o] for m, o in posts if "query" in o.lower()) == 10
    await _facts_are_right(line, meetings, wanted)


async def _facts_are_right(line: Line, meetings: list[str], wanted: dict[str, str]) -> None:
    """Every registrant has exactly two facts, in order, with a reason; each meeting's are on one partition."""
    partitions, stories = defaultdict(set), defaultdict(list)
    for partition, fact in await facts(line):
        if fact.data["meetingId"] in meetings:
            partitions[fact.partitionkey].add(partition)
            stories[fact.data["id"]].append(fact)
    assert {len(found) for found in partitions.values()} == {1}
    assert set(stories) == set(wanted)
    for id_, story in stories.items():
        ending = {"pending": "held"}.get(wanted[id_], wanted[id_])
        assert [fact.type.split(".")[2] for fact in story] == ["registered", ending]
        assert story[1].data["decision"]["by"] == "policy"
        assert story[1].data["decision"]["reason"]


async def test_kill_9_in_the_middle(line: Line) -> None:
    """A process killed in the middle of its decisions, and started again, comes to the same end; nobody is decided twice."""
    meetings = await five_meetings(line)
    wanted = await five_hundred_people(line, meetings)
    for meeting in meetings:
        await touch(line, meeting)
    await until(lambda: _begun(line))
    line.crash()
    await line.start()
    await until(lambda: settled(line, wanted))

    await _quiet(line)
    decided_once((await ledger(line))["effects"], wanted)
    assert await line.stop() == [0] * (1 if line.name == "journal" else 3)
    by_id = {fact.id: fact for _, fact in await facts(line)}
    told = Counter((fact.data["id"], fact.type.split(".")[2]) for fact in by_id.values())
    assert set(told.values()) == {1}
    ending = {id_: "held" if status == "pending" else status for id_, status in wanted.items()}
    assert {(id_, what) for id_, what in told if what != "registered"} == set(ending.items())


async def _begun(line: Line) -> bool:
    effects = (await ledger(line))["effects"].values()
    return any(effect["approved"] for effect in effects)


async def _quiet(line: Line) -> None:
    """Wait until nothing has been asked of Webex for two seconds."""
    calls, since = -1, time.monotonic()
    while time.monotonic() < since + 2:
        if calls != (calls := len((await ledger(line))["calls"])):
            since = time.monotonic()
        await asyncio.sleep(0.2)


async def test_a_host_is_not_overruled(line: Line) -> None:
    """Whoever a host puts back to pending stays so, before and after a restart."""
    meeting = await schedule(line, "Partner day")
    (person,) = await register(line, meeting, 1, "partner.example")
    await touch(line, meeting)
    await until(lambda: settled(line, {person: "approved"}))
    await until(lambda: _logged(line, "registrant.approved", person))
    await lines.call(line, "POST", f"/v1/meetings/{meeting}/registrants/cancel", json={"registrants": [{"id": person}]})
    await touch(line, meeting)
    await until(lambda: _logged(line, "registrant.cancelled", person))

    line.crash()
    await line.start()
    other = await register(line, meeting, 1, "partner.example")
    await touch(line, meeting)
    await until(lambda: settled(line, {other[0]: "approved"}))

    effect = (await ledger(line))["effects"][person]
    assert (effect["status"], effect["approved"], effect["cancelled"]) == ("pending", 1, 1)


async def _logged(line: Line, what: str, registrant: str) -> bool:
    return any(f'"event": "{what}"' in each and registrant in each for each in line.printed().splitlines())


async def test_nothing_personal_or_secret_is_printed(line: Line) -> None:
    """Over the whole run no log line, metric or error answer has an address, a name, a title, a token or a secret."""
    meeting = await schedule(line, "Canary-Title Summit")
    person = {"firstName": "Zebulon", "lastName": "Canaryson", "email": "canary.person@partner.example"}
    made = await lines.call(line, "POST", f"/v1/meetings/{meeting}/registrants", json=person)
    await touch(line, meeting)
    await until(lambda: settled(line, {made["id"]: "approved"}))
    body = notification(
        "meetingParticipants.joined",
        series=meeting,
        now=utc_now(),
        data={"email": "canary.guest@guest.example", "displayName": "Canary Guest"},
    )
    answers = [
        await lines.post(line, body),
        await lines.post(line, body, {"x-spark-signature": "0" * 40}),
        await lines.post(line, b'{"email": "canary.guest@guest.example"}'),
        await lines.post(line, body + b" " * 70_000),
        await lines.post(line, b"\xff\xfe canary.guest@guest.example Canaryson"),
        await line.client.get(f"{line.webhook}/canary.guest@guest.example"),
        await line.client.get(line.webhook, params={"token": lines.TOKEN}),
    ]
    assert [answer.status_code for answer in answers] == [204, 401, 204, 413, 204, 404, 405]
    scraped = [(await line.client.get(url)).text for url in line.metrics]
    line.crash()
    await line.start()
    await line.stop()

    seen = "\n".join(
        [line.printed(), *scraped, *(answer.text for answer in answers), *(str(a.headers) for a in answers)]
    )
    assert "registrant.approved" in seen
    assert "webex_events_webhooks_total" in seen
    canaries = ("canary", "zebulon", "@", "host@example", lines.TOKEN, lines.SECRET, "summit")
    assert [canary for canary in canaries if canary.lower() in seen.lower()] == []


async def test_kafka_away_for_twenty_seconds(kafka_clusters: ClusterFactory, topic_prefix: str, tmp_path: Path) -> None:
    """While Kafka is dead every webhook is answered 2xx from the journal, and in the end all are on the topics, in order.

    Webhooks come before it dies, all the while, and after it is back, until what came then is on the topics too.
    """
    cluster = kafka_clusters(1)
    async with lines.closing(KafkaLine(tmp_path, cluster.bootstrap, topic_prefix)) as line:
        await line.start()
        stream = Stream(line)
        async with stream.going():
            await stream.arrives()
            cluster.brokers[0].kill()
            before = len(stream.sent)
            await asyncio.sleep(20)
            assert len(stream.sent) > before + 200
            cluster.brokers[0].start()
            await cluster.ready()
            await stream.arrives()
        sent = stream.sent

        assert {status for _, _, status in sent} == {204}
        await until(lambda: _all_on_topics(line, {id_ for _, id_, _ in sent}), within=60)
        assert await _first_occurrences(line) == _by_series(sent)


@dataclass
class Stream:
    """One webhook every 25 ms, over ten meetings, one at a time for each."""

    line: Line
    #: ``(series, marker, status)``, as they were answered.
    sent: list[tuple[str, str, int]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        """While the block runs."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as meetings:
            for number in range(10):
                meetings.create_task(self._one_meeting(f"{number:032x}", over))
            try:
                yield
            finally:
                over.set()

    async def _one_meeting(self, series: str, over: asyncio.Event) -> None:
        for count in itertools.count():
            if over.is_set():
                break
            marker = f"{series}-{count}"
            body = notification("meetings.updated", series=series, now=utc_now(), data={"timezone": marker})
            self.sent.append((series, marker, (await lines.post(self.line, body)).status_code))
            await asyncio.sleep(0.25)

    async def arrives(self) -> None:
        """Wait for a hundred more, and for all up to these to be on the topics."""
        enough = len(self.sent) + 100

        async def answered() -> bool:
            return len(self.sent) >= enough

        await until(answered)
        markers = {marker for _, marker, _ in self.sent}
        await until(lambda: _all_on_topics(self.line, markers), within=60)


async def _markers(line: Line) -> list[tuple[str, str]]:
    found = [event.decode(record.value or b"") for record in await line.records("meetings")]
    return [(one.partitionkey, str(one.data.get("timezone"))) for one in found]


async def _all_on_topics(line: Line, markers: set[str]) -> bool:
    return markers <= {marker for _, marker in await _markers(line)}


async def _first_occurrences(line: Line) -> dict[str, list[str]]:
    order: dict[str, list[str]] = defaultdict(list)
    for series, marker in await _markers(line):
        if marker.startswith(series) and marker not in order[series]:
            order[series].append(marker)
    return dict(order)


def _by_series(sent: list[tuple[str, str, int]]) -> dict[str, list[str]]:
    order: dict[str, list[str]] = defaultdict(list)
    for series, marker, _ in sent:
        order[series].append(marker)
    return dict(order)
