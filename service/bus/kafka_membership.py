"""The inside of an aiokafka consumer: what it knows and does not tell. Private names of aiokafka 0.14, all of them here.

* A task of aiokafka's that ends is missed by nobody: without its fetcher a consumer is silent for ever, without its
  heartbeat it is thrown out of the group, and its coordinator goes round and round in vain.
* A heartbeat that was answered is the only proof that the group still counts us in.
* A commit that waits for its coordinator is sent under whatever membership there is by then: under none, where the group
  takes it as that of a stranger, or under the next one, which may not have the partition any more (aio-libs/aiokafka#929).
* A static member that was thrown out because another process took its name joins again, and throws that one out.

tests/kafka/test_membership.py goes through this on a real broker: names that another version has no more are found there.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiokafka.client import ConnectionGroup
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.protocol.admin import DescribeGroupsRequest

#: Seconds to let go of a client in order, then for what is left of it; and for the question who has our name.
STOP = 2.0
LEFT_OVER = 0.5
ASK = 3.0

#: A static member's id is its name, a hyphen and a UUID (Apache Kafka, GroupMetadataManager).
_UUID_AND_HYPHEN = 37


class Membership:
    """The membership of one client, which is started and not subscribed yet. ``instance`` is its static name, None without."""

    def __init__(self, client: Any, *, group: str, instance: str | None) -> None:
        self._client, self._group, self._instance = client, group, instance
        self._coordinator = client._coordinator
        self._ask_heartbeat, self._coordinator._do_heartbeat = self._coordinator._do_heartbeat, self._heartbeat
        self._send_commit, self._coordinator._do_commit_offsets = self._coordinator._do_commit_offsets, self._commit
        self._identity: tuple[int, str] | None = None
        self._names: set[str] = set()  # the ids that the group gave us
        self._confirmed = float("-inf")

    def begin(self) -> None:
        """We have partitions: from now on there can be commits, by this membership only."""
        self._identity = self._present
        self._names.add(self._coordinator.member_id)
        self._confirmed = time.monotonic()

    def end(self) -> None:
        """We have none any more."""
        self._identity = None

    @property
    def _present(self) -> tuple[int, str]:
        return self._coordinator.generation, self._coordinator.member_id

    @property
    def lost(self) -> bool:
        """The membership under which we got our partitions is over: nothing may be committed."""
        return self._identity is None or self._identity != self._present

    @property
    def thrown_out(self) -> bool:
        """The group did not know us when it was asked last."""
        return bool(self._names) and not self._coordinator.member_id

    def unconfirmed(self) -> float:
        """Seconds since a heartbeat was sent that the group answered well."""
        return time.monotonic() - self._confirmed

    async def _heartbeat(self) -> bool:
        asked = time.monotonic()
        well = bool(await self._ask_heartbeat())
        if well:
            self._confirmed = asked
        return well

    async def _commit(self, assignment: Any, offsets: Any) -> None:
        if self.lost:  # aiokafka builds the request before it waits for anything: nothing comes in between
            raise CommitFailedError("the membership is over")
        await self._send_commit(assignment, offsets)

    def is_hidden(self, topic: str) -> bool:
        """We may not even know whether there is such a topic; if so, the cluster is asked once more, for the next time."""
        inner = self._client._client
        if topic not in inner.cluster.unauthorized_topics:
            return False
        inner.force_metadata_update()
        return True

    def position(self, place: Any) -> int | None:
        """The offset that is fetched next, None while nobody knows."""
        state = self._state(place)
        return state.position if state is not None and state.has_valid_position else None

    def end_offset(self, place: Any) -> int | None:
        """Where the partition ended when it was fetched last, None before."""
        state = self._state(place)
        return None if state is None else state.highwater

    def _state(self, place: Any) -> Any:
        subscription = self._client._subscription.subscription
        present = subscription.assignment if subscription is not None else None
        return present.state_value(place) if present is not None else None

    def dead(self) -> str:
        """The task of aiokafka's that has ended though it must not have, "" where all live.

        Between two assignments tasks come and go: only what is dead twice, a second apart, is dead.
        """
        tasks = {
            "coordinator": self._coordinator._coordination_task,
            "fetcher": self._client._fetcher._fetch_task,
            "metadata": self._client._client._sync_task,
        }
        if self._settled:
            tasks["heartbeat"] = self._coordinator._heartbeat_task
            tasks["offsets"] = self._coordinator._commit_refresh_task
        dead = [name for name, task in tasks.items() if task is None or task.done()]
        deaf = any(c.connected() and c._read_task.done() for c in self._client._client._conns.values())
        return dead[0] if dead else "connection" if deaf else ""

    @property
    def _settled(self) -> bool:
        """aiokafka has an assignment, and no reason to join again."""
        subscription = self._client._subscription.subscription
        if (
            subscription is None
            or subscription.assignment is None
            or self._client._subscription.reassignment_in_progress
        ):
            return False
        return subscription.assignment.active and not self._coordinator._rejoin_needed_fut.done()

    async def usurper(self) -> str | None:
        """The address of the other process that has our static name in the group; None where there is none, or nobody says."""
        node = self._coordinator.coordinator_id
        if self._instance is None or node is None:
            return None
        asked = DescribeGroupsRequest([self._group])
        try:
            async with asyncio.timeout(ASK):
                answer = await self._client._client.send(node, asked, group=ConnectionGroup.COORDINATION)
        except (KafkaError, TimeoutError):
            return None
        for _, _, _, _, _, members, *_ in answer.groups:
            for id_, _, host, *_ in members:
                if id_[:-_UUID_AND_HYPHEN] == self._instance and id_ not in self._names:
                    return str(host).lstrip("/")
        return None


async def close(client: Any) -> None:
    """Let go of an aiokafka consumer, whatever state it is in, within 4 s: it leaves its group, and nothing of it goes on.

    ``stop()`` alone waits for a coordinator that does not answer, ends in the middle where one of its tasks had failed, and
    may raise CancelledError where one was cancelled. What it leaves behind would go on being a member for us.
    """
    await _finished(client.stop(), STOP)
    for task in (tasks := _tasks(client)):
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=LEFT_OVER)
    if (coordinator := client._coordinator) is not None and coordinator.generation > 0:
        await _finished(coordinator._maybe_leave_group(), LEFT_OVER)
    client._client._sync_task = None  # its error would keep the connections open
    await _finished(client._client.close(), LEFT_OVER)


def _tasks(client: Any) -> list[asyncio.Task[Any]]:
    """Those that still run; the errors of the others have been seen."""
    coordinator, fetcher = client._coordinator, client._fetcher
    tasks = [client._client._sync_task]
    if coordinator is not None:
        tasks += [coordinator._coordination_task, coordinator._heartbeat_task, coordinator._commit_refresh_task]
    if fetcher is not None:
        tasks += [fetcher._fetch_task, *fetcher._pending_tasks]
    for task in [task for task in tasks if task is not None and task.done() and not task.cancelled()]:
        task.exception()
    return [task for task in tasks if task is not None and not task.done()]


async def _finished(work: Any, seconds: float) -> None:
    """Wait for it so long, then cancel it; what it raises is of no use to anybody."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
