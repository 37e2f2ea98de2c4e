"""A real control plane without a machine to run anything on: etcd, kube-apiserver, controller-manager, scheduler, and kwok in
the place of the kubelets. On loopback, in a folder of its own, about five seconds; nothing of it is left afterwards.

Volumes are only promised, network policies only stored, probes and preStop never run.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.deploy.tools import tool
from tests.ports import free_port

HERE = Path(__file__).parent
NODES = ("a", "b", "c")
#: Seconds from SIGTERM to SIGKILL: the API server would wait a minute for its connections.
PATIENCE = 2


class CannotStart(RuntimeError):
    """Something did not come up; the message has the end of what it said."""


class Refused(RuntimeError):
    """kubectl or helm ended with an error; the message is theirs."""


@dataclass(frozen=True)
class Cluster:
    """One that runs."""

    folder: Path
    port: int
    token: str

    @property
    def kubeconfig(self) -> Path:
        """For kubectl, helm and whoever else speaks to it."""
        return self.folder / "kubeconfig"

    def kubectl(self, *arguments: str, text: str = "") -> str:
        """What it printed. Raises Refused."""
        command = (str(tool("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments)
        return _printed(command, self.folder, text)

    def helm(self, *arguments: str, name: str = "helm4") -> str:
        """The same by a helm."""
        return _printed((str(tool(name)), "--kubeconfig", str(self.kubeconfig), *arguments), self.folder)

    def get(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects that ``kubectl get`` finds."""
        found = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return list(found["items"]) if found["kind"] == "List" else [found]

    def answers(self, path: str) -> bool:
        """Whether the API server answers with 200."""
        context = ssl._create_unverified_context()  # noqa: S323 - its certificate is made anew each time, on loopback
        asked = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=2, context=context)
        with contextlib.closing(asked), contextlib.suppress(OSError, http.client.HTTPException):
            asked.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
            return asked.getresponse().status == 200
        return False


def _printed(command: tuple[str, ...], home: Path, text: str = "") -> str:
    """Run to its end, with a home of its own: helm keeps a cache there."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    done = subprocess.run(command, input=text, env=environ, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode:
        raise Refused(f"{done.stderr}\n{done.stdout}"[-6000:])
    return done.stdout


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[Cluster]:
    """One with three nodes and the CRDs that the chart may use. Raises CannotStart."""
    cluster = Cluster(folder, free_port(), secrets.token_hex(16))
    etcd = free_port()
    _write_files(cluster)
    with contextlib.ExitStack() as stack:
        for name, arguments in _first(cluster, etcd):
            stack.enter_context(_running(cluster, name, arguments))
        _until(lambda: cluster.answers("/readyz"), cluster, "kube-apiserver")
        for name, arguments in _second(cluster):
            stack.enter_context(_running(cluster, name, arguments))
        _furnish(cluster)
        yield cluster


def _write_files(cluster: Cluster) -> None:
    key = rsa.generate_private_key(65537, 2048)
    kinds = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (cluster.folder / "accounts.key").write_bytes(key.private_bytes(*kinds))
    (cluster.folder / "tokens.csv").write_text(f'{cluster.token},tests,tests,"system:masters"\n')
    server = {"server": f"https://127.0.0.1:{cluster.port}", "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": server}],
        "users": [{"name": "tests", "user": {"token": cluster.token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        "current-context": "tests",
    }
    cluster.kubeconfig.write_text(json.dumps(config))


Command = tuple[str, dict[str, object]]


def _first(cluster: Cluster, etcd: int) -> Iterator[Command]:
    """What has to be there before anything else can ask."""
    client, peer = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{free_port()}"
    yield (
        "etcd",
        {
            "data-dir": cluster.folder / "etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "unsafe-no-fsync": "true",
        },
    )
    yield (
        "kube-apiserver",
        {
            "etcd-servers": client,
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": cluster.port,
            "cert-dir": cluster.folder / "certificates",
            "token-auth-file": cluster.folder / "tokens.csv",
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": cluster.folder / "accounts.key",
            "service-account-signing-key-file": cluster.folder / "accounts.key",
            "service-cluster-ip-range": "10.96.0.0/24,fd00:96::/112",
            "endpoint-reconciler-type": "none",
        },
    )


def _second(cluster: Cluster) -> Iterator[Command]:
    """What makes pods of workloads, gives them a node, and lets them run."""
    yield (
        "kube-controller-manager",
        {
            "kubeconfig": cluster.kubeconfig,
            "service-account-private-key-file": cluster.folder / "accounts.key",
            "use-service-account-credentials": "true",
            "leader-elect": "false",
            "secure-port": 0,
        },
    )
    yield "kube-scheduler", {"kubeconfig": cluster.kubeconfig, "leader-elect": "false", "secure-port": 0}
    yield (
        "kwok",
        {
            "kubeconfig": cluster.kubeconfig,
            "config": HERE / "stages.yaml",
            "manage-all-nodes": "true",
            "node-ip": "127.0.0.1",
            "node-port": 0,
            "cidr": "10.128.0.0/16",
            "node-lease-duration-seconds": 40,
        },
    )


@contextlib.contextmanager
def _running(cluster: Cluster, name: str, options: dict[str, object]) -> Iterator[None]:
    """A process that has ended when the block has."""
    command = (str(tool(name)), *(f"--{option}={value}" for option, value in options.items()))
    with (cluster.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=cluster.folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until(true: Callable[[], bool], cluster: Cluster, who: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        if time.monotonic() > deadline:
            said = (cluster.folder / f"{who}.log").read_text(errors="replace")
            raise CannotStart(f"{who} is not ready:\n{said[-3000:]}")
        time.sleep(0.1)


def _furnish(cluster: Cluster) -> None:
    """Nodes in two zones, and the kinds of the extensions."""
    nodes = [_node(name, zone) for name, zone in zip(NODES, ("one", "two", "one"), strict=True)]
    cluster.kubectl("apply", "-f", "-", text="\n---\n".join(map(json.dumps, nodes)))
    crds = str(tool("schemas") / "crds")
    cluster.kubectl("apply", "--server-side", "-f", crds)
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", crds)
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "node", "--all")


def _node(name: str, zone: str) -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone, "kubernetes.io/os": "linux"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
