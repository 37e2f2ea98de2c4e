"""The receiver's Pod, cut out of the rendered chart and run by ``podman play kube``, with its own securityContext and files."""

from __future__ import annotations

import uuid
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.image.engine import Engine
from tests.deploy.image.images import PRODUCT, ROOT
from tests.deploy.image.receiver import SECRET, Receiver
from tests.deploy.tools import tool

CHART = ROOT / "helm" / "webex-events"

#: What podman 4.3 cannot do: nobody asks the probes, and it refuses or ignores the rest.
_NOT_FOR_PODMAN = (
    "serviceAccountName",
    "topologySpreadConstraints",
    "automountServiceAccountToken",
    "enableServiceLinks",
)
_NOT_IN_A_CONTAINER = ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle", "ports")

Document = dict[str, Any]


@pytest.fixture
def played(engine: Engine, tmp_path: Path) -> Iterator[Receiver]:
    """The Pod runs, with its journal on a volume and its secret in a folder; it has no network, so Kafka is away."""
    release = f"check-{uuid.uuid4().hex[:8]}"
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump_all(_cut(_rendered(engine, release), release)))
    engine.podman("play", "kube", "--network", "none", str(file))
    yield Receiver(engine, release)
    engine.podman("pod", "rm", "--force", "--time", "0", release)
    engine.podman("volume", "rm", "--force", f"{release}-journal", f"{release}-webhooks", f"{release}-webex-events")
    engine.run("podman", "secret", "rm", f"{release}-webhooks")


def _rendered(engine: Engine, release: str) -> list[Document]:
    secret = ("--set", f"webhook.existingSecret={release}-webhooks")
    values = ("--values", str(CHART / "ci" / "minimal-values.yaml"))
    text = engine.do(str(tool("helm4")), "template", release, str(CHART), *values, *secret)
    return [document for document in yaml.safe_load_all(text) if document]


def _cut(documents: list[Document], release: str) -> list[Document]:
    """The Pod as the StatefulSet makes it, and what it mounts."""
    (workload,) = [d for d in documents if d["kind"] == "StatefulSet" and d["metadata"]["name"].endswith("-receiver")]
    spec: Document = workload["spec"]["template"]["spec"]
    for name in _NOT_FOR_PODMAN:
        spec.pop(name, None)
    (container,) = spec["containers"]
    for name in _NOT_IN_A_CONTAINER:
        container.pop(name, None)
    container["image"] = PRODUCT
    for volume in spec["volumes"]:
        for source in ("secret", "configMap"):
            volume.get(source, {}).setdefault("optional", False)  # podman 4.3 falls over where it is left out
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    claim |= {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "metadata": {"name": f"{release}-journal"}}
    spec["volumes"].append({"name": "journal", "persistentVolumeClaim": {"claimName": f"{release}-journal"}})
    settings = [d for d in documents if d["kind"] == "ConfigMap" and d["metadata"]["name"] == f"{release}-webex-events"]
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{release}-webhooks"},
            "data": {"current": b64encode(SECRET.encode()).decode()},
        },
        *settings,
        claim,
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": release}, "spec": spec},
    ]


def test_the_charts_own_pod_takes_a_signed_event_and_ends_in_time(played: Receiver, figures: list[str]) -> None:
    played.wait_ready()
    # What it has mounted: podman 4.3 leaves the base64 in the file.
    mounted = played.inside("print(open('/etc/webex-events/secrets/webhook/current').read())")
    assert b64encode(SECRET.encode()).decode() == mounted or mounted == SECRET
    code, said = played.beside("trigger", "meetings.created", WEBHOOK__SECRET=mounted)
    assert (code, "answered 204" in said) == (0, True), said
    assert played.inside("import os; print(os.getuid(), os.access('/etc', os.W_OK))") == "65532 False"
    code, seconds = played.stop()
    assert code == 0, played.log()
    assert seconds < 25
    figures.append(f"the chart's receiver Pod by `podman play kube`: SIGTERM to exit 0 in {seconds:.1f} s")
