"""Two files of JSON lines: when one is full it becomes the older one, and the older one goes.

Lines are appended; nothing is synchronised to the disk, since nothing depends on it. Only their owner may read them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from service.core.rejects import Reject, merged, written

NEWER, OLDER = "rejects.jsonl", "rejects.1.jsonl"
#: Bytes of one of them, but for its last lines.
_LARGEST = 16 << 20
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def read_rejects(folder: Path, *, oldest: datetime) -> list[Reject]:
    """What is kept in ``folder`` and not older, in the order of time, also while a receiver writes there.

    Raises OSError where a file is there and cannot be read.
    """
    # The newer one first: between the two looks it may become the older one.
    lines = [line for name in (NEWER, OLDER) for line in _lines(folder / name)]
    return merged(lines, oldest=oldest)


class RejectsFile:
    """Appends lines, ``most`` at most in both files. Every method may raise OSError; then what was not written is asked for
    again by the next call.
    """

    def __init__(self, folder: Path, *, most: int) -> None:
        self._newer, self._older = folder / NEWER, folder / OLDER
        self._half = max(1, most // 2)

    def append(self, lines: Sequence[bytes]) -> None:
        """Each of them ends with its newline."""
        for begin in range(0, len(lines), self._half):
            part = lines[begin : begin + self._half]
            if self._is_full_with(len(part)):
                self._newer.replace(self._older)
            _write(self._newer, b"".join(part))

    def expire(self, oldest: datetime) -> None:
        """Take out what is older."""
        for file in (self._newer, self._older):
            lines = list(_lines(file))
            young = [written(each) for each in merged(lines, oldest=oldest)]
            if lines and not young:
                file.unlink()
            elif len(young) < len(lines):
                fresh = file.with_suffix(".new")
                fresh.unlink(missing_ok=True)
                _write(fresh, b"".join(young))
                fresh.replace(file)

    def _is_full_with(self, more: int) -> bool:
        try:
            large = self._newer.stat().st_size >= _LARGEST
        except FileNotFoundError:
            return False
        return large or sum(1 for _ in _lines(self._newer)) + more > self._half


def _write(file: Path, content: bytes) -> None:
    """At the end of the file, on a new line: the last one may have been torn by the end of a process."""
    with os.fdopen(os.open(file, _APPEND, 0o600), "r+b", buffering=0) as stream:
        os.fchmod(stream.fileno(), 0o600)
        size = stream.seek(0, os.SEEK_END)
        torn = size > 0 and os.pread(stream.fileno(), 1, size - 1) != b"\n"
        content = b"\n" + content if torn else content
        while content:
            content = content[stream.write(content) :]


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as stream:
            yield from stream
    except FileNotFoundError:
        return
