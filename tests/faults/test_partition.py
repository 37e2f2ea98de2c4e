"""Rules that keep packets away do so, for the ports that are meant, and are gone afterwards, whoever was killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.faults.partition import MARK, Partitions, permitted, remove_leftovers, rules

pytestmark = pytest.mark.skipif(not permitted(), reason="iptables is not permitted here")


@pytest.fixture
def listeners() -> Iterator[list[tuple[str, int]]]:
    """Two that accept."""
    with socket.create_server(("127.0.0.13", 0)) as one, socket.create_server(("127.0.0.13", 0)) as other:
        yield [one.getsockname(), other.getsockname()]


def reachable(address: tuple[str, int]) -> bool:
    """Whether a connection comes about within half a second."""
    try:
        with socket.create_connection(address, timeout=0.5):
            return True
    except OSError:
        return False


def ours() -> list[str]:
    """The rules of this process."""
    return [rule for rule in rules() if f"{MARK}{os.getpid()} " in rule]


@pytest.mark.quick
def test_a_listener_is_cut_off_and_comes_back(listeners: list[tuple[str, int]]) -> None:
    """Its neighbour on the same address is not touched."""
    meant, neighbour = listeners
    with Partitions() as partitions:
        partitions.drop([meant])
        assert [reachable(meant), reachable(neighbour)] == [False, True]
        partitions.heal()
        assert reachable(meant)
        partitions.drop([meant], share=0.3)
        assert [("--probability 0.3" in rule or "--probability 0.29" in rule) for rule in ours()] == [True, True]
    assert reachable(meant)
    assert ours() == []


@pytest.mark.quick
def test_rules_of_a_killed_process_are_removed_by_the_next(listeners: list[tuple[str, int]]) -> None:
    """A killed test leaves its rules; the next one removes them."""
    address, port = listeners[0]
    code = (
        "import os, signal\nfrom tests.faults.partition import Partitions\nwith Partitions() as partitions:\n"
        f"    partitions.drop([({address!r}, {port})])\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run((sys.executable, "-c", code), check=False).returncode == -9
    assert not reachable((address, port))

    remove_leftovers()

    assert reachable((address, port))
