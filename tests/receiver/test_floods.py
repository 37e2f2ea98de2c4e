"""Thousands of connections that ask for nothing."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.cli.process_limits import prepare
from tests.receiver.crowd import sending
from tests.receiver.guarded import guarded
from tests.receiver.wire import Wire, chunked, post, report

MIB = 1 << 20


@pytest.mark.parametrize("way", ["asgi", "direct"])
def test_idle_connections_starve_nobody(way: str, tmp_path: Path) -> None:
    """Two thousand of them, half of which have asked once and were answered: the others are served as ever."""
    prepare()
    with guarded(way, tmp_path) as server, ExitStack() as stack:
        before = report(server.port)["rss"]
        for number in range(2000):
            wire = stack.enter_context(Wire(server.port))
            if number % 2:  # an idle one that never asked is cut off after 5 s
                assert wire.ask(post(), replies=1).statuses == [200]
        with sending(server.port) as sender:
            time.sleep(1)
            now = report(server.port)

        assert now["connections"] >= 1000
        assert now["rss"] - before <= 64 * MIB
        assert len(sender.seconds) > 35
        assert sender.rate >= 0.99
        assert sender.p99 <= 0.5


def test_a_body_in_tiny_pieces_takes_no_more_than_its_bytes(tmp_path: Path) -> None:
    """36 kB two at a time, a hundred times over: as objects of their own they would take a megabyte each."""
    unfinished = chunked(*[b"ab"] * 18_000, end=b"")
    with guarded("direct", tmp_path) as server, ExitStack() as stack:
        before = report(server.port)["rss"]
        for _ in range(100):
            stack.enter_context(Wire(server.port)).send([unfinished])
        time.sleep(0.5)
        now = report(server.port)

    assert now["connections"] > 100
    assert now["rss"] - before <= 16 * MIB


@pytest.mark.parametrize("way", ["asgi", "direct"])
def test_one_address_cannot_have_them_all(way: str, tmp_path: Path) -> None:
    """With a cap for each source, a flood from one is turned away and a sender elsewhere is served."""
    prepare()
    with guarded(way, tmp_path, per_source=100, connections=150) as server, ExitStack() as stack:
        flood = [stack.enter_context(Wire(server.port)) for _ in range(1000)]
        with sending(server.port, source="127.0.0.2") as sender:
            turned_away = sum(wire.hear(0.2, replies=1).statuses == [503] for wire in flood[100:])
            time.sleep(0.5)

        assert turned_away == 900
        assert sender.rate == 1
        assert len(sender.seconds) > 15
