"""The chart on a real control plane: what it renders is accepted, and releases come, change, go back, and go.

No container runs there (kwok says that they do), so nothing of the program is tested here.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import render
from tests.deploy.cluster.control_plane import Cluster, Refused
from tests.deploy.render import (
    CHART,
    KUBERNETES,
    NAMESPACE,
    RELEASE,
    Object,
    name_of,
    names,
    objects_of,
    pods,
    values_of,
)

#: What a namespace of a careful team has.
RESTRICTED = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn")}
#: A pod is ready as soon as kwok says so; the seconds that the chart waits after that prove nothing here.
DEFAULT = "promised"
AT_ONCE = ("--set", "receiver.minReadySeconds=0,processor.minReadySeconds=0")


def dumped(objects: Sequence[Object]) -> str:
    """YAML for ``kubectl -f -``."""
    return str(yaml.safe_dump_all(objects))


def rendered(name: str) -> list[Object]:
    """The objects of a set of values, each in its namespace."""
    objects = objects_of(name)
    for each in objects:
        each["metadata"].setdefault("namespace", NAMESPACE)
    return objects


def furnish(cluster: Cluster, objects: Sequence[Object]) -> None:
    """What has to be there before a release: namespaces, and the classes that its values name."""
    spaces = {each["metadata"]["namespace"] for each in objects} | {NAMESPACE}
    priorities = {each.spec["priorityClassName"] for each in pods(objects) if "priorityClassName" in each.spec}
    claims = [claim["spec"] for each in objects for claim in each.get("spec", {}).get("volumeClaimTemplates", ())]
    wanted = [
        *(_thing("v1", "Namespace", name, labels=RESTRICTED) for name in sorted(spaces)),
        *(_thing("scheduling.k8s.io/v1", "PriorityClass", name) | {"value": 1000} for name in sorted(priorities)),
        *(
            part
            for name in sorted({claim.get("storageClassName", DEFAULT) for claim in claims})
            for part in _storage(name)
        ),
    ]
    cluster.kubectl("apply", "-f", "-", text=dumped(wanted))


def _thing(api: str, kind: str, name: str, **metadata: Any) -> Object:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, **metadata}}


def _storage(name: str) -> Iterator[Object]:
    """A class with volumes that are only promised: nothing is ever written to one, as no container runs."""
    default = {"storageclass.kubernetes.io/is-default-class": str(name == DEFAULT).lower()}
    storage = _thing("storage.k8s.io/v1", "StorageClass", name, annotations=default)
    yield storage | {"provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "Immediate"}
    for number in range(6):
        spec = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": name,
            "hostPath": {"path": f"/{name}/{number}"},
        }
        yield _thing("v1", "PersistentVolume", f"{name}-{number}") | {"spec": spec}


# --- what is rendered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("name", names())
def test_both_helms_render_the_same_objects(name: str, kubernetes: str) -> None:
    """Helm 3 is still widely used, and has nothing to find fault with. Their blank lines differ, and nothing else."""
    render.helm(
        "helm3", "lint", str(CHART), "--strict", "--kube-version", f"{kubernetes}.0", "--values", str(values_of(name))
    )

    assert _sorted(objects_of(name, kubernetes, "helm3")) == _sorted(objects_of(name, kubernetes, "helm4"))


def _sorted(objects: list[Object]) -> list[Object]:
    return sorted(objects, key=lambda each: (each["kind"], each["metadata"]["name"], json.dumps(each)))


@pytest.mark.parametrize("name", names())
def test_the_api_server_takes_every_object(cluster: Cluster, name: str) -> None:
    """In a dry run, which looks at more than any schema. A warning is a failure; bare pods come below."""
    objects = [each for each in rendered(name) if each["kind"] != "Pod"]
    furnish(cluster, objects)

    assert len(dry_run(cluster, objects)) == len(objects)


def dry_run(cluster: Cluster, objects: Sequence[Object]) -> list[str]:
    """What the API server would do, a line each. Raises Refused, also where it only warns."""
    arguments = ("--dry-run=server", "--warnings-as-errors")
    return cluster.kubectl("apply", *arguments, "-f", "-", text=dumped(objects)).splitlines()


@pytest.mark.parametrize("name", names())
def test_every_pod_is_restricted(cluster: Cluster, name: str) -> None:
    """As a Pod of its own: of a Deployment that breaks the rules Kubernetes only says so, and then makes no pods."""
    furnish(cluster, rendered(name))
    bare = [_bare(number, each.template) for number, each in enumerate(pods(rendered(name)))]

    assert len(dry_run(cluster, bare)) == len(bare) > 0


def _bare(number: int, template: Object) -> Object:
    """A pod in the test's namespace, whose account exists. A claim's volume is none of a pod by itself."""
    mounted = {mount["name"] for container in template["spec"]["containers"] for mount in container["volumeMounts"]}
    volumes = template["spec"]["volumes"]
    claims = [{"name": name, "emptyDir": {}} for name in sorted(mounted - {volume["name"] for volume in volumes})]
    spec = {
        **template["spec"],
        "volumes": [*volumes, *claims],
        "serviceAccountName": "default",
        "priorityClassName": None,
    }
    metadata = {"name": f"bare-{number}", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


Fault = Callable[[Any], object]
FAULTS: dict[str, tuple[str, Fault]] = {
    "unknown field": ("StatefulSet", lambda spec: spec.update(replicaCount=2)),
    "both budgets": ("PodDisruptionBudget", lambda spec: spec.update(minAvailable=1, maxUnavailable=1)),
    "fewer than the fewest": ("HorizontalPodAutoscaler", lambda spec: spec.update(maxReplicas=1)),
    "fewer than none": ("Job", lambda spec: spec.update(backoffLimit=-1)),
    "no number": ("PodMonitor", lambda spec: spec["podMetricsEndpoints"][0].update(interval="often")),
    "no such method": ("HTTPRoute", lambda spec: spec["rules"][0]["matches"][0].update(method="FETCH")),
    "words for a number": ("KafkaTopic", lambda spec: spec.update(partitions="six")),
    "words for a count": ("ScaledObject", lambda spec: spec.update(maxReplicaCount="many")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_api_server_finds_what_was_planted(cluster: Cluster, fault: str) -> None:
    """So that the dry runs above can fail."""
    kind, plant = FAULTS[fault]
    found = next(each for name in names() for each in rendered(name) if each["kind"] == kind)
    furnish(cluster, [found])
    plant(found["spec"])

    with pytest.raises(Refused):
        dry_run(cluster, [found])


def test_a_pod_that_is_not_restricted_is_refused(cluster: Cluster) -> None:
    """... and of those of bare pods."""
    furnish(cluster, [])
    pod = _bare(0, next(pods(rendered(names()[0]))).template)
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True

    with pytest.raises(Refused, match="violates PodSecurity"):
        dry_run(cluster, [pod])


# --- the life of a release --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def installed(cluster: Cluster, name: str) -> Iterator[str]:
    """A release of one of the values; what helm said. Nothing of it is left afterwards but what is meant to be."""
    furnish(cluster, rendered(name))
    before = _everything(cluster)
    try:
        yield helm(cluster, "install", str(CHART), "--values", str(values_of(name)))
        cluster.helm("uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found", "--wait", "--timeout", "60s")
        _until(lambda: not _new(cluster, before))
    finally:
        _wipe(cluster, before)


def helm(cluster: Cluster, verb: str, *arguments: str, version: str = "helm4") -> str:
    """``install`` or ``upgrade``, until everything is ready."""
    common = ("-n", NAMESPACE, "--wait", "--timeout", "90s", *AT_ONCE)
    return cluster.helm(verb, RELEASE, *arguments, *common, name=version)


def _everything(cluster: Cluster) -> set[str]:
    """``namespace Kind/name`` of all that is there and was not made by Kubernetes' own controllers."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    kept = [
        kind for kind in kinds if not re.match(r"(events|leases|controllerrevisions|endpoints|endpointslices)\b", kind)
    ]
    return {f"{each['metadata']['namespace']} {name_of(each)}" for each in cluster.get(",".join(kept), "-A")}


