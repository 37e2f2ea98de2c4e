"""Questions to Kafka that are given up after a time, and consumers that ask them without being in a group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import aiokafka
from aiokafka.errors import KafkaError

from service.bus.kafka_connection import Connection
from service.bus.kafka_refusal import reason_of
from service.core.errors import KafkaUnavailable

CLOSE_SECONDS = 5.0

Answer = TypeVar("Answer")


async def answer_within(patience: float, asked: Awaitable[Answer]) -> Answer:
    """The answer. Raises KafkaUnavailable: Kafka has refused it, or not answered for ``patience`` seconds."""
    try:
        async with asyncio.timeout(patience):
            return await asked
    except TimeoutError:
        raise KafkaUnavailable(f"no answer within {patience:g} s") from None
    except KafkaError as error:
        raise KafkaUnavailable(reason_of(error)) from error


@asynccontextmanager
async def groupless(connection: Connection, *, patience: float) -> AsyncIterator[Any]:
    """A started AIOKafkaConsumer that commits nothing. Raises KafkaUnavailable."""
    consumer = connection.client(
        aiokafka.AIOKafkaConsumer,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=int(patience * 1000),
    )
    try:
        await answer_within(patience, consumer.start())
        yield consumer
    finally:
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await consumer.stop()
