"""What the chart tells the program, the program understands; and what can be told the program, the chart can say.

Variables, files, ports, commands and options of every container in every rendering, against the settings and the command
line; topics and groups of Strimzi and KEDA against those of the program.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pydantic import BaseModel
from typer.core import TyperGroup

from service.bus.topics import standard
from service.receiver.endpoint import PATH
from service.settings import (
    PREFIX,
    Admin,
    Receiver,
    Settings,
    describe,
    load,
    require_kafka,
    require_secrets,
    require_token,
)
from tests.deploy.containers import Extracted, extract
from tests.deploy.render import CHART, CannotRender, Object, Pods, Rendering, names, objects_of, of_kind, pods

#: Which files a role reads: the beginnings of the settings' names.
READS = {
    "receiver": ("kafka", "webhook"),
    "processor": ("kafka", "webex", "policy"),
    "roundtrip": ("kafka", "webhook"),
    "topics": ("kafka",),
    "journal-drain": ("kafka",),
}


class Everything(defaultdict[str, Mapping[str, str]]):
    """Every Secret and ConfigMap that is there before the chart: with these keys, and any that is asked for by name."""

    def __init__(self, keys: Iterable[str]) -> None:
        super().__init__(lambda: defaultdict(lambda: "something", dict.fromkeys(keys, "something")))


def ours(name: str) -> list[Pods]:
    """Pods of the product's image."""
    return [each for each in pods(objects_of(name)) if "webex-event-processor" in each.spec["containers"][0]["image"]]


def extracted(name: str, each: Pods, folder: Path) -> Extracted:
    """Beside Secrets and ConfigMaps that have what the settings name."""
    objects = objects_of(name)
    named = {word for text in _texts(objects) for word in re.findall(r"/(?:secrets/\w+|policy)/([\w.-]+)", text)}
    return extract(each, objects, Everything({"current", *named}), folder)


def _texts(objects: list[Object]) -> Iterator[str]:
    for each in of_kind(objects, "ConfigMap"):
        yield from each.get("data", {}).values()


CONTAINERS = [pytest.param(name, each, id=f"{name}-{each.name}") for name in names() for each in ours(name)]


# --- from the chart to the program ------------------------------------------------------------------------------------


def test_there_are_containers() -> None:
    """Of every kind."""
    roles = {each.spec["containers"][0]["name"] for name in names() for each in ours(name)}

    assert roles >= {"receiver", "processor", "topics", "roundtrip"}


@pytest.mark.parametrize(("name", "each"), CONTAINERS)
def test_the_program_accepts_its_settings(name: str, each: Pods, tmp_path: Path) -> None:
    """No variable and no line of the file is unknown, and nothing that the role needs is missing."""
    container = extracted(name, each, tmp_path)

    settings = load(container.environ)

    require_kafka(settings)
    if container.role == "receiver":
        require_secrets(settings)
    if container.role == "processor":
        require_token(settings)


@pytest.mark.parametrize(("name", "each"), CONTAINERS)
def test_every_variable_is_ours(name: str, each: Pods, tmp_path: Path) -> None:
    """One that the program does not look at does nothing."""
    container = extracted(name, each, tmp_path)
    own = set(_values_of(name).get("pod", {}).get("extraEnv", ()))

    assert [variable for variable in container.environ if not variable.startswith(PREFIX) and variable not in own] == []


def _values_of(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text("utf-8")) or {})


@pytest.mark.parametrize(("name", "each"), CONTAINERS)
def test_the_files_that_settings_name_are_mounted(name: str, each: Pods, tmp_path: Path) -> None:
    """All that the role reads; the journal's folder can be written."""
    container = extracted(name, each, tmp_path)
    settings = load(container.environ)
    wanted = {path: value for path, value in _paths(settings) if path.split(".")[0] in READS[container.role]}

    assert {path: value for path, value in wanted.items() if not value.exists()} == {}
    assert f"/{settings.journal.path.relative_to(container.root)}" in container.writable


