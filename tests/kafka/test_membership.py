"""The inside of aiokafka's consumer: its tasks that die, memberships that are over, and names that are taken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiokafka.protocol.group import LeaveGroupRequest
from structlog.testing import capture_logs

from service.bus.kafka import KafkaConsumer
from service.bus.kafka_membership import close
from service.bus.topics import TopicPlan
from service.core.errors import NameTaken
from tests.kafka.fixtures import ClusterFactory
from tests.kafka.foreign import committed, members
from tests.kafka.harness import Cluster
from tests.kafka.member import Member, member, until
from tests.kafka.records import create_topics, numbered, producing, send_all

#: What has died is missed within so many seconds.
NOTICED = 5.0


@asynccontextmanager
async def started(cluster: Cluster, prefix: str, *groups: str, **options: Any) -> AsyncIterator[list[Member]]:
    """A member of each group, which has the two partitions and ten records."""
    await create_topics(cluster, prefix, [TopicPlan(name="work", partitions=2)])
    async with producing(cluster, prefix) as producer, AsyncExitStack() as stack:
        await send_all(producer, [numbered(f"k{n}", 0) for n in range(10)])
        made = [member(cluster, prefix, group=group, **options) for group in groups]
        for each in made:
            await each.start()
            stack.push_async_callback(each.stop)
        await until(lambda: all(len(each.records) == 10 for each in made))
        yield made


def inside(consumer: KafkaConsumer) -> Any:
    """Its client of aiokafka's."""
    return consumer._client


# --- tasks that die ---------------------------------------------------------------------------------------------------


def _tasks(consumer: KafkaConsumer) -> dict[str, asyncio.Task[Any]]:
    """Every task on which it depends that records come, and that we stay a member."""
    client = inside(consumer)
    coordinator, fetcher = client._coordinator, client._fetcher
    connections = {f"connection {n}": conn._read_task for n, conn in enumerate(client._client._conns.values())}
    assert consumer._fetching is not None
    assert consumer._keeping is not None
    return {
        "coordinator": coordinator._coordination_task,
        "heartbeat": coordinator._heartbeat_task,
        "offsets": coordinator._commit_refresh_task,
        "fetcher": fetcher._fetch_task,
        "request": next(iter(fetcher._pending_tasks)),
        "metadata": client._client._sync_task,
        **connections,
        "our fetch": consumer._fetching,
        "our keeper": consumer._keeping,
    }


async def test_a_task_that_is_cancelled_is_missed_at_once(kafka: Cluster, topic_prefix: str) -> None:
    """Whichever it is: within 5 s the consumer begins anew, or goes on without it, and nothing of the old client is left."""
    names = ["coordinator", "heartbeat", "offsets", "fetcher", "request", "metadata", "our fetch", "our keeper"]
    names += ["connection 0", "connection 1"]
    async with started(kafka, topic_prefix, *names) as made:
        old = {name: (_all_tasks(inside(each.consumer))) for name, each in zip(names, made, strict=True)}
        clients = [inside(each.consumer) for each in made]
        for name, each in zip(names, made, strict=True):
            _tasks(each.consumer)[name].cancel()
        begun = time.monotonic()
        survive = {"our fetch", "our keeper", "request"}  # of these another one is made
        replaced = [n for n, name in enumerate(names) if name not in survive]
        await until(lambda: all(inside(made[n].consumer) is not clients[n] for n in replaced), NOTICED)
        noticed = time.monotonic() - begun
        await _all_go_on(kafka, topic_prefix, made)
        assert [len(await members(kafka, topic_prefix + name)) for name in names] == [1] * len(names)
        assert [inside(each.consumer) is None for each in made] == [False] * len(names)
        left = {names[n]: task for n in replaced for task in old[names[n]] if not task.done()}
        assert left == {}
        assert noticed <= NOTICED


def _all_tasks(client: Any) -> list[asyncio.Task[Any]]:
    coordinator = client._coordinator
    tasks = [coordinator._coordination_task, coordinator._heartbeat_task, coordinator._commit_refresh_task]
    return [*tasks, client._fetcher._fetch_task, *client._fetcher._pending_tasks, client._client._sync_task]


async def _all_go_on(cluster: Cluster, prefix: str, made: list[Member]) -> None:
    """What comes from now on is delivered to each."""
    async with producing(cluster, prefix) as producer:
        await send_all(producer, [numbered(f"k{n}", 1) for n in range(10)])
    await until(lambda: all(sum(record.value == b"1" for record in each.records) >= 10 for each in made))
    assert [each.early for each in made] == [[]] * len(made)


