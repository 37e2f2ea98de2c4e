"""Ports for what a test starts."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections import deque

#: Enough for one cluster after the other; what was given longer ago is given again once it is free.
_GIVEN: deque[int] = deque(maxlen=150)


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody uses on ``address``, below those that the system hands out: it must be free again after a restart.

    It is not used at once, so the next ones are others, and runs side by side mostly take from different hundreds.
    """
    while True:
        port = 20_000 + os.getpid() % 40 * 300 + secrets.randbelow(300)
        if port in _GIVEN:
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((address, port))
            _GIVEN.append(port)
            return port
