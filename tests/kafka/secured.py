"""A real broker that wants certificates, passwords and permissions, with a listener for each way to be refused.

    with SecuredKafka.started() as kafka:
        kafka.connection("SASL_SSL", user="owner")     # may do everything
        await kafka.allow("clerk", ("topic", "t.*", "read"))
        kafka.server("EXPIRED")                        # host:port of a listener; its certificate has expired

Users of PLAIN stand in the broker's configuration: any name of ``USERS`` with ``password_of(name)``. Those of SCRAM are made
while it runs: ``set_scram``. Nobody may do anything but ``owner``, until it is allowed. Passwords have ``CANARY`` in them:
look for it where none should be. Certificates are made anew each time (trustme) and trusted by nobody else.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from service.bus.kafka_admin import kafka_admin
from service.bus.kafka_connection import Connection
from service.bus.kafka_security import Security
from tests.kafka.harness import Broker, Cluster, Nodes
from tests.ports import free_port

CANARY = "canary"

#: May do everything; may do nothing until :meth:`SecuredKafka.allow` says so; and one for each role of the program.
USERS = ("owner", "clerk", "receiver", "processor", "topics", "downstream", "operator")

#: Listener → Kafka's protocol. COUNTED is reached through a relay only; EXPIRED and MISNAMED have such a certificate.
LISTENERS = {
    "SASL_SSL": "SASL_SSL",
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
    "SSL": "SSL",
    "COUNTED": "SASL_SSL",
    "EXPIRED": "SASL_SSL",
    "MISNAMED": "SASL_SSL",
}

#: Words → numbers of the protocol (org.apache.kafka.common.resource and .acl).
_RESOURCES = {"topic": 2, "group": 3, "cluster": 4}
_OPERATIONS = {
    "all": 2,
    "read": 3,
    "write": 4,
    "create": 5,
    "alter": 7,
    "describe": 8,
    "describeConfigs": 10,
    "alterConfigs": 11,
}
_LITERAL, _PREFIXED, _ALLOW = 3, 4, 3
_CREATE_ACLS, _DELETE_ACLS, _ALTER_SCRAM = 30, 31, 51
_MECHANISMS = {"SCRAM-SHA-256": (1, "sha256"), "SCRAM-SHA-512": (2, "sha512")}

Permission = tuple[str, str, str]
"""``("topic", "name", "read")``: resource, its name (a ``*`` at its end: every name that begins so), operation."""


def password_of(user: str) -> str:
    """Of a user in ``USERS``, with PLAIN."""
    return f"{CANARY}-{user}-4711"


class Relay:
    """A TCP relay that counts who came, and can hang up on everybody."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.connections = 0
        self._target = target
        self._open: set[asyncio.Task[None]] = set()

    def hang_up(self) -> None:
        """End every connection that is open; new ones are accepted."""
        for each in self._open:
            each.cancel()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            there, back = await asyncio.open_connection(*self._target)
            try:
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
            finally:
                back.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._open.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(64 * 1024):
        writer.write(chunk)
        await writer.drain()
    writer.close()


