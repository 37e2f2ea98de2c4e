"""Files and stdin as a command's input."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from service.cli.endings import WRONG, end
from service.core.message import UNREADABLE

#: Bytes that are read of a file or of stdin: more than any of them can have.
LONGEST_INPUT = 2 << 20


def is_stdin(file: Path | str | None) -> bool:
    """Whether that is what was typed."""
    return str(file) == "-"


def stdin() -> BinaryIO:
    """Raises OSError where the command was started without one."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return sys.stdin.buffer


def bytes_of(file: Path) -> bytes:
    """What ``file`` holds; - is stdin. Ends with exit code 2 where it cannot be read."""
    try:
        with contextlib.nullcontext(stdin()) if is_stdin(file) else file.open("rb") as stream:
            return stream.read(LONGEST_INPUT)
    except OSError as error:
        end(f"{file} cannot be read ({error.strerror})", WRONG)


def object_of(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``; of a CloudEvent, its data. Ends with exit code 2 where there is none."""
    try:
        found = msgspec.json.decode(bytes_of(file), type=dict[str, Any])
    except UNREADABLE:
        end(f"{file} is no JSON object", WRONG)
    data = found.get("data")
    return data if "specversion" in found and isinstance(data, dict) else found
