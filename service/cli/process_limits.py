"""What the operating system lets this process do."""

from __future__ import annotations

import contextlib
import sys

#: Files that are not connections of the public listener: the journal, Kafka, Webex, probes, the log.
_OTHERS = 256


def prepare() -> None:
    """No core dumps: secrets are in this process' memory, and what is left of it when it crashes must not be written anywhere.
    As many open files as we may have: each connection needs one.
    """
    if sys.platform == "win32":
        return
    import resource  # not on Windows

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def room_for(connections: int) -> int:
    """How many of so many connections there are files for; probes and the journal must not go without."""
    if sys.platform == "win32":
        return connections
    import resource  # not on Windows

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return connections
    return min(connections, max(files - _OTHERS, files // 2))
