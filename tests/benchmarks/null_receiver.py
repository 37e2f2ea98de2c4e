"""The receiver, as ``webex-events serve receiver`` wires it, to a publisher that stores nothing: ``python -m
tests.benchmarks.null_receiver``, with the settings of a receiver.

What is left is what a webhook costs before anything is stored: listener, guard, signature, event, answer, metrics, log.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import uvloop

from service.bus.kafka import KafkaReader
from service.bus.kafka_connection import Connection
from service.cli.buses import Bus
from service.cli.garbage import spare_what_stays
from service.cli.receiver import public_listener
from service.cli.secret_files import LiveSecrets
from service.cli.shutdown import stopped_by_signals
from service.core.message import Message
from service.settings import Settings, load
from service.telemetry.logging import configure
from service.telemetry.metrics import Metrics


class NullPublisher:
    """Says at the next turn of the loop that everything is durable."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """For whoever waits in a task."""
        await asyncio.sleep(0)

    def offer(self, messages: Sequence[Message], done: Callable[[Exception | None], None]) -> asyncio.Handle:
        """For whoever does not."""
        return asyncio.get_running_loop().call_soon(done, None)

    def withdraw(self, offer: asyncio.Handle) -> None:
        """Nobody waits any more."""
        offer.cancel()

    def flush(self) -> None:
        """Nothing waits for more."""


def _no_consumer(topic: str, group: str) -> NoReturn:
    raise NotImplementedError


async def serve(settings: Settings) -> None:
    """Until SIGTERM."""
    publisher = NullPublisher()
    bus = Bus(
        publisher=publisher,
        receiving=publisher,
        reader=KafkaReader(connection=Connection(bootstrap_servers=""), topic_prefix=""),  # nobody reads
        consumer=_no_consumer,
        unready=lambda: None,
        stuck=lambda: None,
        healthy=lambda: True,
        measured_by=lambda _: None,
    )
    live = LiveSecrets(fixed=settings.webhook.fixed_secrets, folder=settings.webhook.secrets_dir)
    with stopped_by_signals() as stop:
        async with public_listener(settings, bus, Metrics(), live, stop=stop):
            spare_what_stays()
            await stop.wait()


if __name__ == "__main__":
    given = load(os.environ)
    configure(stream=sys.stdout, colours=False, level=given.log.level)
    uvloop.run(serve(given))
