"""What has to be so in every rendering, whatever the values: each policy takes the objects and says what is wrong.

The schemas say what Kubernetes understands (:mod:`tests.deploy.test_chart`); these say what we hold for right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from tests.deploy.render import Object, Pods, name_of, of_kind, pods, selects

Policy = Callable[[Sequence[Object]], Iterator[str]]

#: What the program takes at most from SIGTERM to its end, and some air: docs/reference/metrics.md.
WATCHDOG, AIR = 25, 5
#: A label's value: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/.
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
SELECTOR = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")}
WORKLOADS = ("Deployment", "StatefulSet")


# --- pods -------------------------------------------------------------------------------------------------------------


def _containers(objects: Sequence[Object]) -> Iterator[tuple[str, Pods, Object]]:
    for each in pods(objects):
        for container in each.containers:
            yield f"{each.name}, container {container['name']}", each, container


def images_are_of_one_version(objects: Sequence[Object]) -> Iterator[str]:
    """A digest, or a tag that is not moved on."""
    for where, _, container in _containers(objects):
        image, _, digest = container["image"].partition("@")
        tag = image.rpartition("/")[2].partition(":")[2]
        if not digest and tag in {"", "latest", "stable", "main", "master"}:
            yield f"{where}: image {container['image']} may be another tomorrow"


def resources_are_set(objects: Sequence[Object]) -> Iterator[str]:
    """Requests to be placed by, and a limit of memory. None of CPU: that would slow it down on an idle node."""
    for where, _, container in _containers(objects):
        resources = container.get("resources", {})
        for kind, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if not resources.get(kind, {}).get(name):
                yield f"{where}: no {kind}.{name}"


def nobody_is_root(objects: Sequence[Object]) -> Iterator[str]:
    """Neither by number nor by what the image says."""
    for where, each, container in _containers(objects):
        security = {**each.spec.get("securityContext", {}), **container.get("securityContext", {})}
        if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
            yield f"{where}: may be root"


def containers_have_no_rights(objects: Sequence[Object]) -> Iterator[str]:
    """What Pod Security calls restricted, and a root that cannot be written."""
    for where, each, container in _containers(objects):
        security = {**each.spec.get("securityContext", {}), **container.get("securityContext", {})}
        wanted = {
            "allowPrivilegeEscalation": security.get("allowPrivilegeEscalation") is False,
            "readOnlyRootFilesystem": security.get("readOnlyRootFilesystem") is True,
            "capabilities.drop": security.get("capabilities") == {"drop": ["ALL"]},
            "seccompProfile": security.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "privileged": not security.get("privileged"),
        }
        yield from (f"{where}: {name} is not as it should be" for name, right in wanted.items() if not right)


def nothing_is_of_the_node(objects: Sequence[Object]) -> Iterator[str]:
    """No namespaces, ports or folders of it."""
    for each in pods(objects):
        shared = [
            name for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace") if each.spec.get(name)
        ]
        shared += [f"volume {volume['name']}" for volume in each.spec.get("volumes", ()) if "hostPath" in volume]
        ports = (port for container in each.containers for port in container.get("ports", ()))
        shared += [f"port {port['hostPort']}" for port in ports if "hostPort" in port]
        if shared:
            yield f"{each.name} shares with its node: {', '.join(shared)}"


def nobody_has_a_token(objects: Sequence[Object]) -> Iterator[str]:
    """Nothing of ours asks the API server for anything."""
    for each in pods(objects):
        if each.spec.get("automountServiceAccountToken") is not False:
            yield f"{each.name} has a token for the API server"
        if not each.spec.get("serviceAccountName"):
            yield f"{each.name} uses the namespace's default account"
    for account in of_kind(objects, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"{name_of(account)} gives its token to every pod"
    yield from (f"{name_of(each)} gives rights" for each in objects if each["kind"].startswith(("Role", "ClusterRole")))


def services_are_not_in_the_environment(objects: Sequence[Object]) -> Iterator[str]:
    """Their variables would begin like our settings."""
    for each in pods(objects):
        if each.spec.get("enableServiceLinks") is not False:
            yield f"{each.name} has the namespace's Services in its environment"


def secrets_are_files(objects: Sequence[Object]) -> Iterator[str]:
    """Everybody who may look at a pod sees its environment, and child processes have it. No chart has secrets of its own."""
    for where, _, container in _containers(objects):
        for variable in container.get("env", ()):
            secret = "secretKeyRef" in variable.get("valueFrom", {})
            named = re.search(r"(SECRET|TOKEN|PASSWORD|KEY)$", variable["name"])
            if secret or named:
                yield f"{where}: {variable['name']} is a secret in the environment"
        if any("secretRef" in source for source in container.get("envFrom", ())):
            yield f"{where}: a whole secret is in the environment"
    yield from (f"{name_of(each)} is in the chart" for each in of_kind(objects, "Secret"))


def temporary_files_have_a_place(objects: Sequence[Object]) -> Iterator[str]:
    """``/tmp`` can be written, and cannot fill the node."""
    for where, each, container in _containers(objects):
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", ())}
        volumes = [volume for volume in each.spec.get("volumes", ()) if volume["name"] == mounts.get("/tmp")]  # noqa: S108
        if not any(volume.get("emptyDir", {}).get("sizeLimit") for volume in volumes):
            yield f"{where}: /tmp is no emptyDir with a limit"


def mounts_have_volumes(objects: Sequence[Object]) -> Iterator[str]:
    """Every mount names a volume or a claim's template, and every volume is mounted somewhere."""
    for each in pods(objects):
        made = {volume["name"] for volume in each.spec.get("volumes", ())}
        made |= {claim["metadata"]["name"] for claim in each.owner["spec"].get("volumeClaimTemplates", ())}
        mounted = {mount["name"] for container in each.containers for mount in container.get("volumeMounts", ())}
        if made != mounted:
            yield f"{each.name}: volumes {sorted(made - mounted)} are not mounted, {sorted(mounted - made)} do not exist"
        if any("subPath" in mount for container in each.containers for mount in container.get("volumeMounts", ())):
            yield f"{each.name}: a subPath does not change with its secret"


