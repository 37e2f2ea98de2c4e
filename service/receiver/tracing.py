"""Which requests are traced, decided before anything is made for it, and how often a refusal is worth a line.

A trace context is W3C's: https://www.w3.org/TR/trace-context/#traceparent-header. Every event has one, so that whoever
traces downstream can join; only a sampled one has flag 01, and only for a sampled request is a line logged.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator

#: Version 00 has four fields; a later version may have more behind them, of which nothing is taken over.
_GRAMMAR = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<parent>[0-9a-f]{16})"
    rb"-(?P<flags>[0-9a-f]{2})(?P<more>-[\x21-\x7e]*)?"
)
_SAMPLED = 0x01

#: The last 14 hex digits of a trace id are its random ones (W3C Trace Context Level 2): they decide, and anybody else who
#: samples by the same ratio decides alike.
_RANDOM = 14

#: New ids are made so many at a time: a system call for each would cost more than everything else here.
_AHEAD = 128


class Tracing:
    """Samples ``ratio`` (0 to 1) of the traces, and every one that a caller samples."""

    def __init__(self, ratio: float = 0.0) -> None:
        # Hex digits compare as text; nothing is as high as "g".
        self._below = f"{int(ratio * 16**_RANDOM):0{_RANDOM}x}" if ratio < 1 else "g"
        self._new = self._beginning()

    def begin(self, header: bytes | None) -> tuple[str, bool]:
        """The ``traceparent`` of a request that came with this one, and whether it is sampled; a new one where there is none,
        or a malformed one.

        Only for a request whose signature is good: the flag of anybody else would make us log whatever they like.
        """
        if header is None:
            return next(self._new)
        match = _GRAMMAR.fullmatch(header.strip())
        if match is None or (match["version"] == b"00" and match["more"] is not None):
            return next(self._new)
        trace, parent, flags = match["trace"].decode(), match["parent"].decode(), int(match["flags"], 16)
        sampled = bool(flags & _SAMPLED) or trace[-_RANDOM:] < self._below
        return f"00-{trace}-{parent}-{flags | sampled:02x}", sampled

    def _beginning(self) -> Iterator[tuple[str, bool]]:
        # An id of zeros is invalid, and has a chance of 2**-64.
        while True:
            firsts = os.urandom(9 * _AHEAD).hex(" ", 9).split()
            randoms = os.urandom(7 * _AHEAD).hex(" ", 7).split()
            parents = os.urandom(8 * _AHEAD).hex(" ", 8).split()
            for first, random, parent in zip(firsts, randoms, parents, strict=True):
                if random < self._below:
                    yield f"00-{first}{random}-{parent}-01", True
                else:
                    yield f"00-{first}{random}-{parent}-00", False


class Sparing:
    """At most ``most`` lines a second of each kind: who floods us must not flood the log. ``clock`` is in seconds."""

    def __init__(self, most: int = 10, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._kinds: dict[str, _Second] = {}

    def left_out(self, kind: str) -> int | None:
        """How many of this kind were left out since its last line; None: this one is left out too."""
        second, now = self._kinds.setdefault(kind, _Second()), self._clock()
        if now - second.begun >= 1:
            second.begun, second.lines = now, 0
        if second.lines >= self._most:
            second.left_out += 1
            return None
        second.lines += 1
        left_out, second.left_out = second.left_out, 0
        return left_out


class _Second:
    """What became of the lines of one kind."""

    def __init__(self) -> None:
        self.begun = float("-inf")
        self.lines = 0
        self.left_out = 0
