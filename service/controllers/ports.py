"""What the controllers need of the rest of the program, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from service.controllers import guests
from service.core.commands import Answer
from service.core.meetings import Meeting
from service.core.message import Message, Received
from service.core.policy import Policy
from service.core.registrants import Registrant

Clock = Callable[[], datetime]
LivePolicy = Callable[[], Policy]

#: Called with the name of a loop at each of its turns.
Pulse = Callable[[str], None]


def unwatched(_: str) -> None:
    """A pulse that nobody takes."""


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

    def partition_of(self, key: str) -> int | None:
        """The partition in which records with this key stand; None as long as nobody knows."""

    async def consumed(self, partition: int) -> bool:
        """Whether the group has ever finished a record of the partition: its committed offset is beyond the start.

        Raises CannotStore where that cannot be found out now.
        """

    def unconfirmed(self) -> float:
        """Seconds since the group last said that we are a member of it; 0.0 where there cannot be another one."""

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

    async def get_registrant(self, meeting_id: str, registrant_id: str, *, host_email: str = "") -> Registrant:
        """One registrant. Raises WebexNotFound where there is none (any more)."""

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


class Meetings(Protocol):
    """The calls of Webex about meetings themselves. All raise WebexError."""

    async def get_meeting(self, meeting_id: str, *, host_email: str = "") -> Meeting:
        """One meeting series."""

    async def list_meetings(self, *, since: datetime, until: datetime, host_email: str = "") -> list[Meeting]:
        """The series that occur in this time, of the token's own user or of ``host_email``; ``fields`` as lists show them."""

    async def change_meeting(
        self,
        meeting_id: str,
        method: Literal["patch", "put"],
        fields: Mapping[str, Any],
        *,
        send_email: bool,
        host_email: str = "",
    ) -> None:
        """Change these fields (patch), or replace the meeting's settings by them (put)."""

    async def get_registration(self, meeting_id: str, *, host_email: str = "") -> Mapping[str, Any]:
        """The registration form."""

    async def update_registration(self, meeting_id: str, form: Mapping[str, Any], *, host_email: str = "") -> None:
        """Replace the registration form."""


class WebexApi(Webex, Meetings, Protocol):
    """Both."""


class Commanding(Protocol):
    """Any operation by its name."""

    async def call(self, name: str, parameters: Mapping[str, Any], body: Any = None) -> Answer:
        """One call. Raises WebexError; ValueError for one that could never be right."""


class Tenant(Protocol):
    """One organisation at Webex, with a client and a credential of its own."""

    @property
    def api(self) -> WebexApi:
        """The calls for it."""

    @property
    def sweeping(self) -> WebexApi:
        """The same calls, where nobody waits for the answer."""

    @property
    def commanding(self) -> Commanding:
        """Any operation, as commands ask for it."""

    @property
    def sponsoring(self) -> guests.Webex:
        """The calls that guest-to-guest meetings take."""

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

    def handled(self, what: str, seconds: float) -> None:
        """What an event (``look``) or a ``command`` asked for has ended, so long after it came."""

    def decided(self, outcome: str, count: int) -> None:
        """So many registrants were decided."""

    def restored(self, partition: int, entries: int) -> None:
        """A partition of the ledger is in memory."""

    def queue_depth(self, keys: int) -> None:
        """So many keys wait for a worker."""

    def organizations_parked(self, organizations: int) -> None:
        """So many organisations are parked: Webex does not accept their tokens."""

    def keys_parked(self, keys: int) -> None:
        """So many series wait for another try after a failure."""

    def swept_up(self, what: str, count: int) -> None:
        """A sweep found so many that no webhook had told of: ``meeting``, ``change`` (of a meeting), ``registrant``."""

    def letter_written(self, reason: str) -> None:
        """A record went to the dead letters."""

    def letters_waiting(self, topic: str, letters: int) -> None:
        """So many dead letters could not be written yet; the offsets of their records do not move."""

    def command_finished(self, operation: str, outcome: str) -> None:
        """A command has its outcome: ``succeeded``, ``failed``, ``refused``."""

    def meeting_changed(self, result: str) -> None:
        """A meeting rule wrote (``changed``), gave way to a person (``yielded``), or was ``parked``."""

    def writes_stopped(self, reason: str, organizations: int) -> None:
        """For so many organisations nothing is written to Webex: ``paused``, ``observeOnly``, ``policyHeld``."""
