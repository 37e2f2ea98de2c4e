"""What becomes of one request to the webhook's route, whichever way it came: verify, understand, make durable, answer.

Everything here is a plain call: no task, no future, no timer belongs to a request. Whoever has a complete request calls
:meth:`Endpoint.take`, and gets the answer by a call back, once the publisher has called back.

What comes in one turn of the loop is served together, step by step: all signatures, then what all of them mean, then all
are offered. The processor has the code and the data of a step at hand while it is done for many, and would fetch them
anew for each request that goes through all steps by itself (docs/performance.md has what that costs).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Protocol

import msgspec
import structlog

from service.core.errors import BadSignature, CannotStore, Overloaded, RequestRefused, whereabouts
from service.core.message import Message
from service.core.notification import Accepted, Delivery, accepted
from service.core.organizations import SINGLE, Organizations
from service.core.signature import Secret, SignatureMode, Verifier
from service.receiver.admission import Admission
from service.receiver.answers import STORED, Answer, refused
from service.receiver.request import Headers, Pairs, as_headers, as_pairs, check
from service.receiver.tracing import Sparing, Tracing

PATH = "/webhooks/webex"

#: Seconds from one look at those that wait to the next.
_SWEEP = 0.25

#: So many requests, or bodies of so many bytes, are served before the end of the turn: the publisher's store is at work on them
#: while the others are still read, and nothing large waits.
GROUP = 24
_GROUP_BYTES = 64 * 1024

#: Live secrets, the same object until one of them changes; never empty.
Secrets = Callable[[], Sequence[Secret]]


class Publisher(Protocol):
    """Makes records durable."""

    def offer(self, messages: Sequence[Message], done: Callable[[Exception | None], None]) -> object:
        """Take them; ``done(None)`` once all are durable, ``done(error)`` when that cannot be.

        ``done`` is never called before this has returned. Raises CannotStore where that is known at once.
        """

    def withdraw(self, offer: object) -> None:
        """Nobody waits any more: what is not handed over is not sent, and ``done`` is not called."""

    def flush(self) -> None:
        """What was offered had better not wait for more."""


class Observer(Protocol):
    """Counts what the receiver does."""

    def webhook_answered(self, status: int) -> None:
        """A request got this answer."""

    def webhook_refused(self, reason: str) -> None:
        """A request to the one route was refused for this reason: ``badSignature``, ``cannotStore``, ``overloaded`` …"""

    def secret_matched(self, name: str) -> None:
        """The secret of this name made the signature."""

    def webhook_stored(self, status: int, topic: str, seconds: float) -> None:
        """An event became durable, so long after its signature was verified, and its request got this answer."""

    def notification_quarantined(self, reason: str) -> None:
        """A signed notification was not understood, and kept."""


class Rejections(Protocol):
    """Remembers requests that were refused with 401, so that an operator can find out why."""

    def keep(self, *, reason: str, headers: Pairs, body: bytes, source: str) -> None:
        """Cheap, bounded, and never raises."""


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take."""

    body_bytes: int = 64 * 1024
    body_seconds: float = 10.0
    #: Longer than the publisher's own deadline; it only matters where the publisher breaks its promise.
    publish_seconds: float = 4.5
    #: Events that may wait for durability side by side: what comes at 5 000/s in the two seconds after which the journal
    #: takes over from Kafka. An event with its hint has about 2 KiB, so they are well within the publisher's own 64 MiB;
    #: and connections come to their cap first, unless requests are pipelined. Where more come than can be stored, far fewer
    #: may wait: service.receiver.admission.
    publishing: int = 10_000
    #: Seconds that the oldest of them may have waited: longer than the publisher takes for anybody (Kafka has two, and where
    #: the journal has failed two more). Then it keeps no promise at all, and whoever comes now would wait in vain. Less would
    #: let one partition without a leader keep everybody else out.
    waiting_seconds: float = 4.25


class InternalError(RequestRefused):
    """A bug of ours, met before the signature was verified."""

    http_status = 500
    title = "Something is wrong on this side"


class WrongOwner(BadSignature):
    """A live secret made the signature, but it belongs to another organisation or registration."""


class StoreTooSlow(CannotStore):
    """The publisher broke its promise to answer in time. It may have been stored all the same; a repeat has the same id."""


