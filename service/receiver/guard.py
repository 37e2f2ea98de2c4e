"""What a client may do to the public listener before anybody looks at its request: deadlines, caps, strict framing.

:class:`Guard` sits between uvicorn and its parser. It collects a request, and hands it on only once it is complete and in
order: no application waits for a slow body, sees a trailer, or hears of a client that hung up. Whatever is refused gets a
problem document, after the answers that are still due, and what comes then on that connection is thrown away. What becomes
of a request is for a subclass to say (``direct.py``, ``asgi.py``); answers go out in the order of the requests.

The caps are looked at twice: where the headers or the request are complete, before anybody else sees them; and behind each
piece of what arrives, since a header, a body or a chunk extension without an end never completes anything. Nothing is counted
in the callbacks, of which there is one for each field; so pieces are small, and what they hold is all that may be kept beyond
a cap.
"""

from __future__ import annotations

import abc
import asyncio
import math
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.receiver import framing
from service.receiver.answers import CLOSING, Answer, problem
from service.receiver.connections import SWEEP, Connections
from service.receiver.framing import Cut, Refusal
from service.receiver.request import Headers, as_pairs
from service.receiver.sockets import bound_buffers, reset

#: A refused client may go on reading its answer for so long (s): closing while it still sends would destroy the answer.
LINGER = 0.25
#: As much as this of what it still sends is thrown away (bytes), so that its hang-up is heard; then nothing more is read.
DISCARD = 16 * 1024
#: Who does not read has so long (s) to take what was written: to a connection that is being closed, or too much to any.
DRAIN = 5.0
#: A sender who is turned away may come back after so long (s).
RETRY_AFTER = 5
#: Requests of one connection that may wait for their answers before no more are read from it.
PIPELINED = 32
#: Parts of a body that are kept as they came.
_PARTS = 64
#: So many bytes are parsed at once: they hold no more than a thousand fields, or parts of a body, and all of a usual webhook.
_PIECE = 4 * 1024


_IDLE, _HEAD, _BODY, _OVER = range(4)


