"""Kafka with certificates, passwords and permissions: what is right works, and what is not is said once, without a hot loop."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiokafka
import httpx
import pytest
from structlog.testing import capture_logs

from service.bus.journal import Journal
from service.bus.kafka import KafkaConsumer, KafkaProducer, KafkaReader
from service.bus.kafka_admin import kafka_admin
from service.bus.kafka_connection import Connection
from service.bus.kafka_security import Security
from service.bus.publisher import KafkaFirstPublisher
from service.bus.topics import TopicPlan
from service.cli.clock import utc_now
from service.cli.trigger import notification, send
from service.core.errors import CannotStore, KafkaUnavailable
from tests.cli.program import Running, invoke, refusal, run, running
from tests.kafka.records import create_topics, first_occurrences, numbered, producing, read_topic, send_all
from tests.kafka.secured import CANARY, LISTENERS, Permission, Relay, SecuredKafka, password_of
from tests.ports import free_port

SETTINGS = {
    "protocol": "KAFKA__SECURITY_PROTOCOL",
    "mechanism": "KAFKA__SASL__MECHANISM",
    "username": "KAFKA__SASL__USERNAME",
    "password_file": "KAFKA__SASL__PASSWORD_FILE",
    "ca_file": "KAFKA__CA_FILE",
    "cert_file": "KAFKA__CERT_FILE",
    "key_file": "KAFKA__KEY_FILE",
}
WORK = (TopicPlan(name="work", partitions=1),)


def settings_of(connection: Connection) -> dict[str, str]:
    """The settings, as an operator writes them."""
    given = {SETTINGS[name]: str(value) for name, value in vars(connection.security).items() if value}
    if not connection.security.sasl:
        del given["KAFKA__SASL__MECHANISM"]
    return {"KAFKA__BOOTSTRAP_SERVERS": connection.bootstrap_servers, **given}


async def brokers_seen(connection: Connection) -> int:
    """As an admin client counts them. Raises KafkaUnavailable."""
    async with kafka_admin(connection) as admin:
        return await admin.brokers()


async def refused(connection: Connection) -> str:
    """Why it does not work."""
    with pytest.raises(KafkaUnavailable) as error:
        await brokers_seen(connection)
    return str(error.value)


# --- who is let in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listener", ["SASL_SSL", "SSL", "SASL_PLAINTEXT"])
async def test_what_is_right_is_let_in(secured_kafka: SecuredKafka, listener: str) -> None:
    """By a password in TLS, by a certificate, by a password alone; and nothing is logged about it."""
    with capture_logs() as logs:
        assert await brokers_seen(secured_kafka.connection(listener)) == 1

    assert logs == []


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_scram(secured_kafka: SecuredKafka, mechanism: str) -> None:
    """With the right password of such a user, whatever characters it has, and not with another one."""
    password = f"{CANARY},=\u00e4 "
    await secured_kafka.set_scram("scram", password, mechanism)
    right = Security("SASL_SSL", mechanism, "scram", secured_kafka.password_file("", password), secured_kafka.ca_file)
    server = secured_kafka.server("SASL_SSL")

    assert await brokers_seen(Connection(server, right)) == 1
    wrong = replace(right, password_file=secured_kafka.password_file("", password + "x"))
    assert f"refuses the user name or the password ({mechanism})" in await refused(Connection(server, wrong))


# --- who is refused, and why ------------------------------------------------------------------------------------------

Change = Callable[[SecuredKafka, Security], Security]


@pytest.mark.parametrize(
    ("listener", "change", "reason"),
    [
        pytest.param(
            "SASL_SSL",
            lambda kafka, right: replace(right, password_file=kafka.password_file("owner", f"{CANARY}-wrong")),
            "the broker refuses the user name or the password (PLAIN); correct WEBEX_EVENTS_KAFKA__SASL__USERNAME or the file"
            " of WEBEX_EVENTS_KAFKA__SASL__PASSWORD_FILE",
            id="a wrong password",
        ),
        pytest.param(
            "SASL_SSL",
            lambda kafka, right: replace(right, ca_file=kafka.other_ca_file),
            "the broker's certificate is by an authority that the file of WEBEX_EVENTS_KAFKA__CA_FILE does not have",
            id="another authority",
        ),
        pytest.param(
            "SASL_SSL",
            lambda kafka, right: replace(right, ca_file=None),
            "the broker's certificate is by an authority that this system does not trust",
            id="the system's authorities",
        ),
        pytest.param("EXPIRED", None, "the broker's certificate has expired", id="an expired certificate"),
        pytest.param("MISNAMED", None, "the broker's certificate is not for this host's name", id="a wrong host name"),
        pytest.param(
            "SSL",
            lambda kafka, right: replace(right, cert_file=None, key_file=None),
            "the broker wants a certificate of ours",
            id="no certificate of ours",
        ),
        pytest.param(
            "SSL",
            lambda kafka, right: replace(right, cert_file=kafka.stranger[0], key_file=kafka.stranger[1]),
            "the broker refuses our certificate",
            id="a certificate that the broker does not trust",
        ),
        pytest.param(
            "SASL_SSL",
            lambda kafka, right: kafka.security("SASL_PLAINTEXT"),
            "look whether its listener speaks SASL_PLAINTEXT",
            id="no TLS where there should be",
        ),
        pytest.param(
            "SASL_PLAINTEXT",
            lambda kafka, right: kafka.security("SSL"),
            "look whether its listener speaks SSL",
            id="TLS where there is none",
        ),
        pytest.param(
            "SASL_SSL",
            lambda kafka, right: replace(kafka.security("SSL"), cert_file=None, key_file=None),
            "look whether its listener speaks SSL (WEBEX_EVENTS_KAFKA__SECURITY_PROTOCOL)",
            id="no password where there should be",
        ),
        pytest.param(
            "SASL_SSL",
            lambda kafka, right: Security(),
            "look whether its listener speaks PLAINTEXT",
            id="nothing where there should be everything",
        ),
    ],
)
async def test_a_refusal_says_what_to_do(
    secured_kafka: SecuredKafka, listener: str, change: Change | None, reason: str
) -> None:
    """Each way to be refused has its sentence, with the setting that mends it and without any secret."""
    right = secured_kafka.security(LISTENERS[listener])
    wrong = change(secured_kafka, right) if change is not None else right

    with capture_logs() as logs:
        said = await refused(Connection(secured_kafka.server(listener), wrong))

    assert reason in said
    assert CANARY not in f"{said} {logs}"


async def test_a_listener_without_passwords(secured_kafka: SecuredKafka) -> None:
    """One that asks for none is said to be such."""
    said = await refused(Connection(secured_kafka.cluster.bootstrap, secured_kafka.security("SASL_PLAINTEXT")))

    assert said == "the broker's listener does not ask for a password; correct WEBEX_EVENTS_KAFKA__SECURITY_PROTOCOL"


async def test_nothing_shows_the_password(secured_kafka: SecuredKafka) -> None:
    """Neither the connection nor what it makes has it in its repr."""
    connection = secured_kafka.connection("SASL_SSL")
    async with kafka_admin(connection) as admin:
        shown = f"{connection!r} {connection} {connection.access!r} {vars(connection.access)} {admin!r} {vars(admin)}"

    assert password_of("owner") not in shown


# --- the command line, as a process -----------------------------------------------------------------------------------


def test_topics_apply(tmp_path: Path, secured_kafka: SecuredKafka) -> None:
    """``topics apply`` works through SASL_SSL, by the settings alone; through SASL_PLAINTEXT it warns."""
    safe = settings_of(secured_kafka.connection("SASL_SSL")) | {"KAFKA__TOPIC_PREFIX": "cli."}
    done = run("topics", "apply", folder=tmp_path, settings=safe)
    assert (done.returncode, done.stdout.count(b" created ")) == (0, 13), done
    assert b"password" not in done.stderr

    unsafe = settings_of(secured_kafka.connection("SASL_PLAINTEXT")) | {"KAFKA__TOPIC_PREFIX": "cli."}
    done = invoke("topics", "plan", folder=tmp_path, settings=unsafe)
    assert (done.returncode, done.stdout.count(b" unchanged")) == (0, 13), done
    assert b"warning: the password for Kafka goes over the network as it is; use SASL_SSL" in done.stderr


def test_a_wrong_password_is_4(tmp_path: Path, secured_kafka: SecuredKafka) -> None:
    """One sentence, which says what to correct, and exit code 4."""
    settings = settings_of(secured_kafka.connection("SASL_SSL"))
    settings["KAFKA__SASL__PASSWORD_FILE"] = str(secured_kafka.password_file("owner", f"{CANARY}-wrong"))

    (line,) = refusal(invoke("topics", "plan", folder=tmp_path, settings=settings), 4)

    assert line.startswith(
        f"Kafka at {secured_kafka.server('SASL_SSL')} cannot do it now: the broker refuses the user name"
    )
    assert CANARY not in line


def test_files_that_are_no_good_are_2(tmp_path: Path, secured_kafka: SecuredKafka) -> None:
    """All of them at once, each by its setting's name, before anybody is called; no path and nothing of a file is shown."""
    empty, rubbish = tmp_path / "canary-1", tmp_path / "canary-2"
    empty.write_bytes(b"\n")
    rubbish.write_text("-----BEGIN CANARY-----\n")
    kafka = secured_kafka
    cases = [
        (
            {"password_file": empty, "ca_file": rubbish, "cert_file": tmp_path / "canary-3", "key_file": tmp_path},
            [
                "WEBEX_EVENTS_KAFKA__SASL__PASSWORD_FILE: the file is empty",
                "WEBEX_EVENTS_KAFKA__CA_FILE: the file has no certificate in PEM form",
                "WEBEX_EVENTS_KAFKA__CERT_FILE: the file cannot be read (FileNotFoundError)",
                "WEBEX_EVENTS_KAFKA__KEY_FILE: the file cannot be read (IsADirectoryError)",
            ],
        ),
        (
            {"cert_file": kafka.cert_file, "key_file": kafka.stranger[1]},
            ["WEBEX_EVENTS_KAFKA__KEY_FILE: it is not the key of the certificate in WEBEX_EVENTS_KAFKA__CERT_FILE"],
        ),
        (
            {"cert_file": kafka.cert_file, "key_file": kafka.encrypted_key_file},
            ["WEBEX_EVENTS_KAFKA__KEY_FILE: the key is encrypted; it must be readable without a pass phrase"],
        ),
        (
            {"cert_file": rubbish, "key_file": kafka.key_file},
            [
                "WEBEX_EVENTS_KAFKA__CERT_FILE and WEBEX_EVENTS_KAFKA__KEY_FILE: no certificate and private key in PEM form"
            ],
        ),
    ]
    for files, expected in cases:
        security = replace(kafka.security("SASL_SSL"), **files)  # type: ignore[arg-type]  # names of files only
        settings = settings_of(Connection("127.0.0.1:1", security))
        done = invoke("topics", "plan", folder=tmp_path, settings=settings)
        assert (done.returncode, done.stderr.decode().splitlines()) == (2, expected)


