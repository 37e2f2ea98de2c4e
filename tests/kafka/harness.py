"""Real Apache Kafka for tests: KRaft, one or three brokers on loopback, ready in 1 to 4 seconds and about 150 MiB each.

The jars come from Maven once (`pom.xml`), into a cache; after that only `java` is started, without shell scripts.
Every node is broker and controller. Ports lie below 32768: one of the ephemeral range may be taken meanwhile.

    with Cluster.started(brokers=3) as cluster:
        cluster.bootstrap              # "127.0.0.11:20911,127.0.0.12:..."
        cluster.brokers[0].kill()      # SIGKILL; .stop() SIGTERM, .pause() SIGSTOP, .resume() SIGCONT
        cluster.brokers[0].start()     # the same address and data; returns at once
        cluster.wait_ready()           # or: await cluster.ready()

A broker ends with the thread that started it (Linux: PR_SET_PDEATHSIG), so start brokers from the main thread. Where
that does not exist, leftovers of a dead harness are ended at the next start.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from service.bus.kafka_connection import Connection
from tests.ports import free_port

POM = Path(__file__).with_name("pom.xml")
FOLDER_PREFIX = "webex-events-kafka-"

Jvm = tuple[str, ...]
"""What the Java machine of a broker is told."""

#: Up within two seconds and small. It compiles in haste, so that such a broker never gets as fast as one that is used.
SOON_UP: Jvm = ("-Xms64m", "-Xmx128m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
_LOGGING = """\
status = off
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %-5p %c{1} %m%n
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
"""
#: Ends the child with its parent, and does not start it where the parent is gone already.
_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
)


class KafkaUnavailable(Exception):
    """There is no Java, no Maven, or no artifacts here. The message says which."""


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/webex-event-processor``, else ``.cache`` in the project (git-ignored)."""
    outside = os.environ.get("XDG_CACHE_HOME")
    return Path(outside) / "webex-event-processor" if outside else POM.parents[2] / ".cache"


