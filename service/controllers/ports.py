"""What the controllers need of the rest of the program, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Literal, Protocol

from service.core.meetings import Meeting
from service.core.message import Message, Received
from service.core.policy import Policy
from service.core.registrants import Registrant

Clock = Callable[[], datetime]
LivePolicy = Callable[[], Policy]


class Publisher(Protocol):
    """Makes records durable."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return once all are durable. Raises CannotStore."""


class Listener(Protocol):
    """Told which partitions of ``work`` are ours."""

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Called before the first record of these partitions."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Called before they go to somebody else."""


class WorkConsumer(Protocol):
    """Reads ``work`` as a member of the processors' group."""

    async def start(self, listener: Listener) -> None:
        """Join."""

    async def poll(self) -> Sequence[Received]:
        """The next records; empty after about a second without any."""

    def finish(self, record: Received) -> None:
        """Nothing more is to be done for ``record``."""

    async def commit(self) -> None:
        """Commit what is contiguously finished."""

    async def stop(self) -> None:
        """Drain, commit, leave."""


class LedgerReader(Protocol):
    """Reads a partition of a compacted topic from its start."""

    def read(self, topic: str, partition: int) -> AsyncIterator[Received]:
        """Every record up to the end offset at the call."""


class Webex(Protocol):
    """The calls of Webex that the registrants controller makes. All raise WebexError."""

    async def get_meeting(self, meeting_id: str, *, host_email: str = "") -> Meeting:
        """One meeting series."""

    async def list_registrants(
        self, meeting_id: str, *, since: datetime | None, now: datetime, host_email: str = ""
    ) -> list[Registrant]:
        """Registrants who registered after ``since``, or all of them."""

    async def query_registrants(
        self, meeting_id: str, emails: Sequence[str], *, host_email: str = ""
    ) -> list[Registrant]:
        """The registrants with these addresses."""

    async def change_status(
        self,
        meeting_id: str,
        verb: Literal["approve", "reject"],
        ids: Sequence[str],
        *,
        send_email: bool,
        host_email: str = "",
    ) -> None:
        """One call for at most 100 registrants; a 204 says nothing about any one of them."""


class Tenant(Protocol):
    """One organisation at Webex, with a client and a credential of its own."""

    @property
    def api(self) -> Webex:
        """The calls for it."""

    async def probe(self) -> None:
        """One cheap read. Raises WebexError; WebexUnauthorized where its token is not accepted."""

    async def renew(self) -> None:
        """Have a token that was issued after this call, where there can be one. Raises WebexError."""

    def version(self) -> str:
        """Changes whenever an operator replaced the credential."""


class Observer(Protocol):
    """Counts what the controllers do."""

    def looked(self, result: str) -> None:
        """A look ended: ``finished``, ``noRegistration``, ``notFound``, ``failed``."""

    def decided(self, outcome: str, count: int) -> None:
        """So many registrants were decided."""

    def restored(self, partition: int, entries: int) -> None:
        """A partition of the ledger is in memory."""

    def queue_depth(self, keys: int) -> None:
        """So many keys wait for a worker."""

    def organizations_parked(self, organizations: int) -> None:
        """So many organisations are parked: Webex does not accept their tokens."""