def _paths(model: BaseModel, place: str = "") -> Iterator[tuple[str, Path]]:
    """Every setting that is a path and is set."""
    for name, _ in type(model).model_fields.items():
        value = getattr(model, name)
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, each in inner:
            path = ".".join(filter(None, (place, name, key)))
            if isinstance(each, BaseModel):
                yield from _paths(each, path)
            elif isinstance(each, Path):
                yield path, each


@pytest.mark.parametrize(("name", "each"), CONTAINERS)
def test_ports_are_those_that_the_program_listens_on(name: str, each: Pods, tmp_path: Path) -> None:
    """By name, and from outside the pod."""
    container = extracted(name, each, tmp_path)
    settings = load(container.environ)
    listens: dict[str, Receiver | Admin] = {"webhooks": settings.receiver, "admin": settings.admin}

    assert container.ports == {port: listens[port].port for port in container.ports}
    assert {listens[port].host for port in container.ports} <= {"0.0.0.0", "::"}  # noqa: S104 - what the kubelet can reach
    assert ("webhooks" in container.ports) == (container.role == "receiver")


@pytest.mark.parametrize(("name", "each"), CONTAINERS)
def test_the_command_exists(name: str, each: Pods, tmp_path: Path) -> None:
    """With its arguments and options."""
    container = extracted(name, each, tmp_path)
    if container.command:
        assert container.role == "roundtrip"
        return
    assert complaint(container.arguments) is None


def test_the_commands_of_helm_test_exist() -> None:
    """Those that its script starts."""
    script = (CHART / "scripts" / "roundtrip.py").read_text("utf-8")
    found = re.findall(r'\["webex-events", (.*)\]', script)
    words = [[word if quoted else "1" for quoted, word in re.findall(r'("?)([\w./:-]+)\1', text)] for text in found]

    assert len(words) >= 2
    assert [complaint(each) for each in words] == [None] * len(words)


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (("serve", "receiver"), True),
        (("serve", "console"), False),
        (("topics", "apply", "--force"), False),
        (("topics",), False),
        (("receive",), False),
    ],
)
def test_a_command_that_does_not_exist_is_found(arguments: tuple[str, ...], right: bool) -> None:
    """So the tests above can fail."""
    assert (complaint(arguments) is None) == right


def complaint(arguments: Sequence[str]) -> str | None:
    """What the command line says to these arguments before it would do anything; None where it would begin."""
    from service.cli.commands import app

    command: Any = typer.main.get_command(app)
    context, words = None, list(arguments)
    try:
        while True:
            context = command.make_context(command.name, words, parent=context)
            if not isinstance(command, TyperGroup):
                return None
            _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    except Exception as error:  # noqa: BLE001 - each of its refusals is an exception, and they have no common name in public
        return f"{' '.join(arguments)}: {type(error).__name__} {error}"


def test_webhooks_are_led_to_the_path_of_the_program() -> None:
    """By route and ingress alike."""
    found = set()
    for name in names():
        for route in of_kind(objects_of(name), "HTTPRoute"):
            found |= {match["path"]["value"] for rule in route["spec"]["rules"] for match in rule["matches"]}
        for ingress in of_kind(objects_of(name), "Ingress"):
            found |= {path["path"] for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]}

    assert found == {PATH}


def test_monitors_ask_for_the_path_and_the_port_of_the_program() -> None:
    """`/metrics`, which is their default, on the private listener."""
    ends = [
        end
        for name in names()
        for monitor in of_kind(objects_of(name), "PodMonitor", "ServiceMonitor")
        for end in (*monitor["spec"].get("podMetricsEndpoints", ()), *monitor["spec"].get("endpoints", ()))
    ]

    assert ends
    assert {(end.get("path", "/metrics"), end["port"]) for end in ends} == {("/metrics", "admin")}


# --- from the program to the chart ------------------------------------------------------------------------------------