# --- while it runs ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def started(client: Any) -> AsyncIterator[Any]:
    """A client of aiokafka while the block runs."""
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def within(seconds: float, true: Callable[[], Any]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.05)


async def test_a_running_client_takes_the_password_that_the_file_has_now(secured_kafka: SecuredKafka) -> None:
    """One client for its whole life: its connection ends, the password in the file is wrong, then right again.

    While it is wrong, the broker is asked once a second at most, however often aiokafka wants to, and one line says so.
    """
    await create_topics(secured_kafka.cluster, "alive.", WORK)
    connection = secured_kafka.connection("COUNTED")
    file = connection.security.password_file
    assert file is not None
    async with secured_kafka.counted() as relay, started(connection.client(aiokafka.AIOKafkaProducer)) as producer:
        await producer.send_and_wait("alive.work", b"1")
        with capture_logs() as logs:
            file.write_text(f"{CANARY}-wrong")
            relay.hang_up()
            before, begun = relay.connections, time.monotonic()
            sending = asyncio.create_task(producer.send_and_wait("alive.work", b"2"))
            await within(5, lambda: logs)
            await asyncio.sleep(3)
            attempts, seconds = relay.connections - before, time.monotonic() - begun
            file.write_text(password_of("owner"))
            async with asyncio.timeout(10):
                assert (await sending).offset == 1

    assert [each["event"] for each in logs] == ["kafka.refused", "kafka.accepted"]
    assert logs[0]["log_level"] == "error"
    assert "PASSWORD_FILE" in logs[0]["reason"]
    assert CANARY not in str(logs)
    assert 2 <= attempts <= seconds + 1


