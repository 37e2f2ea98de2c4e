"""SQLite's write-ahead log, read without SQLite: https://www.sqlite.org/fileformat2.html#the_write_ahead_log

SQLite takes the log to end at the first frame that does not fit, and says nothing: a flipped bit in the middle takes all
transactions behind it away. Whether that is damage can be told, since every transaction was synchronised before the next
one began (``synchronous=FULL``). A loss of power can tear the last transaction only, in any way. So where something stands
behind a transaction that SQLite will not see, that transaction was durable once, and was lost.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

#: Bytes before the first frame, and before each frame's page.
HEADER = 32
FRAME_HEADER = 24

_MAGIC = 0x377F0682  # the last bit: checksums over big-endian words
_VERSION = 3007000
_MASK = 0xFFFFFFFF

#: So many bytes, from there on; fewer at the end of the file.
Read = Callable[[int, int], bytes]
_Sums = tuple[int, int]


class Frame(NamedTuple):
    """One page as a transaction left it. ``start`` is the place of the page's bytes in the file.

    ``pages``: not 0 in the last frame of a transaction, then the size of the database. ``current``: it was written since
    the log began anew (behind the last transaction older frames follow). ``linked``: its bytes are those that were
    written behind the frame before.
    """

    page: int
    start: int
    pages: int
    current: bool
    linked: bool


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """``end``: how many frames SQLite will see. ``cut``: transactions behind them were durable once."""

    page_size: int
    frames: tuple[Frame, ...] = ()
    end: int = 0
    cut: bool = False

    @property
    def last(self) -> int:
        """How many frames there are up to the last one that ends a transaction, whether SQLite will see it or not."""
        return max((n for n, frame in enumerate(self.frames, 1) if frame.pages and frame.current), default=0)


def read_log(read: Read, *, size: int, page_size: int) -> Log:
    """The log of ``size`` bytes. ``page_size`` is the database's, where the log's header cannot be trusted."""
    header = read(HEADER, 0)
    if len(header) < HEADER:
        return Log(page_size=page_size)
    magic, version, pages_of, _, *salts, sum1, sum2 = struct.unpack(">8I", header)
    words = ">" if magic == _MAGIC | 1 else "<"
    computed = _sums(words, header[:24], (0, 0))
    intact = magic | 1 == _MAGIC | 1 and version == _VERSION and computed == (sum1, sum2)
    if intact:
        page_size = pages_of
    elif any(header) and size >= HEADER + FRAME_HEADER:  # whatever happened to it, its first frame was written with it
        salts = list(struct.unpack(">2I", read(8, HEADER + 8)))
    count = (size - HEADER) // (FRAME_HEADER + page_size)
    frames = _frames(read, count, page_size, words, (salts[0], salts[1]), ((sum1, sum2), computed))
    return Log(page_size=page_size, frames=frames, end=_end(frames) if intact else 0, cut=_cut(frames, intact=intact))


def _frames(
    read: Read, count: int, page_size: int, words: str, salts: tuple[int, int], before: Sequence[_Sums]
) -> tuple[Frame, ...]:
    frames = []
    known = True  # the frame before was written since the log began anew
    for number in range(count):
        start = HEADER + number * (FRAME_HEADER + page_size)
        frame = read(FRAME_HEADER + page_size, start)
        page, pages, salt1, salt2, *sums = struct.unpack_from(">6I", frame)
        current = (salt1, salt2) == salts
        linked = page != 0 and (current or known) and _follows(words, frame, before, (sums[0], sums[1]))
        frames.append(Frame(page, start + FRAME_HEADER, pages, current, linked))
        before, known = ((sums[0], sums[1]),), current or linked
    return tuple(frames)


def _follows(words: str, frame: bytes, before: Sequence[_Sums], sums: _Sums) -> bool:
    content = frame[:8] + frame[FRAME_HEADER:]
    return any(_sums(words, content, one) == sums for one in before)


def _sums(words: str, content: bytes, sums: _Sums) -> _Sums:
    first, second = sums
    for one, two in struct.iter_unpack(f"{words}II", content):
        first = (first + one + second) & _MASK
        second = (second + two + first) & _MASK
    return first, second


def _seen(frames: Sequence[Frame]) -> int:
    return next((n for n, frame in enumerate(frames) if not (frame.current and frame.linked)), len(frames))


def _end(frames: Sequence[Frame]) -> int:
    return max((n for n, frame in enumerate(frames[: _seen(frames)], 1) if frame.pages), default=0)


def _cut(frames: Sequence[Frame], *, intact: bool) -> bool:
    if not intact:  # it is synchronised before the first frame is written
        return any(frame.linked for frame in frames)
    behind = frames[_seen(frames) :]
    ends = [n for n, frame in enumerate(behind) if frame.current and frame.pages]
    continued = any(n + 1 < len(behind) and behind[n + 1].current and behind[n + 1].linked for n in ends)
    return continued or any(behind[n].linked for n in ends[1:])