def probes_mean_what_they_say(objects: Sequence[Object]) -> Iterator[str]:
    """All three; a restart is asked for by ``/livez`` only, and a blocked loop has some seconds."""
    for each in pods(objects):
        for container in each.spec["containers"] if each.serves else ():
            for name, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
                probe = container.get(name, {})
                if probe.get("httpGet", {}).get("path") != path:
                    yield f"{each.name}: {name} does not ask {path}"
                if probe.get("timeoutSeconds", 1) < 2:
                    yield f"{each.name}: {name} has no patience"
                if probe.get("httpGet", {}).get("port") not in {port["name"] for port in container.get("ports", ())}:
                    yield f"{each.name}: {name} asks a port that the container does not name"


def pods_have_time_to_end(objects: Sequence[Object]) -> Iterator[str]:
    """The grace time has begun when preStop runs."""
    for each in pods(objects):
        hooks = [container.get("lifecycle", {}).get("preStop", {}) for container in each.containers]
        if any("sleep" not in hook for hook in hooks if hook):
            yield f"{each.name}: preStop is no sleep of Kubernetes' own"
        needed = max((hook["sleep"]["seconds"] for hook in hooks if "sleep" in hook), default=0) + WATCHDOG + AIR
        if each.serves and each.spec.get("terminationGracePeriodSeconds", 30) < needed:
            yield f"{each.name} is killed before the {needed} s that it may take"


def jobs_end(objects: Sequence[Object]) -> Iterator[str]:
    """One that cannot succeed is given up."""
    for job in of_kind(objects, "Job"):
        for name in ("backoffLimit", "activeDeadlineSeconds"):
            if job["spec"].get(name) is None:
                yield f"{name_of(job)}: no {name}"


# --- what selects what ------------------------------------------------------------------------------------------------


def workloads_select_their_own_pods(objects: Sequence[Object]) -> Iterator[str]:
    """By labels that never change (a selector cannot), and nobody else's pods."""
    every = list(pods(objects))
    for workload in of_kind(objects, *WORKLOADS):
        selector = workload["spec"]["selector"]
        if set(selector.get("matchLabels", {})) != SELECTOR:
            yield f"{name_of(workload)} selects by {sorted(selector.get('matchLabels', {}))}"
        found = [each.name for each in every if selects(selector, each.labels)]
        if found != [name_of(workload)]:
            yield f"{name_of(workload)} selects the pods of {found}"


