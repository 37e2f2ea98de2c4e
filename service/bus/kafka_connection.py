"""How to reach the cluster: the one value that every client of ours is built from.

A client of aiokafka has one password and one TLS context for its whole life, tells nobody why a broker refused it, and
tries again ten times a second. So it gets another way to open connections here: for each connection the files are read
again, a refusal is logged once with its reason, and a broker that refused us is asked once a second, by all clients
together.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import structlog
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from service.bus.kafka_refusal import KafkaRefused, refusal_of
from service.bus.kafka_security import Credentials, LiveCredentials, Security, read_credentials
from service.core.errors import SettingsError

#: Seconds between two attempts at brokers that refuse us, whichever client makes them.
PAUSE = 1.0

#: Seconds to say goodbye.
_CLOSE = 1.0

#: What opening a connection raises: the network, Kafka's refusals, and aiokafka's doubts about what a broker sent.
FAILURES = (OSError, TimeoutError, EOFError, KafkaError, AssertionError, LookupError, ValueError)


@dataclass(frozen=True)
class Connection:
    """Where the brokers are, and how to speak with them. ``bootstrap_servers``: ``host:port``, comma-separated."""

    bootstrap_servers: str
    security: Security = field(default_factory=Security)

    def client(self, kind: Callable[..., Any], **options: Any) -> Any:
        """One of aiokafka's clients (a producer, a consumer, an admin client) with ``options``, not started."""
        made = kind(**self.options(), **options)
        inner = made.client if hasattr(made, "client") else made._client
        inner.__class__ = _Client if self.security.protocol == "PLAINTEXT" else _SecuredClient  # no option hands one in
        inner.access = self.access
        return made

    def options(self) -> dict[str, Any]:
        """What :meth:`client` gives to aiokafka. Not enough by itself: with TLS nobody is trusted, and no password is known."""
        options: dict[str, Any] = {"bootstrap_servers": self.bootstrap_servers}
        security = self.security
        if security.protocol != "PLAINTEXT":
            options["security_protocol"] = security.protocol
        if security.tls:
            options["ssl_context"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if security.sasl:
            options |= {
                "sasl_mechanism": security.mechanism,
                "sasl_plain_username": security.username,
                "sasl_plain_password": "",
            }
        return options

    @cached_property
    def access(self) -> Access:
        """What all clients of this connection know about being let in."""
        return Access(self.security)


class Access:
    """Opens connections with what the files say now, and remembers who refused us. For one event loop at a time."""

    def __init__(self, security: Security) -> None:
        self._security = security
        self._credentials = LiveCredentials(partial(read_credentials, security))
        self._refusals: dict[str, KafkaRefused] = {}  # by server
        self._told: set[str] = set()  # reasons that are in the log
        self._trusted: set[str] = set()  # servers that let us in when we came last
        self._next_turn = 0.0
        self._log = structlog.get_logger()

    async def open(self, server: str, connect: Callable[[Credentials], Awaitable[Any]]) -> Any:
        """What ``connect`` gives. Raises KafkaRefused, or what it raised itself where nobody was reached."""
        await self._turn(server)
        try:
            connected = await connect(await self._credentials.present())
        except SettingsError as error:
            raise self._refused(server, KafkaRefused(str(error), everywhere=True)) from None
        except FAILURES as error:
            if (refused := refusal_of(error, self._security)) is None:
                raise
            raise self._refused(server, refused) from None  # what it came from may show what was sent
        self._accepted(server)
        return connected

    async def _turn(self, server: str) -> None:
        while self._refusals and server not in self._trusted:
            if (wait := self._next_turn - time.monotonic()) <= 0:
                break
            await asyncio.sleep(wait)
        self._next_turn = time.monotonic() + PAUSE

    def _refused(self, server: str, refused: KafkaRefused) -> KafkaRefused:
        reason = str(refused)
        sure = not refused.passing or str(self._refusals.get(server, "")) == reason
        if sure and reason not in self._told:  # one line for all brokers, clients and attempts
            self._told.add(reason)
            self._log.error("kafka.refused", server=server, reason=reason)
        self._refusals[server] = refused
        self._trusted.discard(server)
        return refused

    def _accepted(self, server: str) -> None:
        self._trusted.add(server)
        self._refusals = {
            other: refused for other, refused in self._refusals.items() if other != server and not refused.everywhere
        }
        if not self._refusals:
            self.forget()

    def forget(self) -> None:
        """Nobody refuses us any more."""
        self._refusals.clear()
        if self._told:
            self._told.clear()
            self._log.info("kafka.accepted")


class _Client(AIOKafkaClient):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's client, which can say why it finds nobody. An instance becomes one after its making."""

    access: Access

    async def bootstrap(self) -> None:
        """As aiokafka's. Raises KafkaRefused where there are brokers, which do not speak PLAINTEXT."""
        try:
            await super().bootstrap()
        except KafkaConnectionError:
            await self._find_willing()
            raise
        self.access.forget()

    async def _find_willing(self) -> None:
        """Stay with the first server that lets us in and knows its cluster. Raises KafkaRefused where one refuses us."""
        refused: KafkaRefused | None = None
        for host, port, _ in self.hosts:
            try:
                await self._open(host, port, only_try=True)
            except KafkaRefused as error:
                refused = error
                if error.everywhere:
                    break
            except FAILURES:
                continue
            else:
                self._bootstrap_servers = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
                return
        if refused is not None:
            raise refused

    async def _open(self, host: str, port: int, *, only_try: bool = False) -> Any:
        async def connect(credentials: Credentials) -> Any:
            self._sasl_plain_password = credentials.password  # this and the next: for aiokafka's own bootstrap
            self._ssl_context = credentials.tls
            connection = await create_conn(
                host,
                port,
                client_id=self._client_id,
                request_timeout_ms=self._request_timeout_ms,
                ssl_context=credentials.tls,
                security_protocol=self._security_protocol,
                on_close=None if only_try else self._on_connection_closed,
                max_idle_ms=self._connections_max_idle_ms,
                sasl_mechanism=self._sasl_mechanism,
                sasl_plain_username=self._sasl_plain_username,
                sasl_plain_password=credentials.password,
            )
            if only_try:
                await _one_question(connection)
            return connection

        return await self.access.open(f"{host}:{port}", connect)


class _SecuredClient(_Client):
    """The same with TLS or SASL: it opens every connection with what the files say now, when it is its turn."""

    async def bootstrap(self) -> None:
        """Begin with a server that lets us in. Raises KafkaRefused; else what aiokafka raises."""
        await self._find_willing()
        await AIOKafkaClient.bootstrap(self)

    async def _get_conn(self, node_id: Any, *, group: Any = ConnectionGroup.DEFAULT, no_hint: bool = False) -> Any:
        if self._connected(node_id, group) is None and (broker := self.cluster.broker_metadata(node_id)) is not None:
            async with self._get_conn_lock:
                if self._connected(node_id, group) is None:
                    try:
                        self._conns[node_id, group] = await self._open(broker.host, broker.port)
                    except FAILURES:
                        self.force_metadata_update()
                        return None
        return await super()._get_conn(node_id, group=group, no_hint=no_hint)

    def _connected(self, node_id: Any, group: Any) -> Any:
        connection = self._conns.get((node_id, group))
        return connection if connection is not None and connection.connected() else None


async def _one_question(connection: Any) -> None:
    """ApiVersions is answered to everybody: ask for something else, and hang up."""
    try:
        await connection.send(MetadataRequest([]))
    finally:
        with suppress(*FAILURES):
            async with asyncio.timeout(_CLOSE):
                await connection.close()