async def test_files_that_are_gone_for_a_while_change_nothing(secured_kafka: SecuredKafka) -> None:
    """While a file is replaced, or empty, what it held last is used; the log says so once."""
    connection = secured_kafka.connection("SASL_SSL")
    file = connection.security.password_file
    assert file is not None
    await brokers_seen(connection)
    with capture_logs() as logs:
        file.unlink()
        assert [await brokers_seen(connection) for _ in range(3)] == [1, 1, 1]
        file.write_text("")
        assert await brokers_seen(connection) == 1
        file.write_text(password_of("owner"))
        assert await brokers_seen(connection) == 1

    assert [(each["event"], each["reason"].partition(": ")[2]) for each in logs] == [
        ("kafka.credentials_kept", "the file cannot be read (FileNotFoundError)"),
        ("kafka.credentials_kept", "the file is empty"),
    ]


# --- Kafka first, journal second --------------------------------------------------------------------------------------

#: A client that is let in has a connection to look around, one to the cluster, and one or two to a broker: all of them are
#: one attempt where the permission is missing.
CONNECTIONS = 4

FAULTS = (
    "wrong password",
    "unknown authority",
    "expired certificate",
    "no permission at all",
    "no permission for one topic",
)

Mend = Callable[[], Awaitable[object]]


