"""The policies hold for every set of values, and each of them finds what it is there for."""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.policies import POLICIES, Policy
from tests.deploy.render import (
    CHART,
    Object,
    Rendering,
    name_of,
    names,
    objects_of,
    of_kind,
    parse,
    rendered,
    values_of,
)

PEERS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}}}]
#: Everything that a policy looks at.
EVERYTHING = {
    "kafka": {"bootstrapServers": ["kafka:9092"]},
    "webhook": {"existingSecret": "webhook-secrets"},
    "webex": {"existingSecret": "webex-token"},
    "receiver": {
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "edge"}], "hostnames": ["hooks.example"]},
        "autoscaling": {"enabled": True},
    },
    "networkPolicy": {"enabled": True, "webhooksFrom": PEERS, "metricsFrom": PEERS, "kafka": {"peers": PEERS}},
}


@functools.cache
def _everything() -> str:
    return Rendering(sets=tuple(f"{name}={json.dumps(value)}" for name, value in EVERYTHING.items())).text()


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.__name__)
def test_every_rendering_keeps_the_policies(policy: Policy, name: str) -> None:
    """Whatever the values. Objects that the operator adds are the operator's."""
    assert list(policy(parse(_ours(name)))) == []


@functools.cache
def _ours(name: str) -> str:
    return Rendering(values=values_of(name), sets=("extraObjects=[]",)).text()


def test_the_sample_for_faults_is_a_good_one() -> None:
    """What is found below was planted."""
    assert [sentence for policy in POLICIES for sentence in policy(parse(_everything()))] == []


# --- planted faults ---------------------------------------------------------------------------------------------------


def _one(objects: list[Object], name: str) -> Any:
    return next(each for each in objects if name_of(each) == name)


RECEIVER = "StatefulSet/hooks-webex-events-receiver"
PROCESSOR = "StatefulSet/hooks-webex-events-processor"
BUDGET = "PodDisruptionBudget/hooks-webex-events-processor"
SERVICE = "Service/hooks-webex-events-receiver"


def _pod(objects: list[Object], name: str = RECEIVER) -> Any:
    return _one(objects, name)["spec"]["template"]["spec"]


def _container(objects: list[Object], name: str = RECEIVER) -> Any:
    return _pod(objects, name)["containers"][0]


