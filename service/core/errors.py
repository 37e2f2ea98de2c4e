"""Every error of this program, drawn as a tree. A class says what should happen next, and the shells obey.

EventProcessorError
├── RequestRefused             the receiver answers ``http_status``
│   ├── MalformedRequest           400
│   ├── BadSignature               401
│   ├── BodyTooSlow                408
│   ├── BodyTooLarge               413
│   ├── UnsupportedMediaType       415
│   └── CannotStore                503, with ``retry_after``
│       └── Overloaded                 the same, before anything was tried
├── WebexError                 a controller obeys ``reaction``
│   ├── WebexThrottled             wait ``retry_after``, then try again    (429, 423)
│   ├── WebexUnavailable           back off, look, then try again          (5xx, network, timeout)
│   ├── WebexNotFound              look again later                        (404)
│   ├── WebexUnauthorized          the credential is at fault              (401, 403)
│   └── WebexRejected              permanent: will not succeed as it is    (other 4xx, unreadable answers)
│       └── WebexConflict              read again what is there, then decide   (409, 412)
├── NotOwner                   somebody else acts for that organisation now
├── WritesStopped              an operator, or a lost ledger, forbids writes to Webex for now
├── PolicyError                the file is refused, with line and column
├── SettingsError              exit code 2, every problem at once
├── KafkaUnavailable           Kafka did not answer in time; the same may be tried again
├── NameTaken                  another process has our name in the consumer group: this one ends
├── RecordRefused              Kafka will never take this record as it is
└── JournalError               the journal cannot be trusted or opened
    ├── JournalFull                no room for more now; reading and removing go on, and make some
    └── JournalInUse               another process has it: a mistake, never a fault of the disk
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Reaction(enum.Enum):
    """What a controller does about an error of one meeting."""

    RETRY = "retry"
    RETRY_AFTER = "retryAfter"
    LOOK_AGAIN = "lookAgain"
    CREDENTIALS = "credentials"
    PERMANENT = "permanent"


class EventProcessorError(Exception):
    """Root of the tree: anything else that reaches a border is a bug of ours."""


class RequestRefused(EventProcessorError):
    """A request that is answered with ``http_status`` and a problem document (RFC 9457)."""

    http_status: int
    title: str
    #: Seconds after which the sender may try again, where that helps.
    retry_after: int | None = None


class MalformedRequest(RequestRefused):
    """The framing does not fit the body."""

    http_status = 400
    title = "The request is malformed"


class BadSignature(RequestRefused):
    """No signature, or none that one of the live secrets made over these bytes."""

    http_status = 401
    title = "The signature is missing or wrong"


class BodyTooSlow(RequestRefused):
    """The body did not arrive within the deadline."""

    http_status = 408
    title = "The body took too long to arrive"


class BodyTooLarge(RequestRefused):
    """More bytes than a Webex notification can have."""

    http_status = 413
    title = "The body is too large"


class UnsupportedMediaType(RequestRefused):
    """Not JSON, or encoded (compressed)."""

    http_status = 415
    title = "Only unencoded application/json is accepted"


class CannotStore(RequestRefused):
    """Neither Kafka nor the journal could make it durable within the deadline; the sender should try again."""

    http_status = 503
    title = "The event cannot be stored now"

    def __init__(self, message: str = "", *, retry_after: int = 5) -> None:
        super().__init__(message or self.title)
        self.retry_after = retry_after


class Overloaded(CannotStore):
    """Too many events wait to become durable already; nothing was tried with this one."""


class WebexError(EventProcessorError):
    """Webex did not do as asked. ``status`` is the HTTP status, or None where no answer came.

    ``maybe_done`` is true where the effect may have happened all the same: look before trying again.
    """

    reaction: Reaction = Reaction.PERMANENT

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        tracking_id: str | None = None,
        retry_after: float | None = None,
        maybe_done: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.tracking_id = tracking_id
        self.retry_after = retry_after
        self.maybe_done = maybe_done


class WebexThrottled(WebexError):
    """429 or 423: not processed; nothing is sent again before ``retry_after`` seconds."""

    reaction = Reaction.RETRY_AFTER


class WebexUnavailable(WebexError):
    """5xx, no connection, no answer in time, or an answer cut short."""

    reaction = Reaction.RETRY


class WebexNotFound(WebexError):
    """404: gone, or not there yet (REST may lag a webhook by 10 minutes: Webhooks guide, "REST API sync")."""

    reaction = Reaction.LOOK_AGAIN


class WebexUnauthorized(WebexError):
    """401 or 403: the token, its scopes or ``hostEmail``."""

    reaction = Reaction.CREDENTIALS


class WebexRejected(WebexError):
    """Any other 4xx, or an answer that cannot be read: the same request will not succeed."""

    reaction = Reaction.PERMANENT


class WebexConflict(WebexRejected):
    """409 or 412: it is not in the state that the request supposed. Never repeated as it is: read it again, then decide."""

    reaction = Reaction.LOOK_AGAIN


class NotOwner(EventProcessorError):
    """This process may not act for that partition now; whoever may will look at the key again."""


class WritesStopped(EventProcessorError):
    """Nothing may be written to Webex for this organisation now; what is to be done waits.

    ``reason``: ``paused`` (an operator, by the policy file or by ``webex-events pause``), ``observeOnly`` (the ledger was
    found empty beside committed offsets), or ``policyHeld`` (a new version of the policy would change too much).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"nothing is written to Webex now: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file or a setting; ``line`` and ``column`` count from 1, 0 where there is none."""

    message: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}" if self.line else self.message


class _WithProblems(EventProcessorError):
    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class PolicyError(_WithProblems):
    """The policy file is refused; every problem with its place."""


class SettingsError(_WithProblems):
    """The settings are refused; every problem at once."""


class KafkaUnavailable(EventProcessorError):
    """Kafka did not answer in time; the same may be tried again."""


class NameTaken(EventProcessorError):
    """Another process is a member of the consumer group under the name that is ours. It has our partitions now."""


class RecordRefused(EventProcessorError):
    """Kafka will never take this record as it is: too large for its topic, or malformed."""


class JournalError(EventProcessorError):
    """The journal cannot be opened, or what it holds is not what was written."""


class JournalFull(JournalError):
    """There is no room for more now. Nothing was written; reading and removing go on, and make some."""


class JournalInUse(JournalError):
    """Another process has the journal open. Nothing was touched."""


def whereabouts(error: BaseException, *, most: int = 20) -> list[str]:
    """Where an unexpected ``error`` was raised, innermost frame last: ``service/receiver/app.py:12 store``.

    For logs: an error's message and a frame's locals may hold personal data or a secret, its class and places do not.
    """
    places = []
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        places.append(f"{'/'.join(code.co_filename.split('/')[-3:])}:{step.tb_lineno} {code.co_name}")
        step = step.tb_next
    return places[-most:]