class StoreFailed(CannotStore):
    """A bug of ours, met after the signature was verified."""


class Ticket(msgspec.Struct, eq=False):
    """A request and what becomes of it; the moments (s) are those of all that are served together: ``verified`` is when the
    last of them was.

    Its headers and its body are let go of as soon as its event is on its way to durability.
    """

    headers: Headers
    body: bytes
    answer: Callable[[Answer], None]
    source: str
    begun: float = 0.0
    verified: float = 0.0
    understood: float = 0.0
    traceparent: bytes | None = None
    sampled: bool = False
    signed_by: str = ""
    offer: object = None


#: What a body, the ``traceparent`` that goes with it (of W3C's form) and the time of its arrival, as events carry it, mean.
#: Never raises.
Understand = Callable[[bytes, str, str], Accepted]


def understanding(*, receiver: str, organizations: Organizations = SINGLE) -> Understand:
    """For an instance of this name, as events carry it; ``organizations`` are those whose work the events may be."""

    def understand(body: bytes, traceparent: str, received: str) -> Accepted:
        return accepted(Delivery(body, received, receiver, traceparent), organizations)

    return understand


class Endpoint:
    """``POST /webhooks/webex``. :meth:`keep` has to run beside it."""

    def __init__(  # noqa: PLR0913 - the collaborators are named one by one, where they are plugged together
        self,
        *,
        publisher: Publisher,
        secrets: Secrets,
        mode: SignatureMode,
        understand: Understand,
        now: Callable[[], str],
        observe: Observer,
        limits: Limits = Limits(),
        tracing: Tracing | None = None,
        rejections: Rejections | None = None,
        soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """``now`` is the time as events carry it; ``soon`` has something done at the end of this turn of the loop."""
        self.limits, self._most = limits, limits.body_bytes
        self._publisher, self._observe, self._rejections = publisher, observe, rejections
        self._secrets, self._mode = secrets, mode
        self._live: Sequence[Secret] | None = None
        self._verifier: Verifier
        self._understand, self._now, self._tracing = understand, now, tracing or Tracing()
        self._soon = soon or asyncio.get_running_loop().call_soon
        self._taken: list[Ticket] = []
        self._bytes = 0  # of their bodies
        self._expected = False  # at the end of this turn
        self._waiting: Admission[Ticket] = Admission(most=limits.publishing, seconds=limits.waiting_seconds)
        self._lines = Sparing()
        self._log = structlog.get_logger()

    # --- what is asked of it ------------------------------------------------------------------------------------------

    def take(self, headers: Headers, body: bytes, answer: Callable[[Answer], None], source: str = "") -> Ticket:
        """A request that is complete, from ``source`` (an address). Never raises; ``answer`` is called exactly once, maybe
        at once.
        """
        if not self._expected:
            self._expected = True
            self._soon(self._turn)
        ticket = Ticket(headers, body, answer, source)
        self._taken.append(ticket)
        self._bytes += len(body)
        if len(self._taken) >= GROUP or self._bytes > _GROUP_BYTES:
            self._serve()
        return ticket

    def refuse(self, error: Exception, answer: Callable[[Answer], None]) -> None:
        """A request that never became complete; ``error`` is a RequestRefused, else a bug of ours. Never raises."""
        self._refuse(error, InternalError, answer)

    def elsewhere(self, answer: Answer) -> Answer:
        """``answer``, which is for a request to another route, or with another method."""
        self._observe.webhook_answered(answer.status)
        self._tell(self._log.info, "noSuchMethod" if answer.status == 405 else "noSuchRoute", answer.status)
        return answer

    def give_up(self, ticket: Ticket) -> Answer:
        """Nobody can wait for it any longer. What is to be answered instead; nobody is called back."""
        refusal = StoreTooSlow()
        if ticket in self._taken:
            self._taken.remove(ticket)
            self._bytes -= len(ticket.body)
            self._count_refusal(refusal)
        elif self._waiting.remove(ticket):
            try:
                self._publisher.withdraw(ticket.offer)
            except Exception as bug:  # noqa: BLE001 - as above
                self._failed(bug)
            self._count_refusal(refusal)
        return refused(refusal)

    async def keep(self) -> None:
        """Answer, again and again, those for whom the publisher broke its promise. Never ends."""
        while True:
            await asyncio.sleep(_SWEEP)
            self.sweep(monotonic())

    def sweep(self, now: float) -> None:
        """Answer those who have waited for longer than ``publish_seconds``, oldest first."""
        for ticket in self._waiting.since_before(now - self.limits.publish_seconds):
            self._hand(ticket.answer, self.give_up(ticket))

    # --- step by step -------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._expected = False
        if self._taken:
            self._serve()

    def _serve(self) -> None:
        """Whatever was taken."""
        taken, self._taken, self._bytes = self._taken, [], 0
        if (signed := self._signed(taken)) and (understood := self._understood(signed)):
            self._offer(understood)

    def _signed(self, tickets: Sequence[Ticket]) -> list[tuple[Ticket, Secret]]:
        """Those with the signature of a live secret; the others are refused."""
        most, begun = self._most, monotonic()
        try:
            live, signer = self._live_verifier()
        except Exception as error:  # noqa: BLE001 - the border: anything may be wrong behind it, and Webex wants an answer
            return self._none_of(tickets, error, InternalError)
        found: list[tuple[Ticket, Secret]] = []
        for ticket in tickets:
            try:
                body, headers = ticket.body, ticket.headers
                fields = headers if isinstance(headers, dict) else as_headers(headers)
                ticket.traceparent = check(fields, len(body), most=most)
                secret = live[signer(body, fields)]
                ticket.begun = begun
            except Exception as error:  # noqa: BLE001 - as above
                self._turn_away(ticket, error, InternalError)
            else:
                found.append((ticket, secret))
        return found

    def _live_verifier(self) -> tuple[Sequence[Secret], Callable[[bytes, Headers], int]]:
        """The live secrets, and what tells which of them signed (BadSignature: none)."""
        live = self._secrets()
        if live is not self._live:
            self._verifier, self._live = Verifier([each.value for each in live], mode=self._mode), live
        return live, self._verifier.signer

    def _understood(self, signed: Sequence[tuple[Ticket, Secret]]) -> list[tuple[Ticket, Accepted]]:
        """Those that may wait for the publisher, with what they mean; the others are refused. After a good signature there is
        only 2xx or 503, because Webex gives up on a webhook that gets too many others; only one whose secret is another's is
        told so.
        """
        verified, begin, understand = monotonic(), self._tracing.begin, self._understand
        try:
            received, admitted = self._now(), self._waiting.admit(verified, len(signed))
        except Exception as error:  # noqa: BLE001 - as above
            return self._none_of([ticket for ticket, _ in signed], error, StoreFailed)
        for ticket, _ in signed[admitted:]:
            self._turn_away(ticket, Overloaded(), StoreFailed)
        found: list[tuple[Ticket, Accepted]] = []
        for ticket, secret in signed[:admitted]:
            try:
                traceparent, ticket.sampled = begin(ticket.traceparent)
                accepted = understand(ticket.body, traceparent, received)
                ticket.signed_by = _name_for(secret, accepted)
                ticket.verified = verified
            except Exception as error:  # noqa: BLE001 - as above
                self._turn_away(ticket, error, StoreFailed)
            else:
                found.append((ticket, accepted))
        return found

    def _offer(self, understood: Sequence[tuple[Ticket, Accepted]]) -> None:
        """To the publisher, all that they mean; those whom it does not take are refused."""
        now, offer, add = monotonic(), self._publisher.offer, self._waiting.add
        for ticket, meant in understood:
            try:
                self._observe.secret_matched(ticket.signed_by)
                ticket.understood = now
                ticket.offer = offer(meant.messages, partial(self._settled, ticket, meant))
            except Exception as error:  # noqa: BLE001 - as above
                self._turn_away(ticket, error, StoreFailed)
            else:
                add(ticket)
                ticket.headers, ticket.body = (), b""
        try:
            self._publisher.flush()
        except Exception as bug:  # noqa: BLE001 - as above; those who are not called back are answered by the sweep
            self._failed(bug)

    def _none_of(self, tickets: Sequence[Ticket], error: Exception, otherwise: type[RequestRefused]) -> list[Any]:
        for ticket in tickets:
            self._turn_away(ticket, error, otherwise)
        return []

    def _turn_away(self, ticket: Ticket, error: Exception, otherwise: type[RequestRefused]) -> None:
        self._remember(self._refuse(error, otherwise, ticket.answer), ticket)

    def _settled(self, ticket: Ticket, accepted: Accepted, error: Exception | None) -> None:
        """The publisher calls back."""
        now = monotonic()
        if not (self._waiting.served(ticket, now) if error is None else self._waiting.remove(ticket)):
            return  # it was given up
        ticket.offer = None  # which knows this ticket: a ring that only the collector could open
        if error is not None:
            self._refuse(error, StoreFailed, ticket.answer)
            return
        try:
            ticket.answer(STORED)
        except Exception as bug:  # noqa: BLE001 - the border towards whoever sends it
            self._failed(bug)
        observe = self._observe
        try:
            observe.webhook_stored(STORED.status, accepted.messages[0].topic, now - ticket.verified)
            if accepted.quarantined:
                observe.notification_quarantined(str(accepted.event.data.get("reason")))
            if ticket.sampled:
                self._log_accepted(ticket, accepted, now)
        except Exception as bug:  # noqa: BLE001 - the border again: the publisher has others to call
            self._failed(bug)

    def _log_accepted(self, ticket: Ticket, accepted: Accepted, now: float) -> None:
        self._log.info(
            "webhook.accepted",
            id=accepted.event.id,
            type=accepted.event.type,
            topic=accepted.messages[0].topic,
            quarantined=accepted.quarantined,
            signed_by=ticket.signed_by,
            verify_ms=_ms(ticket.begun, ticket.verified),
            understand_ms=_ms(ticket.verified, ticket.understood),
            durable_ms=_ms(ticket.understood, now),
        )

    # --- what is refused ----------------------------------------------------------------------------------------------

    def _refuse(
        self, error: Exception, otherwise: type[RequestRefused], answer: Callable[[Answer], None]
    ) -> RequestRefused:
        """What must not happen becomes ``otherwise``."""
        if isinstance(error, RequestRefused):
            refusal = error
        else:
            self._failed(error)
            refusal = otherwise()
        self._hand(answer, refused(refusal))
        self._count_refusal(refusal)
        return refusal

    def _hand(self, answer: Callable[[Answer], None], reply: Answer) -> None:
        try:
            answer(reply)
        except Exception as bug:  # noqa: BLE001 - the border towards whoever sends it
            self._failed(bug)

    def _count_refusal(self, refusal: RequestRefused) -> None:
        try:
            self._observe.webhook_answered(refusal.http_status)
            self._observe.webhook_refused(_code(refusal))
            self._tell(self._log.warning, _code(refusal), refusal.http_status)
        except Exception as bug:  # noqa: BLE001 - the answer is given, and whoever called has others to serve
            self._failed(bug)

    def _remember(self, refusal: RequestRefused, ticket: Ticket) -> None:
        if self._rejections is None or not isinstance(refusal, BadSignature):
            return
        try:
            headers = as_pairs(ticket.headers)
            self._rejections.keep(reason=_code(refusal), headers=headers, body=ticket.body, source=ticket.source)
        except Exception as bug:  # noqa: BLE001 - as above: those who are served with it have done nothing
            self._failed(bug)

    def _tell(self, say: Callable[..., object], reason: str, status: int) -> None:
        left_out = self._lines.left_out(reason)
        if left_out is not None:
            more = {"left_out": left_out} if left_out else {}
            say("webhook.refused", status=status, reason=reason, **more)

    def _failed(self, bug: Exception) -> None:
        """Log where it happened, and not what it says: that may hold personal data. Never raises: where nothing can be logged,
        webhooks are served all the same.
        """
        with contextlib.suppress(Exception):
            if self._lines.left_out(type(bug).__name__) is not None:
                self._log.error("webhook.failed", error=type(bug).__name__, at=whereabouts(bug))


def _name_for(secret: Secret, accepted: Accepted) -> str:
    """The name under which it may sign this. Raises WrongOwner."""
    name = secret.name_for(accepted.org_id, accepted.registration, quarantined=accepted.quarantined)
    if name is None:
        raise WrongOwner
    return name


def _ms(begun: float, ended: float) -> float:
    return round((ended - begun) * 1000, 3)


def _code(refusal: RequestRefused) -> str:
    """``BadSignature`` → ``badSignature``: a name for logs."""
    name = type(refusal).__name__
    return name[0].lower() + name[1:]