class SecuredKafka:
    """One broker. ``cluster`` is its unencrypted listener, for the tests themselves: whoever comes there may do everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster("")
        self.address = ""
        self.ports: dict[str, int] = {}
        self.counted_port = 0
        authority, other = trustme.CA(), trustme.CA()
        self.ca_file = _written(folder / "ca.pem", authority.cert_pem.bytes())
        self.other_ca_file = _written(folder / "other-ca.pem", other.cert_pem.bytes())
        self.cert_file, self.key_file = _pair(
            folder / "client", authority.issue_cert("clerk.example", common_name="clerk")
        )
        self.stranger = _pair(folder / "stranger", other.issue_cert("clerk.example", common_name="clerk"))
        key = load_pem_private_key(self.key_file.read_bytes(), None)
        locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"canary"))
        self.encrypted_key_file = _written(folder / "locked.key", locked)
        self._authority = authority

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[SecuredKafka]:
        """Ready; all is gone afterwards. Raises KafkaUnavailable."""
        with tempfile.TemporaryDirectory(prefix="webex-events-secured-") as folder:
            kafka = cls(Path(folder))
            with Cluster.started(1, extra=kafka._properties) as kafka.cluster:
                yield kafka

    @property
    def broker(self) -> Broker:
        return self.cluster.brokers[0]

    def server(self, listener: str) -> str:
        """``host:port`` of a listener; COUNTED has one while :meth:`counted` runs."""
        return f"{self.address}:{self.counted_port if listener == 'COUNTED' else self.ports[listener]}"

    def password_file(self, user: str, password: str | None = None) -> Path:
        """A new file with the user's password, or with another one."""
        name = self.folder / f"password-{secrets.token_hex(4)}"
        return _written(name, f"{password or password_of(user)}\n".encode())

    def security(self, protocol: str, *, user: str = "owner", mechanism: str = "PLAIN") -> Security:
        """What is right for a listener of that protocol."""
        sasl = protocol.startswith("SASL_")
        return Security(
            protocol=protocol,
            mechanism=mechanism,
            username=user if sasl else "",
            password_file=self.password_file(user) if sasl else None,
            ca_file=self.ca_file if protocol.endswith("SSL") else None,
            cert_file=self.cert_file if protocol == "SSL" else None,
            key_file=self.key_file if protocol == "SSL" else None,
        )

    def connection(self, listener: str, *, user: str = "owner") -> Connection:
        """The right one for a listener."""
        return Connection(self.server(listener), self.security(LISTENERS[listener], user=user))

    @asynccontextmanager
    async def relayed(self, listener: str, port: int = 0) -> AsyncIterator[tuple[Relay, str]]:
        """A relay before a listener, and its ``host:port``."""
        relay = Relay((self.address, self.ports[listener]))
        server = await asyncio.start_server(relay.serve, self.address, port)
        async with server:
            yield relay, f"{self.address}:{server.sockets[0].getsockname()[1]}"
            relay.hang_up()

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[Relay]:
        """The relay before COUNTED, at the port that the broker tells its clients: every connection goes through it."""
        async with self.relayed("COUNTED", self.counted_port) as (relay, _):
            yield relay

    async def allow(self, user: str, *permissions: Permission) -> None:
        """Give permissions, one by one, as an operator would."""
        creations = [
            _acl(user, permission) + struct.pack(">bb", _OPERATIONS[permission[2]], _ALLOW)
            for permission in permissions
        ]
        await self._ask(_CREATE_ACLS, 1, struct.pack(">i", len(creations)) + b"".join(creations))

    async def forbid(self, user: str, *permissions: Permission) -> None:
        """Take permissions back."""
        filters = [
            _acl(user, permission) + struct.pack(">bb", _OPERATIONS[permission[2]], _ALLOW)
            for permission in permissions
        ]
        await self._ask(_DELETE_ACLS, 1, struct.pack(">i", len(filters)) + b"".join(filters))

    async def set_scram(self, user: str, password: str, mechanism: str = "SCRAM-SHA-512") -> None:
        """Make the user, or change the password (AlterUserScramCredentials, version 0)."""
        number, digest = _MECHANISMS[mechanism]
        salt, iterations = secrets.token_bytes(16), 4096
        salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, iterations)
        one = (
            _compact(user.encode()) + struct.pack(">bi", number, iterations) + _compact(salt) + _compact(salted) + b"\0"
        )
        await self._ask(_ALTER_SCRAM, 0, b"\x01" + b"\x02" + one + b"\0", flexible=True)

    async def replace_certificate(self, listener: str, *, days: float) -> None:
        """Let the broker use another certificate from now on, without a restart; it expires in so many days."""
        until = datetime.now(UTC) + timedelta(days=days)
        prefix = f"listener.name.{listener.lower()}.ssl.keystore."
        changed = {f"{prefix}type": "PEM", f"{prefix}location": str(self._keystore(listener, until))}
        async with kafka_admin(self.cluster.connection) as admin:
            resource = ConfigResource(ConfigResourceType.BROKER, "1", changed)
            for answer in await admin._client.alter_configs([resource]):
                assert all(code == 0 for code, *_ in answer.resources), answer

    async def _ask(self, api: int, version: int, body: bytes, *, flexible: bool = False) -> None:
        """One request to the listener where everything is allowed; raises where its answer has an error in it."""
        header = struct.pack(">hhi", api, version, 1) + struct.pack(">h4s", 4, b"test") + (b"\0" if flexible else b"")
        answer = await asyncio.to_thread(_exchange, (self.broker.address, self.broker.port), header + body)
        if flexible:  # correlation id, tags, throttle time, count + 1, user, error code
            place = 4 + 1 + 4 + 1
            place += answer[place]
            codes = struct.unpack_from(">h", answer, place)
        else:  # correlation id, throttle time, count, error code of the first
            codes = struct.unpack_from(">h", answer, 12)
        assert codes == (0,), (api, answer)

    def _properties(self, nodes: Nodes, node: int) -> Mapping[str, str]:
        self.address, port, controller_port = nodes[node]
        self.ports = {listener: free_port(self.address) for listener in LISTENERS}
        self.counted_port = free_port(self.address)
        told = self.ports | {"COUNTED": self.counted_port}
        listeners = {"PLAINTEXT": port, **self.ports}
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **LISTENERS}
        controller = f"CONTROLLER://{self.address}:{controller_port}"
        return {
            "listeners": ",".join([*(f"{n}://{self.address}:{p}" for n, p in listeners.items()), controller]),
            "advertised.listeners": ",".join(
                f"{n}://{self.address}:{p}" for n, p in {"PLAINTEXT": port, **told}.items()
            ),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:owner",
            **{name: value for listener in LISTENERS for name, value in self._listener(listener).items()},
        }

    def _listener(self, listener: str) -> dict[str, str]:
        place, protocol = f"listener.name.{listener.lower()}.", LISTENERS[listener]
        properties: dict[str, str] = {}
        if protocol.endswith("SSL"):
            until = datetime.now(UTC) + timedelta(days=-1 if listener == "EXPIRED" else 1)
            store = self._keystore(listener, until)
            properties |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(store)}
        if protocol == "SSL":
            properties |= {
                "ssl.client.auth": "required",
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.ca_file),
                "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
            }
        else:
            scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            users = " ".join(f'user_{user}="{password_of(user)}"' for user in USERS)
            properties |= {
                "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
                "plain.sasl.jaas.config": f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};",
                "scram-sha-256.sasl.jaas.config": scram,
                "scram-sha-512.sasl.jaas.config": scram,
            }
        return {place + name: value for name, value in properties.items()}

    def _keystore(self, listener: str, until: datetime) -> Path:
        name = "kafka.example" if listener == "MISNAMED" else self.address
        issued = self._authority.issue_cert(
            name,
            organization_unit_name=listener,  # a broker takes no other in its place
            not_before=until - timedelta(days=2),
            not_after=until,
        )
        file = self.folder / f"{listener}-{secrets.token_hex(4)}.pem"
        return _written(file, _pkcs8(issued) + issued.cert_chain_pems[0].bytes())


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def _pair(place: Path, issued: trustme.LeafCert) -> tuple[Path, Path]:
    certificate = _written(place.with_suffix(".crt"), issued.cert_chain_pems[0].bytes())
    return certificate, _written(place.with_suffix(".key"), issued.private_key_pem.bytes())


def _pkcs8(issued: trustme.LeafCert) -> bytes:
    """Kafka reads private keys in this form only."""
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _acl(user: str, permission: Permission) -> bytes:
    resource, name, _ = permission
    pattern = _PREFIXED if name.endswith("*") and name != "*" else _LITERAL
    named = name.removesuffix("*") if pattern == _PREFIXED else name
    return (
        struct.pack(">b", _RESOURCES[resource])
        + _text(named)
        + struct.pack(">b", pattern)
        + _text(f"User:{user}")
        + _text("*")
    )


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value.encode())) + value.encode()


def _compact(value: bytes) -> bytes:
    assert len(value) < 127
    return bytes([len(value) + 1]) + value


def _exchange(server: tuple[str, int], request: bytes) -> bytes:
    with socket.create_connection(server, timeout=10) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (length,) = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))
        return connection.recv(length, socket.MSG_WAITALL)