def services_lead_to_a_port(objects: Sequence[Object]) -> Iterator[str]:
    """Of the pods of exactly one workload."""
    for service in of_kind(objects, "Service"):
        found = [each for each in pods(objects) if selects({"matchLabels": service["spec"]["selector"]}, each.labels)]
        if len(found) != 1 or not found[0].serves:
            yield f"{name_of(service)} leads to {[each.name for each in found]}"
            continue
        ports = {port["name"] for container in found[0].containers for port in container.get("ports", ())}
        wanted = {port["targetPort"] for port in service["spec"]["ports"]}
        if not wanted <= ports:
            yield f"{name_of(service)} leads to the ports {sorted(wanted - ports)}, which nobody has"


def the_private_port_stays_private(objects: Sequence[Object]) -> Iterator[str]:
    """Whoever comes by a gateway reaches the webhooks only: by a Service that has no other port."""
    services = {each["metadata"]["name"]: each for each in of_kind(objects, "Service")}
    for route in of_kind(objects, "HTTPRoute", "Ingress"):
        for service in _backends(route):
            ports = [port["targetPort"] for port in services.get(service, {}).get("spec", {}).get("ports", ())]
            if ports != ["webhooks"]:
                yield f"{name_of(route)} leads to {service} with the ports {ports}"


def _backends(route: Object) -> Iterator[str]:
    for rule in route["spec"].get("rules", ()):
        yield from (backend["name"] for backend in rule.get("backendRefs", ()))
        yield from (path["backend"]["service"]["name"] for path in rule.get("http", {}).get("paths", ()))


def budgets_let_nodes_be_drained(objects: Sequence[Object]) -> Iterator[str]:
    """One pod at a time at least, and those that are not ready do not count; each is about one workload."""
    for budget in of_kind(objects, "PodDisruptionBudget"):
        spec = budget["spec"]
        found = [each for each in pods(objects) if selects(spec["selector"], each.labels)]
        if len(found) != 1 or not found[0].serves:
            yield f"{name_of(budget)} is about {[each.name for each in found]}"
            continue
        if ("minAvailable" in spec) == ("maxUnavailable" in spec):
            yield f"{name_of(budget)} needs one of minAvailable and maxUnavailable"
        if spec.get("maxUnavailable") in (0, "0%") or _blocks(spec, found[0], objects):
            yield f"{name_of(budget)} lets no node be drained"
        if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            yield f"{name_of(budget)} keeps pods that are not ready on their node"


def _blocks(spec: Object, found: Pods, objects: Sequence[Object]) -> bool:
    least = spec.get("minAvailable")
    return isinstance(least, int) and least >= _fewest(found.owner, objects)


def _fewest(workload: Object, objects: Sequence[Object]) -> int:
    """Pods that it may be scaled down to."""
    for scaler in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        if scaler["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"]:
            return int(scaler["spec"].get("minReplicas", scaler["spec"].get("minReplicaCount", 0)))
    return int(workload["spec"].get("replicas", 1))


def one_hand_on_the_number_of_pods(objects: Sequence[Object]) -> Iterator[str]:
    """Either the chart's number or one autoscaler, of a workload that exists."""
    scaled = Counter(
        f"{each['spec']['scaleTargetRef']['kind']}/{each['spec']['scaleTargetRef']['name']}"
        for each in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    )
    workloads = {name_of(each): each for each in of_kind(objects, *WORKLOADS)}
    for name, count in scaled.items():
        if count > 1 or name not in workloads:
            yield f"{name} has {count} autoscalers and {'exists' if name in workloads else 'does not exist'}"
    for name, workload in workloads.items():
        if ("replicas" in workload["spec"]) == (name in scaled):
            yield f"{name}: an autoscaler and a number, or neither"