def _new(cluster: Cluster, before: set[str]) -> set[str]:
    """What was not there before and is not meant to stay: claims have accepted events on them, topics events and the ledger."""
    kept = re.compile(r" (PersistentVolumeClaim/journal-|KafkaTopic/)")
    return {each for each in _everything(cluster) - before if not kept.search(each)}


def _wipe(cluster: Cluster, before: set[str]) -> None:
    """Claims, and whatever a failed test left; volumes are free again."""
    with contextlib.suppress(Refused):
        cluster.helm("uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found")
    _until(lambda: not _deleted(cluster, before))
    for volume in cluster.get("persistentvolumes"):
        if "claimRef" in volume["spec"]:
            cluster.kubectl("patch", "pv", volume["metadata"]["name"], "--type=json", "-p", json.dumps(_UNBOUND))


def _deleted(cluster: Cluster, before: set[str]) -> set[str]:
    """What was there beyond ``before``, and is on its way out now."""
    found = _everything(cluster) - before
    for each in found:
        space, _, what = each.partition(" ")
        cluster.kubectl("delete", what, "-n", space, "--ignore-not-found", "--wait=false")
    return found


_UNBOUND = [{"op": "remove", "path": "/spec/claimRef"}]


def _until(true: Callable[[], bool], within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def newer(folder: Path) -> Path:
    """The chart as its next version would be."""
    copy = folder / CHART.name
    shutil.copytree(CHART, copy)
    about = (copy / "Chart.yaml").read_text("utf-8")
    (copy / "Chart.yaml").write_text(re.sub(r"^(version|appVersion): .*$", r"\1: 9.8.7", about, flags=re.MULTILINE))
    return copy


@pytest.mark.parametrize("name", names())
def test_a_release_lives_and_leaves_nothing(cluster: Cluster, name: str, tmp_path: Path) -> None:
    """Install, upgrade to a newer chart with other settings, roll back, test, uninstall."""
    began = time.monotonic()
    values = ("--values", str(values_of(name)), "--set", "config.log.level=debug")
    with installed(cluster, name) as notes:
        helm(cluster, "upgrade", str(newer(tmp_path)), *values)
        assert _charts(cluster) == {"webex-events-9.8.7"}
        cluster.helm("rollback", RELEASE, "1", "-n", NAMESPACE, "--wait", "--timeout", "90s")
        assert "webex-events-9.8.7" not in _charts(cluster)
        history = json.loads(cluster.helm("history", RELEASE, "-n", NAMESPACE, "-o", "json"))
        said = asked_by_helm(cluster)

    assert [each["status"] for each in history] == ["superseded", "superseded", "deployed"]
    assert "Succeeded" in said or not [each for each in pods(objects_of(name)) if each.owner["kind"] == "Pod"]
    assert "NOTES:" in notes
    assert "<no value>" not in notes
    print(f"{name}: installed, upgraded, rolled back, tested, removed in {time.monotonic() - began:.1f} s")  # noqa: T201


def asked_by_helm(cluster: Cluster) -> str:
    """What ``helm test`` said. On a busy machine helm 4 may call a pod unready in its first second; then it is asked again."""
    command = ("test", RELEASE, "-n", NAMESPACE, "--timeout", "60s")
    try:
        return cluster.helm(*command)
    except Refused as refusal:
        if "status: InProgress" not in str(refusal):
            raise
    return cluster.helm(*command)


def _charts(cluster: Cluster) -> set[str]:
    """By which all workloads are made."""
    return {each["metadata"]["labels"]["helm.sh/chart"] for each in cluster.get("statefulsets,deployments", "-A")}


# --- what would be lost -----------------------------------------------------------------------------------------------


def _topics(cluster: Cluster) -> dict[str, int]:
    """Strimzi would make and delete them in Kafka as they come and go."""
    return {each["metadata"]["name"]: each["spec"]["partitions"] for each in cluster.get("kafkatopics", "-A")}


def test_topics_outlive_their_release(cluster: Cluster) -> None:
    """Another way to make them, or no release at all, deletes none; and the same release takes them over again."""
    values = ("--values", str(values_of("strimzi")))
    by_hand = "topics.mode=none,topics.strimzi.users.enabled=false"
    with installed(cluster, "strimzi"):
        made = _topics(cluster)
        helm(cluster, "upgrade", str(CHART), *values, "--set", by_hand)
        assert _topics(cluster) == made
        helm(cluster, "upgrade", str(CHART), *values)
        cluster.helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "60s")
        assert _topics(cluster) == made
        helm(cluster, "install", str(CHART), *values)

    assert len(made) == 13


