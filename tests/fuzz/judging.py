"""What must be true of the receiver, whatever it is sent: of ``verify``, of ``accept`` and of ``Endpoint.take``.

No bytes make any of them raise or take long. Every request is answered exactly once, with a 5xx only where the publisher
could not store. What is accepted is events that anybody can read, and no line of the log can be forged.
"""

from __future__ import annotations

import io
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from service.core import event as events
from service.core.errors import BadSignature, CannotStore, RecordRefused
from service.core.message import Message
from service.core.notification import Accepted, accept
from service.core.organizations import Organization, Organizations, organization_id
from service.core.signature import ANYBODY, Secret, SignatureMode, verify
from service.core.work import Hint
from service.receiver.answers import Answer
from service.receiver.endpoint import Endpoint, understanding
from service.receiver.tracing import Tracing
from service.telemetry.logging import configure
from service.telemetry.metrics import Metrics
from tests.core.test_samples import validator
from tests.fakes import Turn
from tests.fuzz import reference
from tests.fuzz.requests import BOUND, OWNER, SECRET, Request, Then

NOW = datetime(2026, 1, 10, 9, 0, tzinfo=UTC)

#: The longest that one request may keep the loop busy, in seconds of CPU (the goal is 2 ms; this is for any machine,
#: with the instrumentation of a fuzzer in the code).
LONGEST = 0.1

_SECRETS = (
    Secret(b"another-secret", {ANYBODY: "another"}),
    Secret(BOUND, {OWNER: "bound"}),
    Secret(SECRET, {ANYBODY: "first"}),
)
_VALUES = [each.value for each in _SECRETS]
_BOUND = _VALUES.index(BOUND)

_ORGANIZATIONS = Organizations((Organization("default"), Organization(OWNER, id=OWNER, name="second")))

#: 400, 413 and 415 for the headers and the length, 401 for the signature or its owner; nothing else without a 5xx.
_STATUSES = {204, 400, 401, 413, 415}


class Wrong(AssertionError):
    """Something that must be true was not."""


def demand(true: object, sentence: str) -> None:
    """Raises Wrong."""
    if not true:
        raise Wrong(sentence)


class _Publisher:
    """Does with what it is offered as it was told for this request."""

    def __init__(self) -> None:
        self.then = Then.STORED
        self.offered: list[Sequence[Message]] = []
        self.flushed = 0  # so many of them
        self.done: list[Callable[[Exception | None], None]] = []

    def offer(self, messages: Sequence[Message], done: Callable[[Exception | None], None]) -> object:
        """Keep it, or raise."""
        self.offered.append(messages)
        if self.then is Then.RAISED:
            raise CannotStore(retry_after=7)
        self.done.append(done)
        return done

    def withdraw(self, offer: object) -> None:
        """Forget it; one that comes too late calls back all the same."""
        if self.then is not Then.TOO_LATE:
            self.done.clear()

    def flush(self) -> None:
        """What was offered waits to be told to answer."""
        self.flushed = len(self.offered)

    def answer(self) -> None:
        """Call back."""
        errors: dict[Then, Exception] = {
            Then.REFUSED: CannotStore(),
            Then.BROKEN: RecordRefused("too large"),
        }
        for done in self.done:
            done(errors.get(self.then))
        self.done.clear()


class _Rejections:
    """Counts."""

    def __init__(self) -> None:
        self.kept = 0

    def keep(self, *, reason: str, headers: object, body: bytes, source: str) -> None:
        """One more."""
        self.kept += 1


#: ``Endpoint.take``, as far as it is judged.
Take = Callable[[Sequence[tuple[bytes, bytes]], bytes, Callable[[Answer], None], str], object]