@dataclass
class Refused:
    """A publisher that has everything right but for one fault: what it was given, and what became of that."""

    prefix: str
    connection: Connection
    relay: Relay
    mend: Mend
    stored: list[int] = field(default_factory=list)
    not_stored: list[int] = field(default_factory=list)
    noticed: float = 0.0  # seconds until it was known that Kafka acknowledges nothing
    attempts: float = 0.0  # a second, at most

    async def run(self, journal: Journal | None, all_broken: asyncio.Barrier) -> None:
        """Some seconds with the fault, then without it."""
        publisher = KafkaFirstPublisher(KafkaProducer(connection=self.connection, topic_prefix=self.prefix), journal)
        begun, before = time.monotonic(), self.relay.connections
        await publisher.start()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(8):
                    group.create_task(self._publish(publisher, number))
                    await asyncio.sleep(0.4)
                    if not publisher.healthy and not self.noticed:
                        self.noticed = time.monotonic() - begun
            self.attempts = (self.relay.connections - before) / (time.monotonic() - begun + 1)
            await all_broken.wait()
            await self.mend()
            await within(20, lambda: publisher.healthy and not publisher.spooled)
            await self._publish(publisher, 8)
        finally:
            await publisher.stop()

    async def _publish(self, publisher: KafkaFirstPublisher, number: int) -> None:
        try:
            await publisher.publish([numbered("k", number)])
        except CannotStore:
            self.not_stored.append(number)
        else:
            self.stored.append(number)


@asynccontextmanager
async def refused_by(kafka: SecuredKafka, fault: str, prefix: str, counted: Relay) -> AsyncIterator[Refused]:
    """With the fault in it, and all that mends it."""
    await create_topics(kafka.cluster, prefix, WORK)
    if fault.startswith("no permission"):
        user = "clerk" if fault.endswith("at all") else "operator"
        await kafka.allow("operator", ("topic", "another", "write"), ("topic", f"{prefix}*", "describe"))
        needed = [("topic", f"{prefix}*", operation) for operation in ("write", "describeConfigs")]
        yield Refused(prefix, kafka.connection("COUNTED", user=user), counted, lambda: kafka.allow(user, *needed))
        return
    listener = "EXPIRED" if fault == "expired certificate" else "SASL_SSL"
    async with kafka.relayed(listener) as (relay, server):
        security = kafka.security("SASL_SSL")
        if fault == "expired certificate":
            yield Refused(
                prefix, Connection(server, security), relay, lambda: kafka.replace_certificate(listener, days=1)
            )
            await kafka.replace_certificate(listener, days=-1)
            return
        assert security.password_file is not None
        right, file = password_of("owner").encode(), security.password_file
        if fault == "unknown authority":
            right, file = kafka.ca_file.read_bytes(), kafka.folder / f"{prefix}ca"
            security = replace(security, ca_file=file)
        file.write_bytes(kafka.other_ca_file.read_bytes())  # for a password as wrong as for an authority
        yield Refused(prefix, Connection(server, security), relay, lambda: asyncio.to_thread(file.write_bytes, right))