def test_topics_keep_their_partitions(cluster: Cluster) -> None:
    """Strimzi would add some to topics that have records."""
    values = ("--values", str(values_of("strimzi")))
    with installed(cluster, "strimzi"):
        made = _topics(cluster)
        with pytest.raises(Refused, match=r"ledger has \d+ partitions, and config.kafka.topics.partitions is 48"):
            helm(cluster, "upgrade", str(CHART), *values, "--set", "config.kafka.topics.partitions=48")
        assert _topics(cluster) == made


AUTOSCALERS = {
    "receiver": ("hpa", "receiver.autoscaling.enabled=false", "receiver.autoscaling.minReplicas=4"),
    "processor": ("keda", "processor.keda.enabled=false", "processor.keda.minReplicas=4"),
}


@pytest.mark.parametrize("version", ["helm3", "helm4"])
@pytest.mark.parametrize("role", AUTOSCALERS)
def test_an_autoscaler_takes_no_pod_away_when_it_comes(cluster: Cluster, role: str, version: str) -> None:
    """Nor does an upgrade while it is on. Not even for the moment until it has looked: no other count was ever written."""
    name, off, on = AUTOSCALERS[role]
    chart = (str(CHART), "--values", str(values_of(name)))
    workload = f"statefulset/{RELEASE}-webex-events-{role}"
    furnish(cluster, rendered(name))
    before = _everything(cluster)
    try:
        helm(cluster, "install", *chart, "--set", f"{off},{role}.replicas=4", version=version)
        was = cluster.get(workload, "-n", NAMESPACE)[0]
        helm(cluster, "upgrade", *chart, "--set", on, version=version)
        scaled = cluster.get(workload, "-n", NAMESPACE)[0]
        cluster.kubectl("scale", workload, "-n", NAMESPACE, "--replicas=5")
        helm(cluster, "upgrade", *chart, "--set", on, version=version)
        later = cluster.get(workload, "-n", NAMESPACE)[0]
    finally:
        _wipe(cluster, before)

    # A generation is counted at each change of the specification.
    assert _count(scaled) == _count(was) == (4, was["metadata"]["generation"])
    assert _count(later) == (5, was["metadata"]["generation"] + 1)