#: The settings that the chart sets itself; `config` refuses them by a sentence.
SET_BY_THE_CHART = {
    *("BUS", "KAFKA__BOOTSTRAP_SERVERS", "KAFKA__TOPIC_PREFIX", "KAFKA__GROUP", "KAFKA__INSTANCE_ID"),
    *("KAFKA__SECURITY_PROTOCOL", "KAFKA__SASL__MECHANISM", "KAFKA__SASL__USERNAME", "KAFKA__SASL__PASSWORD_FILE"),
    *("KAFKA__CA_FILE", "KAFKA__CERT_FILE", "KAFKA__KEY_FILE", "JOURNAL__ENABLED", "JOURNAL__PATH", "JOURNAL__MAX_MIB"),
    *("RECEIVER__PORT", "ADMIN__PORT", "WEBHOOK__SECRETS_DIR", "WEBHOOK__SECRET", "POLICY__FILE"),
    *("WEBEX__TOKEN", "WEBEX__SERVICE_APP__CALLER__TOKEN", "WEBEX__ORGANIZATIONS__<NAME>__TOKEN"),
}
BASE = (
    'kafka.bootstrapServers=["kafka:9092"]',
    'webhook.existingSecret="webhook"',
    'webex.existingSecret="webex"',
    'webex.tokenKey=""',
    "processor.state.persistent=true",
)
A_UUID = "1eb65fdf-9643-417f-9974-ad72cae0e10f"
#: Where the type does not say what would be accepted.
SAMPLES: dict[str, object] = {
    "COMMANDS__ALLOW": "meetings.get",
    "SWEEP__HOSTS": "host@example.com",
    "WEBEX__BASE_URL": "https://webex.example/v1",
    "WEBEX__ORGANIZATION_ID": A_UUID,
    "WEBEX__ORGANIZATIONS__<NAME>__ID": A_UUID.replace("1", "2"),
    "RECEIVER__HOST": "::",
    "ADMIN__HOST": "::",
}


def _sample(name: str, default: str) -> object:
    """A value that is not the default."""
    if name in SAMPLES:
        return SAMPLES[name]
    if default in {"true", "false"}:
        return default == "false"
    if re.fullmatch(r"\d+(\.\d+)?", default):
        return float(default) / 2 if "." in default else int(default) + 1
    if choices := re.findall(r"`(\w+)`", next(each.meaning for each in describe() if each.name == name)):
        return next(choice for choice in choices if choice != default)
    return f"/etc/webex-events/secrets/webex/{name.lower()}" if name.endswith("_FILE") else "something"


def _tree(path: list[str], value: object) -> Any:
    return {path[0]: _tree(path[1:], value)} if path else value


def _json(name: str, value: object) -> str:
    """For ``--set-json``: a setting below ``config``."""
    first, *rest = [part.replace("<name>", "acme") for part in name.lower().split("__")]
    return f"config.{first}={json.dumps(_tree(rest, value))}"


#: The simulated Webex is no role of the chart.
SETTABLE = [each for each in describe() if each.name not in SET_BY_THE_CHART and not each.name.startswith("SANDBOX__")]


@pytest.mark.parametrize(("name", "default"), [pytest.param(s.name, s.default, id=s.name) for s in SETTABLE])
def test_every_setting_can_be_set_through_the_chart(name: str, default: str) -> None:
    """And is what was set, in the file that the program reads."""
    value = _sample(name, default)
    filler = () if name.startswith("WEBEX__") else ('config.webex={"token_file": "/etc/webex-events/secrets/webex/t"}',)
    rendering = Rendering(sets=(*BASE, *_credential(name, value), *filler))

    tree = yaml.safe_load(next(_texts([_settings_of(rendering)])))
    for part in name.lower().replace("<name>", "acme").split("__"):
        tree = tree[part]
    assert tree == value


def _credential(name: str, value: object) -> tuple[str, ...]:
    """The setting; one of Webex stands beside a credential, since the chart wants one."""
    if not name.startswith("WEBEX__") or name.endswith("TOKEN_FILE"):
        return (_json(name, value),)
    beside = {"webex": {"token_file": "/etc/webex-events/secrets/webex/t"}}
    if name == "WEBEX__REFRESH_TOKEN_FILE":
        beside = {"webex": {}}
    given = yaml.safe_load(_json(name, value).partition("=")[2])
    return (f"config.webex={json.dumps({**beside['webex'], **given})}",)