async def test_whoever_is_refused_goes_on_without_a_restart(
    secured_kafka: SecuredKafka, tmp_path: Path, topic_prefix: str
) -> None:
    """With a journal all is taken, and sent once the fault is mended; without one it is refused, and that is known at once.

    Meanwhile Kafka is not asked more than once a second, and the log says each thing once for each process.
    """
    places = {(fault, kept): f"{topic_prefix}{n}{kept}." for n, fault in enumerate(FAULTS) for kept in (True, False)}
    all_broken = asyncio.Barrier(len(places))
    with capture_logs() as logs:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            counted = await enter(secured_kafka.counted())
            tried = {
                place: await enter(refused_by(secured_kafka, place[0], prefix, counted))
                for place, prefix in places.items()
            }
            journals = {
                place: await enter(await Journal.open(tmp_path / prefix)) if place[1] else None
                for place, prefix in places.items()
            }
            async with asyncio.TaskGroup() as group:
                for place, each in tried.items():
                    group.create_task(each.run(journals[place], all_broken))

    for (fault, kept), each in tried.items():
        there = first_occurrences(await read_topic(secured_kafka.cluster, each.prefix, "work"))
        assert (bool(each.not_stored), len(each.stored) > 1) == (not kept, kept), (fault, each)
        assert set(each.stored) <= set(there["k"]), (fault, each, there)
        assert there["k"] == sorted(there["k"]), (fault, each, there)
        assert 0 < each.noticed < 10 or "one topic" in fault, (fault, each)  # others may well be written to
        assert each.attempts <= (4 * CONNECTIONS if each.relay is counted else 1), (fault, each)
    said = Counter((each["event"], each.get("server"), each.get("reason")) for each in logs)
    assert max(said.values()) <= len(tried)
    assert {count for (event, _, reason), count in said.items() if reason} == {1, 2}  # one of each kind, and no more
    assert sum(count for (event, *_), count in said.items() if event == "kafka.refused") == 6
    assert CANARY not in str(logs)


# --- permissions to read ----------------------------------------------------------------------------------------------


class Assigned:
    """A listener that has nothing to do."""

    async def assigned(self, partitions: frozenset[int]) -> None:
        """Nothing is restored."""

    async def revoked(self, partitions: frozenset[int]) -> None:
        """Nothing is drained."""


async def consumed_once_permitted(
    kafka: SecuredKafka, prefix: str, given: Sequence[Permission], missing: Sequence[Permission]
) -> None:
    """A consumer that lacks ``missing`` for some seconds, and has records soon after."""
    user = "clerk"
    await kafka.allow(user, *given)
    consumer = KafkaConsumer(
        connection=kafka.connection("COUNTED", user=user), topic_prefix=prefix, topic="work", group=f"{prefix}group"
    )
    await consumer.start(Assigned())
    try:
        begun = time.monotonic()
        while time.monotonic() - begun < 2.5:
            assert await consumer.poll() == ()
        await kafka.allow(user, *missing)
        async with asyncio.timeout(20):
            while not await consumer.poll():
                pass
    finally:
        await consumer.stop()


async def test_a_consumer_waits_for_its_permissions(secured_kafka: SecuredKafka, topic_prefix: str) -> None:
    """Without the group, without the topic, and where it may know of the topic, but not read it.

    Each says once what is missing, keeps its connections, and begins by itself when it is permitted.
    """
    prefixes = [f"{topic_prefix}{n}." for n in range(3)]
    for prefix in prefixes:
        await create_topics(secured_kafka.cluster, prefix, WORK)
        async with producing(secured_kafka.cluster, prefix) as producer:
            await send_all(producer, [numbered("k", 1)])
    reads: list[Permission] = [("topic", f"{prefix}*", "read") for prefix in prefixes]
    groups: list[Permission] = [("group", f"{prefix}*", "read") for prefix in prefixes]
    describe: Permission = ("topic", f"{prefixes[2]}*", "describe")
    with capture_logs() as logs:
        async with secured_kafka.counted() as relay, asyncio.TaskGroup() as group:
            for n, missing in enumerate((groups, reads, reads)):
                given = [(groups if missing is reads else reads)[n], *([describe] if n == 2 else [])]
                group.create_task(consumed_once_permitted(secured_kafka, prefixes[n], given, [missing[n]]))

    assert relay.connections <= 3 * 5
    denied = {each["group"]: each["reason"] for each in logs if each["event"] == "consumer.denied"}
    mend = "add the ACL, docs/reference/kafka.md has them all"
    assert denied == {
        f"{prefixes[0]}group": f"no permission for the consumer group {prefixes[0]}group; {mend}",
        f"{prefixes[1]}group": f"no permission for the topic {prefixes[1]}work; {mend}",
        f"{prefixes[2]}group": f"no permission for the topic {prefixes[2]}work; {mend}",
    }
    said = Counter((each["event"], each.get("group")) for each in logs)
    assert {count for (event, _), count in said.items() if event.startswith(("consumer.denied", "consumer.lost"))} == {
        1
    }