def install(cache: Path) -> Path:
    """The folder with Kafka's jars and a formatted ``bootstrap.checkpoint``; made once, whole or not at all."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None and not (tool == "mvn" and _home(cache).exists()):
            raise KafkaUnavailable(f"no `{tool}` in PATH")
    home = _home(cache)
    if home.exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            _install(home)
    return home


def _home(cache: Path) -> Path:
    pom = POM.read_text()
    version = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([^<]+)<", pom)
    if version is None:
        raise KafkaUnavailable(f"no version of kafka_2.13 in {POM.name}")
    return cache / "kafka" / f"kafka-{version[1]}-{hashlib.sha256(pom.encode()).hexdigest()[:8]}"


def _install(home: Path) -> None:
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="new-") as folder:
        new = Path(folder) / "home"
        (new / "format").mkdir(parents=True)
        goal = ("dependency:copy-dependencies", f"-DoutputDirectory={new / 'lib'}", "-DincludeScope=runtime")
        _run_or_unavailable(("mvn", "-q", "-B", "-f", str(POM), *goal))
        (new / "log4j2.properties").write_text(_LOGGING)
        properties = new / "format" / "server.properties"
        properties.write_text(_lines(_properties({1: ("127.0.0.1", 2, 3)}, 1, new / "format" / "data")))
        tool = ("kafka.tools.StorageTool", "format", "-t", _random_id(), "-c", str(properties))
        _run_or_unavailable((*_java(new, SOON_UP), *tool))
        shutil.copy(new / "format" / "data" / "bootstrap.checkpoint", new)
        new.rename(home)


def _run_or_unavailable(command: tuple[str, ...]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        raise KafkaUnavailable(f"`{command[0]}` did not end within 300 s") from None
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise KafkaUnavailable(f"`{command[0]}` failed: {said[0][:200] if said else done.returncode}")


def _java(home: Path, jvm: Jvm) -> tuple[str, ...]:
    logging = f"-Dlog4j2.configurationFile={home / 'log4j2.properties'}"
    return ("java", *jvm, logging, "-cp", f"{home / 'lib'}/*")


def _random_id() -> str:
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


Nodes = Mapping[int, tuple[str, int, int]]
"""Node id → address, port for clients, port for controllers."""

Extra = Callable[[Nodes, int], Mapping[str, str]]
"""Properties of one node that are added to the usual ones, or replace them."""


def _properties(nodes: Nodes, node: int, data: Path) -> dict[str, str]:
    address, port, controller_port = nodes[node]
    copies, enough = str(len(nodes)), str(min(2, len(nodes)))
    return {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "log.dirs": str(data),
        "listeners": f"PLAINTEXT://{address}:{port},CONTROLLER://{address}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{address}:{port}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": ",".join(f"{n}@{a}:{c}" for n, (a, _, c) in nodes.items()),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": enough,
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": enough,
        "group.initial.rebalance.delay.ms": "0",
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "300",
        "log.cleaner.dedupe.buffer.size": "2097152",
        "log.cleaner.backoff.ms": "500",
        "log.index.size.max.bytes": "1048576",
        "num.network.threads": "2",
        "num.io.threads": "4",
    }


def _lines(properties: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in properties.items())


class Broker:
    """One node: its address, its data folder, and its process while it runs."""

    def __init__(self, home: Path, folder: Path, address: str, port: int, jvm: Jvm = SOON_UP) -> None:
        self.address = address
        self.port = port
        self._jvm = jvm
        self._home = home
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process, on the same address and data as before; returns at once."""
        if self.running:
            return
        command = (*_java(self._home, self._jvm), "kafka.Kafka", str(self._folder / "server.properties"))
        if sys.platform == "linux":
            command = (sys.executable, "-I", "-S", "-c", _WITH_PARENT, str(os.getpid()), *command)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        (self._folder / "pid").write_text(str(self._process.pid))

    def stop(self, timeout: float = 30) -> None:
        """SIGTERM, then SIGKILL after ``timeout`` seconds."""
        self._signal(signal.SIGTERM)
        self._wait(timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)
        self._wait(10)

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing answers. Returns once it stands still: a thread may run on for a moment."""
        self._signal(signal.SIGSTOP)
        while self._process is not None and self.running and not _stands_still(self._process.pid):
            time.sleep(0.001)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def log(self) -> str:
        """What the broker printed (warnings and worse)."""
        return (self._folder / "log").read_text(errors="replace")

    def _signal(self, number: int) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def _wait(self, timeout: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(timeout)


class Cluster:
    """Brokers that belong together. ``brokers`` is empty for a cluster that is not ours."""

    def __init__(self, bootstrap: str, brokers: tuple[Broker, ...] = ()) -> None:
        self.bootstrap = bootstrap
        self.brokers = brokers

    @property
    def connection(self) -> Connection:
        """How a client of ours reaches it."""
        return Connection(bootstrap_servers=self.bootstrap)

    @classmethod
    @contextmanager
    def started(
        cls,
        brokers: int = 1,
        *,
        cache: Path | None = None,
        extra: Extra = lambda _nodes, _node: {},
        jvm: Jvm = SOON_UP,
    ) -> Iterator[Cluster]:
        """Fresh brokers in a temporary folder, ready; all is gone afterwards. Raises KafkaUnavailable."""
        home = install(cache or cache_folder())
        end_leftovers()
        with tempfile.TemporaryDirectory(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
            cluster = cls._formatted(home, Path(folder), brokers, extra, jvm)
            try:
                for broker in cluster.brokers:
                    broker.start()
                cluster.wait_ready()
                yield cluster
            finally:
                for broker in cluster.brokers:
                    broker.kill()

    @classmethod
    def _formatted(cls, home: Path, folder: Path, count: int, extra: Extra, jvm: Jvm) -> Cluster:
        nodes = _free_nodes(count)
        identity = _random_id()
        brokers = []
        for node, (address, port, _) in nodes.items():
            place = folder / f"node-{node}"
            data = place / "data"
            data.mkdir(parents=True)
            shutil.copy(home / "bootstrap.checkpoint", data)
            ids = {"version": "1", "cluster.id": identity, "node.id": str(node), "directory.id": _random_id()}
            (data / "meta.properties").write_text(_lines(ids))
            (place / "server.properties").write_text(_lines({**_properties(nodes, node, data), **extra(nodes, node)}))
            brokers.append(Broker(home, place, address, port, jvm))
        return cls(",".join(f"{b.address}:{b.port}" for b in brokers), tuple(brokers))

    def wait_ready(self, timeout: float = 60) -> None:
        """Return when every running broker lists every running broker. Raises RuntimeError with the end of its log."""
        deadline = time.monotonic() + timeout
        expected = sum(broker.running for broker in self.brokers)
        for broker in [b for b in self.brokers if b.running]:
            while _brokers_listed_by(broker.address, broker.port) < expected:
                if not broker.running or time.monotonic() > deadline:
                    raise RuntimeError(f"Kafka at {broker.address}:{broker.port} is not ready:\n{broker.log()[-2000:]}")
                time.sleep(0.05)

    async def ready(self, timeout: float = 60) -> None:
        """:meth:`wait_ready` beside a running event loop."""
        await asyncio.to_thread(self.wait_ready, timeout)


def _free_nodes(count: int) -> dict[int, tuple[str, int, int]]:
    own_address = sys.platform == "linux"
    addresses = [f"127.0.0.{10 + n}" if own_address else "127.0.0.1" for n in range(1, count + 1)]
    return {n: (address, free_port(address), free_port(address)) for n, address in enumerate(addresses, start=1)}


def _brokers_listed_by(address: str, port: int) -> int:
    """The number of brokers in the answer to a Metadata request (version 1, no topics); 0 where there is none."""
    request = struct.pack(">hhih4si", 3, 1, 1, 4, b"test", 0)
    try:
        with socket.create_connection((address, port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.recv(12, socket.MSG_WAITALL)
    except OSError:
        return 0
    return int(struct.unpack(">iii", answer)[2]) if len(answer) == 12 else 0


def end_leftovers(folder: Path | None = None) -> None:
    """End the brokers of harnesses that were killed, and remove their folders."""
    for place in (folder or Path(tempfile.gettempdir())).glob(f"{FOLDER_PREFIX}*-*"):
        owner = place.name.removeprefix(FOLDER_PREFIX).split("-")[0]
        if not owner.isdigit() or _command_line(int(owner)):
            continue
        for pid in place.glob("node-*/pid"):
            number = int(pid.read_text() or 0)
            if str(place) in _command_line(number):
                os.kill(number, signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)


def _stands_still(pid: int) -> bool:
    """Every thread is stopped; where nobody tells (no Linux), it is taken for granted."""
    return all(_state(thread) == "T" for thread in Path(f"/proc/{pid}/task").glob("*/stat"))


def _state(stat: Path) -> str:
    """``pid (name) state …``; a thread that has ended meanwhile stands still as well (proc(5))."""
    with suppress(OSError):
        return stat.read_text().rpartition(") ")[2][0]
    return "T"


def _command_line(pid: int) -> str:
    """The command line of a process, "" where there is none."""
    return subprocess.run(("ps", "-o", "command=", "-p", str(pid)), capture_output=True, text=True, check=False).stdout