class Guard(HttpToolsProtocol, abc.ABC):
    """One connection. uvicorn makes it, by ``functools.partial(…, connections=…)`` of a subclass as ``Config(http=…)``."""

    #: Beside uvicorn's own there are too many for CPython to find them quickly in a dictionary.
    __slots__ = (
        "_all",
        "_clock",
        "_digits",
        "_discarded",
        "_endless_head",
        "_expecting",
        "_known_host",
        "_known_target",
        "_limits",
        "_names",
        "_parts",
        "_places",
        "_raw",
        "_refusal",
        "_repeated",
        "_stage",
        "_stamp",
        "_stamped",
        "_started",
        "drained_by",
        "due",
        "fields",
        "last",
        "method",
        "path",
        "source",
        "target",
        "version",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all, self._limits, self._clock = connections, connections.limits, connections.clock
        #: A length of fewer digits is not too long.
        self._digits = len(str(self._limits.body_bytes))
        self._endless_head = self._limits.request_line + self._limits.header_bytes
        #: When (by the clock) what the client does now has to be done, and when what was written has to be gone.
        self.due = self.drained_by = math.inf
        self.source = ""
        #: Requests that were handed on and are not answered.
        self._places: deque[Place] = deque()
        #: No request follows the one that is being received or answered.
        self.last = False
        self._stage = _IDLE
        self._raw = self._discarded = 0
        self._refusal: Refusal | None = None
        self._expecting = False
        #: When the request that is being received was first seen incomplete; 0: not yet.
        self._started = 0.0
        #: As they come, until the headers or the request are complete: fields, and those whose name was there already, with how
        #: many other fields stood before.
        self._names: dict[bytes, bytes] = {}
        self._repeated: list[tuple[int, bytes, bytes]] = []
        self._parts: list[bytes] = []
        self.target = self.method = b""
        self.path = self.version = ""
        self.fields: Headers = ()
        #: As they were before: most clients send one request again and again.
        self._known_host = self._known_target = b""
        self._stamped: object = None
        self._stamp = b""

    # --- the connection -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Admit it, or turn it away at once."""
        super().connection_made(transport)
        if self.client is not None:
            self.source = self.client[0]
        if (refusal := self._all.admit(self)) is not None:
            self._stage = _OVER
            self.connections.discard(self)
            self._all.refused(refusal.reason)
            self._say(refusal)
            transport.close()
            return
        bound_buffers(transport)
        self.due = self._clock() + self._limits.header_seconds - SWEEP

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, with whatever was not complete."""
        self._all.forget(self)
        self._stop_parsing()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio asks for an answer, where uvicorn gives none
        """A client that has nothing more to send still gets the answers that are due."""
        self._stop_parsing()  # half a request has no deadline any more
        if not self._places:
            self.end()
        return bool(self._places)

    def shutdown(self) -> None:
        """The server ends: an idle connection at once, another one after its answers."""
        self.last = True
        if self._stage in (_HEAD, _BODY):
            return  # its deadline runs
        if not self._places:
            self.end()

    def end(self) -> None:
        """Close, and see to it that it does close."""
        self._stop_parsing()
        self.transport.close()
        self.drained_by = self._clock() + DRAIN

    def pause_writing(self) -> None:
        """The client does not read its answers: no more requests from it, and its time runs."""
        super().pause_writing()
        self.flow.pause_reading()
        self.drained_by = self._clock() + DRAIN

    def resume_writing(self) -> None:
        """It has read most of them."""
        super().resume_writing()
        if not self.transport.is_closing():
            self.drained_by = math.inf
            self.read_on()

    def read_on(self) -> None:
        """Read again, where nothing speaks against it."""
        if self._stage != _OVER and not self.flow.write_paused:
            self.flow.resume_reading()

    def overdue(self, now: float) -> None:
        """A deadline is past."""
        if self.drained_by <= now:
            if not self.transport.is_closing():
                self._all.refused("answersUnread")
            reset(self.transport)
        elif self.flow.read_paused and self._places:
            self.due = now + self._limits.header_seconds  # it is us whom the rest of it waits for
        elif self._stage == _HEAD:
            self.refuse(Refusal.HEADERS_TOO_SLOW)
        elif self._stage == _BODY:
            self.refuse(Refusal.REQUEST_TOO_SLOW)
        else:
            if not self._known_target and self._stage == _IDLE:
                self._all.refused("nothingSent")
            self.due = math.inf
            self.end()

    # --- what arrives -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse, until something is wrong."""
        if self._stage == _OVER:
            self._discard(len(data))
        elif len(data) > _PIECE:
            self._take_pieces(data)
        else:
            self._raw += len(data)
            try:
                self.parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
                self._stopped(error)
            else:
                if self._stage or self._raw:
                    self._check_so_far()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > DISCARD and not self.transport.is_closing():
            self.flow.pause_reading()

    def _take_pieces(self, data: bytes) -> None:
        for at in range(0, len(data), _PIECE):
            if self._stage != _OVER:
                self.data_received(data[at : at + _PIECE])

    def _check_so_far(self) -> None:
        """What is not complete yet, and has to be in time."""
        if self._stage == _OVER:
            return
        if self._stage != _IDLE:
            self._set_deadline()
        if self._stage == _BODY:
            self._check_body_so_far()
        elif len(self.target) > self._limits.request_line:
            self.refuse(Refusal.REQUEST_LINE_TOO_LONG)
        elif self._raw > self._endless_head or len(self._names) + len(self._repeated) > self._limits.fields:
            self.refuse(Refusal.HEADERS_TOO_LARGE)

    def _set_deadline(self) -> None:
        if not self._started:
            self._started = self._clock() - SWEEP
        limits = self._limits
        self.due = self._started + (limits.header_seconds if self._stage == _HEAD else limits.request_seconds)

    def _check_body_so_far(self) -> None:
        if self._names:
            self.refuse(Refusal.TRAILERS)
        elif sum(map(len, self._parts)) > self._limits.body_bytes:
            self.refuse(Refusal.BODY_TOO_LARGE)
        elif self._raw > 2 * self._limits.body_bytes:  # it must be mostly sizes and extensions of chunks
            self.refuse(Refusal.FRAMING)
        elif len(self._parts) > _PARTS:  # of two bytes each they would take thirty times as much
            self._parts = [b"".join(self._parts)]

    def _stopped(self, error: Exception) -> None:
        """The parser gave up, because of what it read or because a callback raised."""
        cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
        if isinstance(cause, Cut):
            if cause.refusal is None:
                self._stop_parsing()
            else:
                self.refuse(cause.refusal)
        elif cause is None or isinstance(cause, httptools.HttpParserError):
            self.refuse(framing.told_by(error))
        else:  # a bug of ours: who knows which answers are due
            self._all.failed(cause)
            self.end()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self.last:
            raise Cut
        self._stage, self._started = _HEAD, 0.0

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field; after the headers it is a trailer."""
        names, name = self._names, name.lower()
        if name in names:
            if len(self._repeated) > self._limits.fields:
                raise Cut(Refusal.TRAILERS if self._stage == _BODY else Refusal.HEADERS_TOO_LARGE)
            self._repeated.append((len(names), name, value))
        else:
            names[name] = value

    def on_headers_complete(self) -> None:
        """Judge the request by its headers, before any of its body is kept."""
        fields, parser = self._names, self.parser
        self.fields, self._names = fields, {}
        version = self.version = parser.get_http_version()
        self.method = parser.get_method()
        if self._repeated:
            self._put_in_order(fields)
        if self._raw > self._limits.header_bytes or len(self.fields) > self._limits.fields:
            self._check_size()
        if self.method != b"POST" and self.method in framing.FOREIGN:
            raise Cut(Refusal.MALFORMED)
        if self.fields is not fields or not framing.UNUSUAL.isdisjoint(fields):
            self._look_closely(version)
        if (host := fields.get(b"host")) != self._known_host:
            self._known_host = framing.valid_host(host)
        if self.target != self._known_target:
            self._look_at_target()
        if len(length := fields.get(b"content-length", b"")) >= self._digits:
            self._check_length(length)
        if version != "1.1" or not parser.should_keep_alive():
            self._take_as_last(version)
        self._stage, self._raw = _BODY, 0
        if self._expecting and not self._places:
            self._continue()

    def _put_in_order(self, fields: dict[bytes, bytes]) -> None:
        """A name is there twice: it cannot be a mapping."""
        if len(fields) + len(self._repeated) > self._limits.fields:
            raise Cut(Refusal.HEADERS_TOO_LARGE)
        in_order = list(fields.items())
        for before, name, value in reversed(self._repeated):
            in_order.insert(before, (name, value))
        self.fields, self._repeated = in_order, []

    def _check_size(self) -> None:
        pairs = as_pairs(self.fields)
        size = sum(len(name) + len(value) + len(b": \r\n") for name, value in pairs)
        if size > self._limits.header_bytes or len(pairs) > self._limits.fields:
            raise Cut(Refusal.HEADERS_TOO_LARGE)

    def _look_closely(self, version: str) -> None:
        upgrading = self.parser.should_upgrade()
        self._expecting = framing.look_closely(as_pairs(self.fields), version=version, upgrading=upgrading)

    def _look_at_target(self) -> None:
        if len(self.target) > self._limits.request_line:
            raise Cut(Refusal.REQUEST_LINE_TOO_LONG)
        self.path, self._known_target = framing.path_of(self.target), self.target

    def _check_length(self, length: bytes) -> None:
        if int(length.lstrip(b"0") or b"0") > self._limits.body_bytes:  # the parser lets only digits through
            raise Cut(Refusal.BODY_TOO_LARGE)

    def _take_as_last(self, version: str) -> None:
        if version not in ("1.0", "1.1"):
            raise Cut(Refusal.VERSION)
        self.last = True

    def _continue(self) -> None:
        self._expecting = False
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """The whole request is here; nothing was wrong with it, unless with what came behind the headers."""
        if self._names:
            raise Cut(Refusal.TRAILERS)
        body = b"".join(self._parts)
        if len(body) > self._limits.body_bytes:
            raise Cut(Refusal.BODY_TOO_LARGE)
        self._stage, self._raw, self._expecting = _IDLE, 0, False
        self.due = math.inf
        place = Place(self, self.method)
        self._places.append(place)
        self.hand_on(place, body)
        self.target, self._parts, self.fields = b"", [], ()  # what comes next takes the same memory
        if len(self._places) >= PIPELINED and not self.transport.is_closing():
            self.flow.pause_reading()

    # --- what becomes of it -------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def hand_on(self, place: Place, body: bytes) -> None:
        """Have the request answered, now or later.

        Beside its body it is this object's ``method``, ``target``, ``path`` and ``fields``, until this returns.
        """

    def send_answers(self) -> None:
        """Send what is answered, in the order of the requests."""
        places = self._places
        while places and (answer := places[0].answer) is not None:
            place = places.popleft()
            if self.transport.is_closing():
                self.end()
            else:
                self._send(answer, bodiless=place.method == b"HEAD")
        if self.flow.read_paused and len(places) < PIPELINED:
            self.read_on()

    def _send(self, answer: Answer, *, bodiless: bool) -> None:
        state = self.server_state
        state.total_requests += 1
        if state.default_headers is not self._stamped:
            self._stamp_anew()
        self.transport.write(rendered(answer, self._stamp, self.last and self._ends_here(), bodiless))
        if answer.headers and CLOSING in answer.headers:
            self._places.clear()  # whoever asked for more will not be answered
            self.end()
        elif self._stage == _IDLE and not self.last:
            if not self._places:
                self.due = self._clock() + self._limits.keep_alive_seconds - SWEEP
        elif not self._places:
            self._all_answered()

    def _stamp_anew(self) -> None:
        """The server's own headers; uvicorn makes a new list of them every second."""
        self._stamped = self.server_state.default_headers
        self._stamp = as_sent(self.server_state.default_headers)

    def _ends_here(self) -> bool:
        """The answer that is due now is the last one."""
        return not self._places and self._stage in (_IDLE, _OVER) and self._refusal is None

    def _all_answered(self) -> None:
        """What was put off until every request before it has its answer."""
        if self._refusal is not None:
            self._say(self._refusal)
        elif self.last and self._stage in (_IDLE, _OVER):
            self.end()
        elif self._expecting and self._stage == _BODY:
            self._continue()

    def refuse(self, refusal: Refusal) -> None:
        """Answer with a problem, once everything before is answered, and look at nothing more."""
        self._stop_parsing()
        self._all.refused(refusal.reason)
        if self._places:
            self._refusal = refusal
        else:
            self._say(refusal)

    def _stop_parsing(self) -> None:
        """Nothing that comes is looked at, and nothing that came is kept: the client decides how long it stays."""
        self._stage, self.last = _OVER, True
        self.due = math.inf
        self.fields, self._names, self._repeated = (), {}, []
        self.target, self._parts = b"", []

    def _say(self, refusal: Refusal) -> None:
        """The last words. The client may read them while its own are thrown away."""
        if self.transport.is_closing():
            return
        headers = ((b"retry-after", b"%d" % RETRY_AFTER),) if refusal.status == 503 else ()
        answer = problem(refusal.status, detail=refusal.detail, headers=headers)
        self._stamp_anew()
        self.transport.write(rendered(answer, self._stamp, True, False))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.due = self._clock() + LINGER
        if not self.flow.write_paused:
            self.flow.resume_reading()  # else its hang-up would not be heard, and it would keep its place meanwhile


class Place(msgspec.Struct, eq=False):
    """A request's place among those of its connection, kept until its answer is sent."""

    connection: Guard
    method: bytes
    answer: Answer | None = None

    def take(self, answer: Answer) -> None:
        """This is the answer."""
        self.answer = answer
        self.connection.send_answers()


@lru_cache(maxsize=64)  # there are about a dozen answers, and nearly all that is sent is one of them
def rendered(answer: Answer, defaults: bytes, last: bool, bodiless: bool) -> bytes:
    """An answer as it is sent; ``defaults`` are the server's own headers, ``bodiless`` is for HEAD."""
    end = b"connection: close\r\n\r\n" if last and CLOSING not in answer.headers else b"\r\n"
    body = b"" if bodiless else answer.body
    return b"".join((STATUS_LINE[answer.status], defaults, as_sent(answer.headers), end, body))


def as_sent(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are sent."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])