class Judge:
    """An endpoint with everything around it; ``spoilt`` puts a fault in front of it."""

    def __init__(self, spoilt: Callable[[Take], Take] | None = None) -> None:
        self._log = io.StringIO()
        configure(stream=self._log, colours=False, level="debug")
        self._publisher, self._rejections, self._turn = _Publisher(), _Rejections(), Turn()
        self._valid = validator()
        self._endpoint = Endpoint(
            publisher=self._publisher,
            secrets=lambda: _SECRETS,
            mode=SignatureMode.AUTO,
            understand=understanding(receiver="fuzzed", organizations=_ORGANIZATIONS),
            now=lambda: events.rfc3339(NOW),
            observe=Metrics(),
            tracing=Tracing(1.0),
            rejections=self._rejections,
            soon=self._turn,
        )
        self._take: Take = spoilt(self._endpoint.take) if spoilt else self._endpoint.take

    def judge(self, data: bytes) -> int:
        """The status of the answer. Raises Wrong, or whatever the receiver raises and must not."""
        request = Request.parse(data)
        headers = request.headers
        for _ in range(3):  # a garbage collection, for which it can do nothing, meets it only once
            begun = time.thread_time()
            signer = _verified(request.body, headers)
            accepted = accept(request.body, received=NOW, receiver="fuzzed", organizations=_ORGANIZATIONS)
            answer = self._answered(request, headers)
            if (taken := time.thread_time() - begun) <= LONGEST:
                break
        else:
            raise Wrong(f"it took {taken:.3f} s of CPU")
        demand(signer == reference.signer(request.body, headers, _VALUES), f"secret {signer} is not who signed")
        self._check_answer(request, answer, signer)
        if signer == _BOUND and self._publisher.offered:
            nobody = not (accepted.org_id or accepted.registration)
            demand(nobody or organization_id(accepted.org_id) == OWNER, "a secret that belongs to another organisation")
        self._check_events(accepted)
        self._check_log()
        return answer.status

    def _answered(self, request: Request, headers: list[tuple[bytes, bytes]]) -> Answer:
        answers: list[Answer] = []
        self._publisher.then, self._rejections.kept = request.then, 0
        self._publisher.offered.clear()
        self._publisher.flushed = 0
        self._take(headers, request.body, answers.append, "192.0.2.1")
        self._turn.end()
        demand(not self._turn.due, "something is left for another turn")
        demand(self._publisher.flushed == len(self._publisher.offered), "what was offered waits for more")
        demand(len(answers) == 0 or not self._publisher.done, "answered, and it still waits for the publisher")
        if request.then in (Then.SILENT, Then.TOO_LATE):
            self._endpoint.sweep(math.inf)
        self._publisher.answer()
        demand(len(answers) == 1, f"{len(answers)} answers")
        return answers[0]

    def _check_answer(self, request: Request, answer: Answer, signer: int | None) -> None:
        status, offered, signed = answer.status, bool(self._publisher.offered), signer is not None
        if offered:
            demand(signed, "what is not signed reached the publisher")
            demand(status == (204 if request.then is Then.STORED else 503), f"{request.then}, and answered {status}")
        else:
            demand(status in _STATUSES - {204}, f"nothing was offered, and answered {status}")
        demand(status != 401 or signer in (None, _BOUND), "a good signature, and 401")
        demand(self._rejections.kept == (status == 401), f"{status}, and {self._rejections.kept} kept")
        _check_problem(answer)

    def _check_events(self, accepted: Accepted) -> None:
        event, *hints = accepted.messages
        for messages in self._publisher.offered:
            demand([one.topic for one in messages] == [one.topic for one in accepted.messages], "other topics")
        for message in (event, *(messages[0] for messages in self._publisher.offered)):
            raw = message.value or b""
            demand(events.encode(events.decode(raw)) == raw, "an event that decodes to another one")
            self._check_attributes(json.loads(raw))
        for hint in hints:
            _hints.decode(hint.value or b"")

    def _check_attributes(self, document: dict[str, Any]) -> None:
        # The schema says nothing about what is in data but that it may be an object: it need not be walked through.
        demand(isinstance(document.pop("data"), dict), "data is no object")
        self._valid.validate(document)
        demand(all(map(_attribute.fullmatch, document)), "an attribute with a name that CloudEvents does not allow")

    def _check_log(self) -> None:
        lines = self._log.getvalue()
        self._log.seek(0)
        self._log.truncate()
        for line in lines.splitlines():
            demand(isinstance(json.loads(line), dict), "a line of the log that is no JSON object")


_attribute = re.compile("[a-z0-9]{1,20}")
_hints = msgspec.json.Decoder(Hint)


def _verified(body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    try:
        return verify(body, headers, secrets=_VALUES)
    except BadSignature:
        return None


def _check_problem(answer: Answer) -> None:
    headers = dict(answer.headers)
    if answer.status == 204:
        demand(not answer.body, "a 204 with a body")
        return
    problem = json.loads(answer.body)
    demand(problem["status"] == answer.status, "a problem of another status")
    demand(headers[b"content-type"] == b"application/problem+json", "no problem document")
    demand(headers[b"content-length"] == b"%d" % len(answer.body), "a length that is not the body's")
    demand((b"retry-after" in headers) == (answer.status == 503), "Retry-After is for 503")