async def test_a_reader_says_what_it_may_not_read(secured_kafka: SecuredKafka, topic_prefix: str) -> None:
    """At once, whether it may know of the topic or not; it is not the same as a Kafka that does not answer."""
    await create_topics(secured_kafka.cluster, topic_prefix, WORK)
    async with producing(secured_kafka.cluster, topic_prefix) as producer:
        await send_all(producer, [numbered("k", 1)])
    reader = KafkaReader(connection=secured_kafka.connection("SASL_SSL", user="downstream"), topic_prefix=topic_prefix)
    for permission in ("describe", "read"):
        async with asyncio.timeout(5):
            with pytest.raises(KafkaUnavailable, match=f"no permission for the topic {topic_prefix}work; add the ACL"):
                [record async for record in reader.read("work", 0)]
        await secured_kafka.allow("downstream", ("topic", f"{topic_prefix}*", permission))

    assert [record.value async for record in reader.read("work", 0)] == [b"1"]


# --- the receiver, as a process ---------------------------------------------------------------------------------------

SECRET = "secured-webhook-secret"


@contextmanager
def receiver(folder: Path, connection: Connection, prefix: str, **settings: str) -> Iterator[tuple[Running, str]]:
    """`serve receiver`, and the address of its probes."""
    port = free_port()
    given = {
        **settings_of(connection),
        "BUS": "kafka",
        "KAFKA__TOPIC_PREFIX": prefix,
        "WEBHOOK__SECRET": SECRET,
        "RECEIVER__HOST": "127.0.0.1",
        "RECEIVER__PORT": str(free_port()),
        "ADMIN__PORT": str(port),
        **settings,
    }
    folder.mkdir()
    with running("serve", "receiver", folder=folder, settings=given) as process:
        yield process, f"http://127.0.0.1:{port}/readyz"


def answered(process: Running) -> int:
    """The status of one signed webhook."""
    (started,) = process.until("receiver.started")
    body = notification("meetings.updated", series="5" * 32, now=utc_now(), data={})
    return send(started["webhook"], body, secret=SECRET.encode())


def ready(process: Running, probe: str) -> bool:
    """What its probe says, once it is there."""
    process.until("receiver.started")
    return httpx.get(probe, trust_env=False).status_code == 200


def test_a_receiver_with_a_wrong_password(tmp_path: Path, secured_kafka: SecuredKafka, topic_prefix: str) -> None:
    """With a journal: ready, 2xx, and sent when the file has been corrected. Without: not ready and 503 until then.

    Neither is restarted. Both say once why, and what to do, and never the password.
    """
    connection = secured_kafka.connection("SASL_SSL")
    file = connection.security.password_file
    assert file is not None
    apply = invoke(
        *("topics", "apply"), folder=tmp_path, settings=settings_of(connection) | {"KAFKA__TOPIC_PREFIX": topic_prefix}
    )
    assert apply.returncode == 0, apply
    file.write_text(f"{CANARY}-wrong")
    with (
        receiver(tmp_path / "with", connection, topic_prefix) as (with_journal, probe),
        receiver(tmp_path / "without", connection, topic_prefix, JOURNAL__ENABLED="false") as (without, other_probe),
    ):
        assert [answered(with_journal) for _ in range(3)] == [204] * 3
        assert answered(without) == 503
        assert (ready(with_journal, probe), ready(without, other_probe)) == (True, False)
        if (limits := Path(f"/proc/{without.process.pid}/limits")).exists():
            assert re.search(r"Max core file size +0 +0 ", limits.read_text())  # the password is in its memory

        file.write_text(password_of("owner"))
        for each in (with_journal, without):
            each.until("kafka.accepted")
        with_journal.until("publisher.drained")
        without.wait(lambda: [ready(without, other_probe)] if ready(without, other_probe) else [], "ready")
        assert (answered(with_journal), answered(without)) == (204, 204)
        for each in (with_journal, without):
            assert each.end(signal.SIGTERM) == 0
            (refused,) = each.events("kafka.refused")
            assert refused["level"] == "error"
            assert "correct WEBEX_EVENTS_KAFKA__SASL__USERNAME or the file of" in refused["reason"]
            assert CANARY not in str(each.lines)

    there = asyncio.run(read_topic(secured_kafka.cluster, topic_prefix, "meetings", partitions=6))
    assert len(there) == 5