def _change(what: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Set them, or take away those that are None; for use in an expression."""
    for name, value in fields.items():
        what[name] = value
        if value is None:
            del what[name]
    return what


Fault = Callable[[list[Object]], object]

FAULTS: dict[str, list[Fault]] = {
    "images_are_of_one_version": [
        lambda o: _change(_container(o), image="registry.example:5000/webex-events"),
        lambda o: _change(_container(o), image="webex-events:latest"),
    ],
    "resources_are_set": [
        lambda o: _change(_container(o), resources=None),
        lambda o: _container(o)["resources"].pop("limits"),
    ],
    "nobody_is_root": [
        lambda o: _change(_pod(o)["securityContext"], runAsNonRoot=None),
        lambda o: _change(_container(o)["securityContext"], runAsUser=0),
    ],
    "containers_have_no_rights": [
        lambda o: _change(_container(o)["securityContext"], allowPrivilegeEscalation=None),
        lambda o: _change(_container(o)["securityContext"], readOnlyRootFilesystem=False),
        lambda o: _change(_container(o)["securityContext"], capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        lambda o: _change(_pod(o)["securityContext"], seccompProfile=None),
        lambda o: _change(_container(o)["securityContext"], privileged=True),
    ],
    "nothing_is_of_the_node": [
        lambda o: _change(_pod(o), hostNetwork=True),
        lambda o: _pod(o)["volumes"].append({"name": "run", "hostPath": {"path": "/run"}}),
        lambda o: _change(_container(o)["ports"][0], hostPort=80),
    ],
    "nobody_has_a_token": [
        lambda o: _change(_pod(o), automountServiceAccountToken=None),
        lambda o: _change(_pod(o), serviceAccountName=None),
        lambda o: _change(_one(o, "ServiceAccount/hooks-webex-events-receiver"), automountServiceAccountToken=True),
        lambda o: o.append({"kind": "RoleBinding", "metadata": {"name": "rights"}}),
    ],
    "services_are_not_in_the_environment": [lambda o: _change(_pod(o), enableServiceLinks=None)],
    "secrets_are_files": [
        lambda o: _container(o)["env"].append({"name": "WEBEX_EVENTS_WEBEX__TOKEN", "value": "x"}),
        lambda o: _container(o)["env"].append({"name": "X", "valueFrom": {"secretKeyRef": {"name": "x", "key": "x"}}}),
        lambda o: _change(_container(o), envFrom=[{"secretRef": {"name": "x"}}]),
        lambda o: o.append({"kind": "Secret", "metadata": {"name": "x"}}),
    ],
    "temporary_files_have_a_place": [
        lambda o: _change(_container(o), volumeMounts=[]),
        lambda o: _change(next(v for v in _pod(o)["volumes"] if v["name"] == "tmp"), emptyDir={}),
    ],
    "mounts_have_volumes": [
        lambda o: _pod(o)["volumes"].append({"name": "unused", "emptyDir": {}}),
        lambda o: _one(o, RECEIVER)["spec"].pop("volumeClaimTemplates"),
        lambda o: _change(_container(o)["volumeMounts"][0], subPath="config.yaml"),
    ],
    "probes_mean_what_they_say": [
        lambda o: _change(_container(o), startupProbe=None),
        lambda o: _change(_container(o)["livenessProbe"]["httpGet"], path="/readyz"),
        lambda o: _change(_container(o)["readinessProbe"], timeoutSeconds=None),
        lambda o: _change(_container(o)["readinessProbe"]["httpGet"], port="metrics"),
    ],
    "pods_have_time_to_end": [
        lambda o: _change(_pod(o), terminationGracePeriodSeconds=39),
        lambda o: _change(_pod(o, PROCESSOR), terminationGracePeriodSeconds=29),
        lambda o: _change(_container(o)["lifecycle"], preStop={"exec": {"command": ["sleep", "10"]}}),
    ],
    "jobs_end": [
        lambda o: _change(of_kind(o, "Job")[0]["spec"], activeDeadlineSeconds=None),
        lambda o: _change(of_kind(o, "Job")[0]["spec"], backoffLimit=None),
    ],
    "workloads_select_their_own_pods": [
        lambda o: _one(o, RECEIVER)["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/version": "1"}),
        lambda o: _one(o, RECEIVER)["spec"]["selector"]["matchLabels"].pop("app.kubernetes.io/component"),
        lambda o: _one(o, PROCESSOR)["spec"]["template"]["metadata"].update(
            labels=_one(o, RECEIVER)["spec"]["template"]["metadata"]["labels"]
        ),
    ],
    "services_lead_to_a_port": [
        lambda o: _change(_one(o, SERVICE)["spec"], selector={"app.kubernetes.io/name": "webex-events"}),
        lambda o: _change(_one(o, SERVICE)["spec"]["ports"][0], targetPort="http"),
    ],
    "the_private_port_stays_private": [
        lambda o: _one(o, SERVICE)["spec"]["ports"].append({"name": "admin", "port": 9090, "targetPort": "admin"}),
        lambda o: _change(
            of_kind(o, "HTTPRoute")[0]["spec"]["rules"][0]["backendRefs"][0], name="hooks-webex-events-receiver-pods"
        ),
    ],
    "budgets_let_nodes_be_drained": [
        lambda o: _change(_one(o, BUDGET)["spec"], maxUnavailable=0),
        lambda o: _change(_one(o, BUDGET)["spec"], maxUnavailable=None, minAvailable=2),
        lambda o: _change(_one(o, BUDGET)["spec"], minAvailable=1),
        lambda o: _change(_one(o, BUDGET)["spec"], unhealthyPodEvictionPolicy=None),
        lambda o: _change(
            _one(o, BUDGET)["spec"], selector={"matchLabels": {"app.kubernetes.io/name": "webex-events"}}
        ),
    ],
    "one_hand_on_the_number_of_pods": [
        lambda o: _change(_one(o, RECEIVER)["spec"], replicas=2),
        lambda o: _change(_one(o, PROCESSOR)["spec"], replicas=None),
        lambda o: _change(of_kind(o, "HorizontalPodAutoscaler")[0]["spec"]["scaleTargetRef"], kind="Deployment"),
        lambda o: o.append(copy.deepcopy(of_kind(o, "HorizontalPodAutoscaler")[0])),
    ],
    "networks_name_their_peers": [
        lambda o: _change(of_kind(o, "NetworkPolicy")[0]["spec"], egress=[{"ports": [{"port": 443}]}]),
        lambda o: _change(of_kind(o, "NetworkPolicy")[0]["spec"], egress=[{"to": PEERS}]),
        lambda o: _change(
            of_kind(o, "NetworkPolicy")[0]["spec"],
            egress=[{"to": [{"namespaceSelector": {}}], "ports": [{"port": 443}]}],
        ),
        lambda o: [_change(each["spec"], policyTypes=["Ingress"]) for each in of_kind(o, "NetworkPolicy")],
    ],
    "objects_are_labelled": [
        lambda o: _one(o, SERVICE)["metadata"].pop("labels"),
        lambda o: _one(o, SERVICE)["metadata"]["labels"].update({"helm.sh/chart": "webex-events-1.0.0+build"}),
        lambda o: _one(o, SERVICE)["metadata"]["labels"].update({"tier": 1}),
        lambda o: _one(o, RECEIVER)["spec"]["template"]["metadata"]["labels"].update({"helm.sh/chart": "x-1"}),
        lambda o: _one(o, RECEIVER)["spec"]["template"]["metadata"]["labels"].pop("app.kubernetes.io/component"),
    ],
    "names_are_given_once": [
        lambda o: o.append(_one(o, SERVICE)),
        lambda o: _change(_one(o, RECEIVER)["metadata"], name="r" * 53),
    ],
    "objects_have_a_namespace": [lambda o: _one(o, SERVICE)["metadata"].pop("namespace")],
    "what_is_referred_to_is_there": [
        lambda o: o.remove(_one(o, "ConfigMap/hooks-webex-events")),
        lambda o: o.remove(_one(o, "ServiceAccount/hooks-webex-events-receiver")),
    ],
}


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, faults in FAULTS.items() for number in range(len(faults))]
)
def test_a_policy_finds_what_was_planted(name: str, number: int) -> None:
    """Each fault of the table, by the policy that it is for."""
    objects = parse(_everything())
    FAULTS[name][number](objects)
    policy = next(each for each in POLICIES if each.__name__ == name)

    assert list(policy(objects)) != []


def test_every_policy_has_a_planted_fault() -> None:
    """One without could not fail."""
    assert {policy.__name__ for policy in POLICIES} == set(FAULTS)


# --- one rendering and another ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_a_rendering_is_the_same_every_time(name: str) -> None:
    """No time of day and no dice: they would restart pods, and show as a difference for ever in GitOps."""
    assert Rendering(values=values_of(name)).text() == rendered(name)


@pytest.mark.parametrize("name", names())
def test_a_new_version_changes_nothing_that_cannot_be_changed(name: str, tmp_path: Path) -> None:
    """A StatefulSet would have to be deleted, with its pods."""
    newer = tmp_path / CHART.name
    shutil.copytree(CHART, newer)
    about = (newer / "Chart.yaml").read_text("utf-8")
    (newer / "Chart.yaml").write_text(re.sub(r"^(version|appVersion): .*$", r"\1: 9.8.7", about, flags=re.MULTILINE))

    assert _immutable(Rendering(values=values_of(name), chart=newer).objects()) == _immutable(objects_of(name))


def test_what_workloads_select_by_is_what_it_was() -> None:
    """Literally: whoever has installed the first version has these for ever."""
    found = {name: each["selector"]["matchLabels"] for name, each in _immutable(parse(_everything())).items()}

    assert found == {
        f"StatefulSet/hooks-webex-events-{role}": {
            "app.kubernetes.io/name": "webex-events",
            "app.kubernetes.io/instance": "hooks",
            "app.kubernetes.io/component": role,
        }
        for role in ("receiver", "processor")
    }


def _immutable(objects: list[Object]) -> dict[str, dict[str, Any]]:
    """Of each workload, what Kubernetes lets nobody change."""
    fields = ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")
    workloads = of_kind(objects, "Deployment", "StatefulSet")
    return {name_of(each): {name: each["spec"].get(name) for name in fields} for each in workloads}


@pytest.mark.parametrize("name", names())
def test_pods_are_replaced_when_the_settings_change_and_only_then(name: str) -> None:
    """The program reads them once."""
    changed = Rendering(values=values_of(name), sets=('config.log={"level": "debug"}',)).objects()

    for before, after in zip(_templates(objects_of(name)), _templates(changed), strict=True):
        assert before != after
    relabelled = Rendering(values=values_of(name), sets=("revisionHistoryLimit=4",)).objects()
    assert _templates(relabelled) == _templates(objects_of(name))


def _templates(objects: list[Object]) -> list[Any]:
    return [each["spec"]["template"] for each in of_kind(objects, "Deployment", "StatefulSet")]


@pytest.mark.parametrize("name", names())
def test_a_long_name_of_a_release_breaks_nothing(name: str) -> None:
    """Helm takes 53 characters; Kubernetes takes 63 with everything that is appended, labels of a revision included."""
    objects = Rendering(values=values_of(name), release="r" * 53, sets=("extraObjects=[]",)).objects()

    assert [sentence for policy in POLICIES for sentence in policy(objects)] == []


@pytest.mark.parametrize("name", names())
def test_names_that_yaml_takes_for_something_else_break_nothing(name: str) -> None:
    """A release may be called 123, and a chart `no`."""
    sets = ("extraObjects=[]", 'nameOverride="no"', 'webhook.existingSecret="1"', 'webex.existingSecret="2"')
    objects = Rendering(values=values_of(name), release="123", sets=sets).objects()

    assert [sentence for policy in POLICIES for sentence in policy(objects)] == []
    assert [value for each in objects for value in _named(each) if not isinstance(value, str)] == []


def _named(node: Any) -> Iterator[object]:
    """What refers to a name, at any depth."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key in {"name", "secretName", "serviceAccountName"})
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _named(each)