def _fail(*_: object, **__: object) -> Any:
    raise ZeroDivisionError


async def test_a_task_that_fails_is_missed_at_once(kafka: Cluster, topic_prefix: str) -> None:
    """The same where aiokafka has a bug, or a broker answers what it does not expect."""
    where: dict[str, Callable[[Any], tuple[Any, str]]] = {
        "coordinator": lambda client: (client._coordinator, "need_rejoin"),
        "heartbeat": lambda client: (client._coordinator, "_do_heartbeat"),
        "offsets": lambda client: (client._coordinator, "_maybe_refresh_commit_offsets"),
        "fetcher": lambda client: (client._fetcher, "_get_actions_per_node"),
        "request": lambda client: (client._fetcher, "_proc_fetch_request"),
        "metadata": lambda client: (client._client, "_metadata_update"),
    }
    async with started(kafka, topic_prefix, *where) as made:
        clients = [inside(each.consumer) for each in made]
        for find, client in zip(where.values(), clients, strict=True):
            holder, name = find(client)
            setattr(holder, name, _fail)
            client._client.force_metadata_update()
            client._subscription.subscription.assignment.commit_refresh_needed.set()
        clients[0]._coordinator.request_rejoin()
        begun = time.monotonic()
        await until(lambda: all(inside(e.consumer) is not c for e, c in zip(made, clients, strict=True)), NOTICED + 3)
        assert time.monotonic() - begun <= NOTICED + 3  # a heartbeat is due every 3 s, and fails then
        await _all_go_on(kafka, topic_prefix, made)


async def test_a_restore_that_is_cancelled_begins_anew(kafka: Cluster, topic_prefix: str) -> None:
    """Nothing would ever be delivered: whoever cancelled it, the partitions are taken up once more."""
    await create_topics(kafka, topic_prefix, [TopicPlan(name="work", partitions=2)])
    async with producing(kafka, topic_prefix) as producer:
        await send_all(producer, [numbered("k", 0)])
    one = member(kafka, topic_prefix, restore=0.5)
    await one.start()
    await until(lambda: one.consumer._assignment is not None)
    assert one.consumer._assignment is not None
    assert one.consumer._assignment.telling is not None
    one.consumer._assignment.telling.cancel()
    await until(lambda: len(one.records) == 1)
    await one.stop()


async def test_a_client_is_let_go_of_although_nobody_answers(kafka_clusters: ClusterFactory, topic_prefix: str) -> None:
    """With the broker frozen: within seconds, and none of its tasks goes on being a member."""
    cluster = kafka_clusters(1)
    async with started(cluster, topic_prefix, "g") as (one,):
        client = inside(one.consumer)
        tasks = _all_tasks(client)
        cluster.brokers[0].pause()
        try:
            begun = time.monotonic()
            await close(client)
            assert time.monotonic() - begun < 5
            assert [task for task in tasks if not task.done()] == []
            assert [conn for conn in client._client._conns.values() if conn.connected()] == []
        finally:
            cluster.brokers[0].resume()


# --- memberships that are over ----------------------------------------------------------------------------------------


async def test_nothing_is_committed_by_whoever_is_no_member_any_more(kafka: Cluster, topic_prefix: str) -> None:
    """The group is empty then, and would take the commit of a stranger: but meanwhile somebody may have gone further."""
    async with started(kafka, topic_prefix, "g", hold=True) as (one,):
        coordinator = inside(one.consumer)._coordinator
        left = LeaveGroupRequest(coordinator.group_id, coordinator.member_id)
        await coordinator._send_req(left)
        for record in list(one.records):
            one.consumer.finish(record)
        await one.consumer.commit()
        assert await committed(kafka, f"{topic_prefix}g") == {}
        await until(lambda: [kind for kind, _ in one.told].count("assigned") == 2)
        assert await committed(kafka, f"{topic_prefix}g") == {}
        await until(lambda: len(one.records) == 20)  # they come again