def _settings_of(rendering: Rendering) -> Object:
    found = [each for each in of_kind(rendering.objects(), "ConfigMap") if "config.yaml" in each["data"]]
    return next(each for each in found if each["metadata"]["name"] == "hooks-webex-events")


@pytest.mark.parametrize("name", sorted(SET_BY_THE_CHART))
def test_what_the_chart_sets_is_refused_elsewhere(name: str) -> None:
    """Twice the same would be twice a truth."""
    with pytest.raises(CannotRender, match=r"config|schema"):
        Rendering(sets=(*BASE, _json(name, "something"))).text()


def test_what_the_chart_sets_exists() -> None:
    """The list above is not older than the program."""
    assert {each.name for each in describe()} >= SET_BY_THE_CHART


def test_a_setting_that_does_not_exist_is_refused() -> None:
    """When it is installed, not when the pod starts."""
    with pytest.raises(CannotRender):
        Rendering(sets=(*BASE, 'config.log={"levle": "debug"}')).text()


# --- Kafka ------------------------------------------------------------------------------------------------------------


def _with_strimzi() -> list[str]:
    return [name for name in names() if of_kind(objects_of(name), "KafkaTopic")]


@pytest.mark.parametrize("name", _with_strimzi())
def test_strimzi_makes_the_topics_that_the_program_would(name: str, tmp_path: Path) -> None:
    """`topics apply` on such a cluster changes nothing."""
    settings = _role_settings(name, tmp_path, "processor")
    partitions = settings.kafka.topics.partitions
    made = {each["spec"]["topicName"]: each["spec"] for each in of_kind(objects_of(name), "KafkaTopic")}

    assert made.keys() == {settings.kafka.topic_prefix + plan.name for plan in standard()}
    for plan in standard(partitions=partitions):
        spec = made[settings.kafka.topic_prefix + plan.name]
        wanted = plan.configuration(spec["replicas"])
        assert spec["partitions"] == plan.partitions
        assert {key: str(value) for key, value in spec["config"].items()} == wanted


@pytest.mark.parametrize("name", [name for name in names() if of_kind(objects_of(name), "ScaledObject")])
def test_keda_looks_at_the_lag_of_the_processors(name: str, tmp_path: Path) -> None:
    """Of the topic that they work off, in their group, where they are."""
    settings = _role_settings(name, tmp_path, "processor")
    trigger = of_kind(objects_of(name), "ScaledObject")[0]["spec"]["triggers"][0]["metadata"]

    assert trigger["topic"] == f"{settings.kafka.topic_prefix}work"
    assert trigger["consumerGroup"] == settings.kafka.group
    assert trigger["bootstrapServers"] == settings.kafka.bootstrap_servers


def _role_settings(name: str, folder: Path, role: str) -> Settings:
    each = next(each for each in ours(name) if each.spec["containers"][0]["name"] == role)
    return load(extracted(name, each, folder).environ)


# --- compose ----------------------------------------------------------------------------------------------------------


def test_compose_starts_commands_that_exist() -> None:
    """Also those of its health checks; its variables are looked at in tests/test_project.py."""
    services = yaml.safe_load((CHART.parents[1] / "deploy" / "compose.yaml").read_text("utf-8"))["services"]
    product = {name: each for name, each in services.items() if "webex-event-processor" in each["image"]}
    checks = [each["healthcheck"].get("test", []) for each in product.values() if "healthcheck" in each]

    assert [complaint(each["command"]) for each in product.values()] == [None] * len(product)
    for check in filter(None, checks):
        assert check[:2] == ["CMD", "webex-events"]
        assert complaint(check[2:]) is None


def test_the_image_has_a_health_check_that_exists() -> None:
    """The Dockerfile's own."""
    dockerfile = (CHART.parents[1] / "Dockerfile").read_text("utf-8")
    found = re.search(r'^HEALTHCHECK .*(?:\\\n.*)*CMD \["webex-events", (.*)\]', dockerfile, re.MULTILINE)

    assert found is not None
    assert complaint(json.loads(f"[{found[1]}]")) is None
