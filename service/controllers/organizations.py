"""Organisations that took their consent back, and those that gave it again.

A notification proves nothing by itself: it may be an old one, sent again, and its signature is still right. So whatever
says that an organisation no longer wants us, a ``serviceApp.deauthorized`` or a refused call, only leads to a question: one
cheap read with its token. Where that is refused with 401 or 403 the organisation is parked: nothing more is asked for it,
and its meetings wait, remembered by the ledger as dirty. It is taken up again when a token is accepted.

What is parked is not written down. After a restart, or under a new owner, the first refused call asks the question again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from service.controllers.backlog import Backlog
from service.controllers.ledger import Ledger, Place
from service.controllers.ports import Observer, Tenant
from service.core.errors import WebexError, WebexNotFound, WebexUnauthorized
from service.core.work import AUTHORIZED

_NEVER = float("-inf")


@dataclass(frozen=True)
class Pace:
    """Seconds. A replayed notification costs at most one read every ``again``; one token every ``renew``, or every
    ``renew_parked`` where there is none that works.

    A parked organisation is tried every ``retry``, since the webhook of a new consent may be lost, and within ``check``
    after an operator replaced its credential.
    """

    check: float = 5.0
    again: float = 10.0
    retry: float = 600.0
    renew: float = 3600.0
    renew_parked: float = 60.0


@dataclass
class _State:
    """What is known of one organisation; ``partition`` is None until it has work, and when that went to somebody else."""

    organization: str
    partition: int | None = None
    parked: bool = False
    authorized: bool = False  # a notification says so, and nobody looked yet
    version: str = ""  # of the credential, when it was last refused
    examined: float = _NEVER
    renewed: float = _NEVER
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def forget(self) -> None:
        self.partition, self.parked, self.authorized, self.examined = None, False, False, _NEVER
        self.wake.clear()


class OrganizationsController:
    """Knows for which organisations Webex may be called."""

    def __init__(
        self,
        *,
        tenants: Mapping[str, Tenant],
        ledger: Ledger,
        backlog: Backlog,
        observer: Observer,
        partition_of: Callable[[str], int | None] = lambda _: 0,
        pace: Pace = Pace(),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tenants, self._ledger, self._backlog, self._observer = tenants, ledger, backlog, observer
        self._partition_of, self._pace, self._monotonic = partition_of, pace, monotonic
        self._states = {organization: _State(organization) for organization in tenants}
        self._unconfigured: set[str] = set()
        self._log = structlog.get_logger()

    def places(self) -> list[Place]:
        """Where the organisations stand that this process owns, whether or not there was work for them yet."""
        partitions = {organization: self._partition_of(organization) for organization in self._tenants}
        return [
            self._ledger.place(organization, partition)
            for organization, partition in partitions.items()
            if partition is not None and self._ledger.owns(partition)
        ]

    def usable(self, place: Place) -> bool:
        """Whether Webex may be called for this organisation now: it is configured, and not parked."""
        state = self._of(place)
        return state is not None and not state.parked

    def told(self, place: Place, reason: str) -> None:
        """A notification is about the organisation itself: find out what is true."""
        state = self._of(place)
        if state is not None:
            state.authorized = state.authorized or reason == AUTHORIZED
            state.wake.set()

    def doubt(self, place: Place) -> None:
        """A call for the organisation was refused with 401 or 403: find out whether all are."""
        state = self._of(place)
        if state is not None and not state.parked:
            state.wake.set()

    def forget(self, partition: int) -> None:
        """The partition is somebody else's now, and with it the question."""
        for state in self._states.values():
            if state.partition == partition:
                state.forget()
        self._count()

    async def run(self) -> None:
        """Answer the questions as they come, for ever; no organisation waits for another one."""
        async with asyncio.TaskGroup() as tasks:
            for state in self._states.values():
                tasks.create_task(self._watch(state))

    def _of(self, place: Place) -> _State | None:
        state = self._states.get(place.organization)
        if state is not None:
            state.partition = place.partition
        elif place.organization not in self._unconfigured:
            self._unconfigured.add(place.organization)
            self._log.warning("organization.unconfigured", organization=place.organization)
        return state

    # --- when to ask ----------------------------------------------------------------------------------------------

    async def _watch(self, state: _State) -> None:
        while True:
            await self._due(state)
            try:
                await self._examine(state)
            except WebexError as error:  # neither yes nor no
                self._log.warning("organization.not_answered", **_about(state, error))
                state.wake.set()
                await asyncio.sleep(min(error.retry_after or 0.0, self._pace.retry))

    async def _due(self, state: _State) -> None:
        while not state.wake.is_set() and not self._worth_a_try(state):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.check if state.parked else None):
                    await state.wake.wait()
        await asyncio.sleep(max(0.0, state.examined + self._pace.again - self._monotonic()))
        state.wake.clear()

    def _worth_a_try(self, state: _State) -> bool:
        if not state.parked:
            return False
        replaced = self._tenants[state.organization].version() != state.version
        return replaced or self._monotonic() - state.examined >= self._pace.retry

    # --- asking ---------------------------------------------------------------------------------------------------

    async def _examine(self, state: _State) -> None:
        authorized, state.authorized = state.authorized, False
        tenant = self._tenants[state.organization]
        version, state.examined = tenant.version(), self._monotonic()
        if self._may_renew(state, authorized=authorized):
            await self._renew(state, tenant)
        refusal = await self._refusal(state, tenant)
        if state.partition is None:
            return  # it went to somebody else meanwhile
        if refusal is None:
            self._take_up(state)
        else:
            self._park(state, refusal, version)

    def _may_renew(self, state: _State, *, authorized: bool) -> bool:
        """Consent given anew needs a new token, and perhaps new scopes; but notifications can be replayed."""
        pause = self._pace.renew_parked if authorized and state.parked else self._pace.renew
        return (authorized or state.parked) and self._monotonic() - state.renewed >= pause

    async def _renew(self, state: _State, tenant: Tenant) -> None:
        state.renewed = self._monotonic()
        try:
            await tenant.renew()
        except WebexUnauthorized as error:  # the old token may still be good: the read tells
            self._log.warning("organization.not_renewed", **_about(state, error))
        else:
            self._log.info("organization.renewed", organization=state.organization)

    async def _refusal(self, state: _State, tenant: Tenant) -> WebexUnauthorized | None:
        """Why the organisation's token is no good, None where it is accepted. Raises WebexError where that is open.

        A 403 may also mean that the token's scopes do not cover the read, so a known meeting has to be refused too.
        """
        try:
            await tenant.probe()
        except WebexUnauthorized as error:
            if error.status != 403:
                return error
            return error if await self._refuses_known_meeting(state, tenant) else None
        return None

    async def _refuses_known_meeting(self, state: _State, tenant: Tenant) -> bool:
        """Whether it does; True also where there is none to ask for."""
        for _, series, memory in self._ledger.known():
            if memory.meeting is not None and memory.meeting.organization == state.organization:
                try:
                    await tenant.api.get_meeting(series, host_email=memory.meeting.host_email)
                except WebexNotFound:
                    return False
                except WebexUnauthorized:
                    return True
                return False
        return True

    # --- what follows ---------------------------------------------------------------------------------------------

    def _park(self, state: _State, refusal: WebexUnauthorized, version: str) -> None:
        state.version = version
        if not state.parked:
            self._log.error("organization.parked", **_about(state, refusal))
        state.parked = True
        self._count()

    def _take_up(self, state: _State) -> None:
        if not state.parked:
            self._log.info("organization.accepted", organization=state.organization)
            return
        state.parked = False
        self._backlog.resume(state.organization)
        self._log.info("organization.taken_up", organization=state.organization)
        self._count()

    def _count(self) -> None:
        self._observer.organizations_parked(sum(state.parked for state in self._states.values()))


def _about(state: _State, error: WebexError) -> dict[str, object]:
    return {
        "organization": state.organization,
        "error": type(error).__name__,
        "status": error.status,
        "tracking_id": error.tracking_id,
    }
