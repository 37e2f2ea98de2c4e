"""The main job, end to end, on real input and on both buses: signed webhook → durable event → registrant approved."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
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
    calls = -1
    while calls != (calls := len((await ledger(line))["calls"])):  # noqa: ASYNC110 - seen from outside
        await asyncio.sleep(2)


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
    """While Kafka is dead every webhook is answered 2xx from the journal, and in the end all are on the topics, in order."""
    cluster = kafka_clusters(1)
    async with lines.closing(KafkaLine(tmp_path, cluster.bootstrap, topic_prefix)) as line:
        await line.start()
        sending = asyncio.create_task(_stream_of_webhooks(line, seconds=32))
        await asyncio.sleep(4)
        cluster.brokers[0].kill()
        await asyncio.sleep(20)
        cluster.brokers[0].start()
        await cluster.ready()
        sent = await sending

        assert {status for _, _, status in sent} == {204}
        await until(lambda: _all_on_topics(line, {id_ for _, id_, _ in sent}), within=60)
        assert await _first_occurrences(line) == _by_series(sent)


async def _stream_of_webhooks(line: Line, *, seconds: float) -> list[tuple[str, str, int]]:
    """``(series, marker, status)`` of one webhook every 25 ms, over ten meetings, one at a time for each."""
    sent: list[tuple[str, str, int]] = []

    async def one_meeting(number: int) -> None:
        series = f"{number:032x}"
        for count in range(int(seconds / 0.25)):
            marker = f"{series}-{count}"
            body = notification("meetings.updated", series=series, now=utc_now(), data={"timezone": marker})
            sent.append((series, marker, (await lines.post(line, body)).status_code))
            await asyncio.sleep(0.25)

    await asyncio.gather(*(one_meeting(number) for number in range(10)))
    return sent


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