async def test_a_commit_that_waits_is_not_sent_under_another_membership(kafka: Cluster, topic_prefix: str) -> None:
    """aiokafka would send it when the coordinator is found, whoever we are by then."""
    async with started(kafka, topic_prefix, "g", hold=True) as (one,):
        coordinator = inside(one.consumer)._coordinator
        usual, generation = coordinator.ensure_coordinator_known, coordinator.generation

        async def much_later() -> None:
            coordinator.generation += 1
            await usual()

        coordinator.ensure_coordinator_known = much_later
        sent: list[object] = []
        coordinator._send_req = sent.append
        for record in list(one.records):
            one.consumer.finish(record)
        with capture_logs() as logs:
            await one.consumer.commit()
        del coordinator.ensure_coordinator_known, coordinator._send_req
        coordinator.generation = generation
        assert sent == []
        assert [line["reason"] for line in logs if line["event"] == "consumer.commit_failed"] == ["CommitFailedError"]
        await one.consumer.commit()
        assert sum((await committed(kafka, f"{topic_prefix}g")).values()) == 10


async def test_a_commit_at_the_revoke_is_the_last_one(kafka: Cluster, topic_prefix: str) -> None:
    """What the listener finished while it drained is committed; what comes later is not, though the poll loop asks for it."""
    async with started(kafka, topic_prefix, "g", hold=True) as (one,):
        held = sorted(one.records, key=lambda record: record.offset)
        first = [record for record in held if record.partition == held[0].partition]
        one.drain = lambda: one.consumer.finish(first[0])
        coordinator = inside(one.consumer)._coordinator
        rejoin = coordinator._do_rejoin_group

        async def rejoin_late(subscription: Any) -> Any:
            await asyncio.sleep(1.5)  # the group waits, and would take a commit of the generation before
            return await rejoin(subscription)

        coordinator._do_rejoin_group = rejoin_late
        other = member(kafka, topic_prefix, hold=True)
        await other.start()
        await until(lambda: ("revoked", frozenset({0, 1})) in one.told)
        await asyncio.sleep(0.5)
        for record in held:
            one.consumer.finish(record)
        await one.consumer.commit()
        await until(lambda: len(one.partitions) == 1 == len(other.partitions))
        await one.consumer.commit()
        assert await committed(kafka, f"{topic_prefix}g") == {first[0].partition: 1}
        await other.stop()


async def test_the_group_says_that_we_are_a_member(kafka_clusters: ClusterFactory, topic_prefix: str) -> None:
    """Every heartbeat does; while nobody answers, time passes."""
    cluster = kafka_clusters(1)
    async with started(cluster, topic_prefix, "g") as (one,):
        seen = []
        for _ in range(8):
            await asyncio.sleep(0.5)
            seen.append(one.consumer.unconfirmed())
        assert max(seen) < 4.5
        cluster.brokers[0].kill()  # now it answers, and that there is nobody
        await asyncio.sleep(6)
        assert one.consumer.unconfirmed() > 5
        cluster.brokers[0].start()
        await until(lambda: one.consumer.unconfirmed() < 3.5)
    assert member(cluster, topic_prefix).consumer.unconfirmed() == float("inf")


# --- names that are taken ---------------------------------------------------------------------------------------------


async def test_whoever_loses_its_name_ends_and_says_why(kafka: Cluster, topic_prefix: str) -> None:
    """Two processes with one instance id: the one that was there first ends, with one clear error; it does not take the
    name back, which would go on for ever.
    """
    async with started(kafka, topic_prefix, "g", instance_id="processor-0") as (first,):
        second = member(kafka, topic_prefix, instance_id="processor-0")
        await second.start()
        await until(lambda: first.ended is not None, 8)
        assert isinstance(first.ended, NameTaken)
        said = str(first.ended)
        assert all(word in said for word in ("127.0.0.1", f"{topic_prefix}g", "processor-0", "KAFKA__INSTANCE_ID"))
        with pytest.raises(NameTaken):
            await first.consumer.poll()
        before = await members(kafka, f"{topic_prefix}g")
        await asyncio.sleep(7)  # more than two heartbeats
        assert [kind for kind, _ in second.told] == ["assigned"]
        assert await members(kafka, f"{topic_prefix}g") == before
        assert len(before) == 1
        await second.stop()


async def test_a_static_member_that_was_only_forgotten_joins_again(kafka: Cluster, topic_prefix: str) -> None:
    """Thrown out for another reason than a namesake: the session was over, or the group's state was lost."""
    async with started(kafka, topic_prefix, "g", instance_id="processor-0") as (one,):
        coordinator = inside(one.consumer)._coordinator
        coordinator.reset_generation()
        await until(lambda: [kind for kind, _ in one.told] == ["assigned", "revoked", "assigned"], 8)
        assert one.ended is None