def networks_name_their_peers(objects: Sequence[Object]) -> Iterator[str]:
    """An empty list of peers is everybody; where there are policies at all, every pod has one for both directions."""
    policies = of_kind(objects, "NetworkPolicy")
    for policy in policies:
        spec = policy["spec"]
        for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
            if not (rule.get("from") or rule.get("to")) or not rule.get("ports"):
                yield f"{name_of(policy)} has a rule without peers or ports"
            if any(not peer or peer in ({"podSelector": {}}, {"namespaceSelector": {}}) for peer in _peers(rule)):
                yield f"{name_of(policy)} has a peer that is everybody"
    for each in pods(objects) if policies else ():
        about = [policy["spec"] for policy in policies if selects(policy["spec"]["podSelector"], each.labels)]
        if {kind for spec in about for kind in spec.get("policyTypes", ())} != {"Ingress", "Egress"}:
            yield f"{each.name} may be reached, or reach, without limit"


def _peers(rule: Object) -> Iterator[Object]:
    yield from rule.get("from") or ()
    yield from rule.get("to") or ()


# --- all objects ------------------------------------------------------------------------------------------------------


def objects_are_labelled(objects: Sequence[Object]) -> Iterator[str]:
    """With what everybody looks for, in values that Kubernetes takes."""
    wanted = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart"}
    for each in objects:
        labels = each["metadata"].get("labels", {})
        if not wanted <= labels.keys():
            yield f"{name_of(each)} has no {sorted(wanted - labels.keys())}"
        yield from (
            f"{name_of(each)}: label {name}={value!r}" for name, value in labels.items() if not _is_label(value)
        )
    for pod in pods(objects):
        if SELECTOR - pod.labels.keys():
            yield f"{pod.name}: its pods have no {sorted(SELECTOR - pod.labels.keys())}"
        if changing := {"helm.sh/chart", "app.kubernetes.io/version"} & pod.labels.keys() and pod.serves:
            yield f"{pod.name}: {changing} restarts pods for nothing"


def _is_label(value: object) -> bool:
    return isinstance(value, str) and LABEL.fullmatch(value) is not None


def names_are_given_once(objects: Sequence[Object]) -> Iterator[str]:
    """One that is given twice replaces the other in silence. 63 characters are what a label can hold of it."""
    given = Counter((each["apiVersion"], name_of(each), each["metadata"].get("namespace")) for each in objects)
    yield from (f"{name} is there {count} times" for (_, name, _), count in given.items() if count > 1)
    for each in objects:
        longest = 52 if each["kind"] in {"StatefulSet", "CronJob"} else 63
        if len(each["metadata"]["name"]) > longest:
            yield f"{name_of(each)} has more than {longest} characters"


def objects_have_a_namespace(objects: Sequence[Object]) -> Iterator[str]:
    """So that a rendering can be applied as it is; and nothing of ours is the cluster's."""
    for each in objects:
        if not each["metadata"].get("namespace"):
            yield f"{name_of(each)} is in whatever namespace is set"


def what_is_referred_to_is_there(objects: Sequence[Object]) -> Iterator[str]:
    """ConfigMaps and accounts whose names begin with ours are made by us."""
    there = {name_of(each) for each in objects}
    ours = {each.labels.get("app.kubernetes.io/instance", "?") for each in pods(objects)}
    for each in pods(objects):
        wanted = {f"ServiceAccount/{each.spec.get('serviceAccountName')}", *_config_maps(each)}
        for name in sorted(wanted - there):
            if any(name.partition("/")[2].startswith(f"{instance}-") for instance in ours):
                yield f"{each.name} refers to {name}, which is not there"


def _config_maps(each: Pods) -> Iterator[str]:
    for volume in each.spec.get("volumes", ()):
        sources = [volume, *volume.get("projected", {}).get("sources", ())]
        yield from (f"ConfigMap/{source['configMap']['name']}" for source in sources if "configMap" in source)


POLICIES: tuple[Policy, ...] = (
    images_are_of_one_version,
    resources_are_set,
    nobody_is_root,
    containers_have_no_rights,
    nothing_is_of_the_node,
    nobody_has_a_token,
    services_are_not_in_the_environment,
    secrets_are_files,
    temporary_files_have_a_place,
    mounts_have_volumes,
    probes_mean_what_they_say,
    pods_have_time_to_end,
    jobs_end,
    workloads_select_their_own_pods,
    services_lead_to_a_port,
    the_private_port_stays_private,
    budgets_let_nodes_be_drained,
    one_hand_on_the_number_of_pods,
    networks_name_their_peers,
    objects_are_labelled,
    names_are_given_once,
    objects_have_a_namespace,
    what_is_referred_to_is_there,
)