def _count(workload: Object) -> tuple[int, int]:
    return workload["spec"]["replicas"], workload["metadata"]["generation"]


def test_an_autoscaler_for_fewer_receivers_than_there_are_is_refused(cluster: Cluster) -> None:
    """The journal of one that goes may hold events."""
    more = ("--set", "receiver.replicas=3")
    with installed(cluster, "minimal"):
        values = (str(CHART), "--values", str(values_of("minimal")), *more)
        helm(cluster, "upgrade", *values)
        with pytest.raises(Refused, match="minReplicas 2, and 3 receivers run"):
            helm(cluster, "upgrade", *values, "--set", "receiver.autoscaling.enabled=true")


# --- nodes are drained ------------------------------------------------------------------------------------------------


def _evict(cluster: Cluster, pod: str) -> None:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    cluster.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(body))


@pytest.mark.parametrize("role", ["receiver", "processor"])
def test_one_pod_of_a_role_at_a_time_may_be_evicted(cluster: Cluster, role: str) -> None:
    """The next one not before its successor is ready."""
    first, second = (f"{RELEASE}-webex-events-{role}-{number}" for number in range(2))
    with installed(cluster, "minimal"):
        _until(lambda: _allowed(cluster, role) == 1)
        cluster.kubectl("cordon", "--selector=kubernetes.io/os=linux")
        try:
            _evict(cluster, first)
            _until(lambda: _allowed(cluster, role) == 0)
            with pytest.raises(Refused, match="disruption budget"):
                _evict(cluster, second)
        finally:
            cluster.kubectl("uncordon", "--selector=kubernetes.io/os=linux")
        _until(lambda: _allowed(cluster, role) == 1)
        _evict(cluster, second)


def _allowed(cluster: Cluster, role: str) -> int:
    budget = cluster.get("poddisruptionbudget", f"{RELEASE}-webex-events-{role}", "-n", NAMESPACE)[0]
    return int(budget["status"].get("disruptionsAllowed", -1))


def test_a_node_can_be_drained(cluster: Cluster) -> None:
    """All of its pods find another place, one at a time."""
    with installed(cluster, "minimal"):
        node = cluster.get("pods", "-n", NAMESPACE)[0]["spec"]["nodeName"]
        try:
            cluster.kubectl("drain", node, "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=60s")
        finally:
            cluster.kubectl("uncordon", node)
        _until(lambda: all(_is_ready(each) for each in cluster.get("pods", "-n", NAMESPACE)))


def _is_ready(pod: Object) -> bool:
    return any(
        each["type"] == "Ready" and each["status"] == "True" for each in pod.get("status", {}).get("conditions", ())
    )
