"""Stand-ins at the ports, for tests that are about something else. Where the real thing is quick, tests use that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from msgspec import structs

from service.core.errors import CannotStore, WebexError
from service.core.meetings import Meeting
from service.core.message import Message
from service.core.registrants import Registrant


class RecordingPublisher:
    """A publisher without a bus: keeps what it is given, raises ``error`` instead where there is one, waits for ``gate``."""

    def __init__(self, *, error: Exception | None = None, gate: asyncio.Event | None = None) -> None:
        self.batches: list[tuple[Message, ...]] = []
        self.error = error
        self.gate = gate

    async def publish(self, messages: Sequence[Message]) -> None:
        """Keep ``messages`` as one batch."""
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.batches.append(tuple(messages))


class FakeWebex:
    """The controllers' Webex port over a dictionary; ``failures`` come first, one for each call, None lets it through."""

    def __init__(self, *, series: str, title: str = "Partner day", registration: dict[str, Any] | None = None) -> None:
        self.fields: dict[str, Any] = {"id": series, "title": title, "registration": registration or {}}
        self.people: dict[str, Registrant] = {}
        self.failures: dict[str, list[WebexError | None]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.lagging = False
        self.gates: dict[str, asyncio.Event] = {}

    def register(self, id_: str, *, email: str = "", at: datetime, status: str = "pending") -> None:
        """Somebody registers."""
        email = email or f"{id_}@example.org"
        fields = {"id": id_, "status": status, "email": email, "registrationTime": at.isoformat()}
        self.people[id_] = Registrant(id=id_, status=status, email=email, registered=at, fields=fields)

    def set_status(self, id_: str, status: str) -> None:
        """A host, or an accepted call, changes a status."""
        one = self.people[id_]
        self.people[id_] = structs.replace(one, status=status, fields={**one.fields, "status": status})

    def hold(self, operation: str) -> asyncio.Event:
        """Calls of one operation wait for this event."""
        return self.gates.setdefault(operation, asyncio.Event())

    def made(self, operation: str) -> list[Any]:
        """The arguments of the calls of one operation."""
        return [arguments for name, arguments in self.calls if name == operation]

    async def _called(self, operation: str, arguments: Any) -> WebexError | None:
        self.calls.append((operation, arguments))
        if operation in self.gates:
            await self.gates[operation].wait()
        scripted = self.failures.get(operation)
        failure = scripted.pop(0) if scripted else None
        if failure is not None and not failure.maybe_done:
            raise failure
        return failure

    async def get_meeting(self, meeting_id: str, *, host_email: str = "") -> Meeting:
        """One meeting."""
        await self._called("get_meeting", meeting_id)
        return Meeting(id=meeting_id, title=self.fields["title"], fields=self.fields)

    async def list_registrants(
        self, meeting_id: str, *, since: datetime | None, now: datetime, host_email: str = ""
    ) -> list[Registrant]:
        """Those who registered after ``since``."""
        await self._called("list_registrants", since)
        return [one for one in self.people.values() if since is None or (one.registered and one.registered >= since)]

    async def query_registrants(
        self, meeting_id: str, emails: Sequence[str], *, host_email: str = ""
    ) -> list[Registrant]:
        """Those with these addresses; while ``lagging``, as they were."""
        await self._called("query_registrants", list(emails))
        shown = [one for one in self.people.values() if one.email in emails]
        return [structs.replace(one, status="pending") for one in shown] if self.lagging else shown

    async def change_status(
        self, meeting_id: str, verb: str, ids: Sequence[str], *, send_email: bool, host_email: str = ""
    ) -> None:
        """Approve or reject; a failure that may have happened did happen."""
        failure = await self._called("change_status", (verb, list(ids), send_email))
        for id_ in ids:
            self.set_status(id_, {"approve": "approved", "reject": "rejected"}[verb])
        if failure is not None:
            raise failure


class CountingObserver:
    """The controllers' Observer port: keeps what it is told."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.decisions: dict[str, int] = {}

    def looked(self, result: str) -> None:
        """A look ended."""
        self.looks.append(result)

    def decided(self, outcome: str, count: int) -> None:
        """So many were decided."""
        self.decisions[outcome] = self.decisions.get(outcome, 0) + count

    def restored(self, partition: int, entries: int) -> None:
        """Not counted."""

    def queue_depth(self, keys: int) -> None:
        """Not counted."""


class PickyPublisher:
    """A Publisher in front of another one: refuses what ``refuse`` says, as a bus that cannot store."""

    def __init__(self, publisher: Any, refuse: Callable[[Message], bool]) -> None:
        self._publisher, self.refuse = publisher, refuse

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publish all, or refuse all."""
        if any(map(self.refuse, messages)):
            raise CannotStore
        await self._publisher.publish(messages)
