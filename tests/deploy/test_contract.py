"""What the chart tells the program, the program understands; and what can be told the program, the chart can say.

Variables, files, ports, commands and options of every container in every rendering, against the settings and the command
line; topics and groups of Strimzi and KEDA against those of the program.
"""

from __future__ import annotations

import json
import re
import shutil
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
from service.core.errors import SettingsError
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
from tests.deploy.render import (
    CHART,
    CannotRender,
    Object,
    Pods,
    Rendering,
    names,
    objects_of,
    of_kind,
    pods,
    values_of,
)
from tests.deploy.values_schema import CHART_OWNED, LEFT_OUT, SCHEMA, current

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

#: What is needed, with a credential of its own.
BASE = (
    'kafka.bootstrapServers=["kafka:9092"]',
    'webhook.existingSecret="webhook"',
    'webex.existingSecret="webex"',
)
A_UUID = "1eb65fdf-9643-417f-9974-ad72cae0e10f"
#: Where the type does not say what would be accepted.
SAMPLES: dict[str, object] = {
    "COMMANDS__ALLOW": "meetings.get",
    "KAFKA__TOPICS__REPLICATION": 2,
    "KAFKA__TOPICS__MIN_INSYNC": 2,
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


def _parts(name: str) -> list[str]:
    return name.lower().replace("<name>", "acme").split("__")


def _path(name: str) -> str:
    """``webex.organizations.<name>.id`` of ``WEBEX__ORGANIZATIONS__<NAME>__ID``."""
    return name.lower().replace("__", ".")


WEBEX = "/etc/webex-events/secrets/webex"
TOKEN = {"token_file": f"{WEBEX}/token"}
REFRESHED = dict.fromkeys(("client_id", "client_secret_file", "refresh_token_file"), f"{WEBEX}/x")


def _service_app(caller: Mapping[str, str]) -> dict[str, Any]:
    app = dict.fromkeys(("application_id", "client_id", "client_secret_file"), f"{WEBEX}/x")
    return {"service_app": {**app, "caller": caller}, "organization_id": A_UUID}


def _organizations(credential: Mapping[str, str]) -> dict[str, Any]:
    return {"organizations": {"acme": {"id": A_UUID, **credential}}}


#: What stands beside a setting below ``webex``: a whole credential of the same kind. The first that matches.
BESIDE: dict[str, Mapping[str, Any]] = {
    "WEBEX__SERVICE_APP__CALLER__TOKEN_FILE": _service_app(TOKEN),
    "WEBEX__SERVICE_APP__CALLER__.*": _service_app(REFRESHED),
    "WEBEX__SERVICE_APP__.*": _service_app(TOKEN),
    "WEBEX__ORGANIZATIONS__<NAME>__(ID|TOKEN_FILE)": _organizations(TOKEN),
    "WEBEX__ORGANIZATIONS__.*": _organizations(REFRESHED),
    "WEBEX__(CLIENT_.*|REFRESH_TOKEN_FILE)": REFRESHED,
    ".*": TOKEN,
}


def _is_owned(name: str) -> bool:
    """By the chart; or of the simulated Webex, which is no role of the chart."""
    place = f"{_path(name)}."
    return any(place.startswith(f"{each}.") for each in CHART_OWNED | LEFT_OUT)


SETTABLE = [each for each in describe() if not _is_owned(each.name)]


def test_what_stands_beside_them_is_accepted() -> None:
    """Else what is refused below would be refused for another reason."""
    Rendering(sets=BASE).text()


@pytest.mark.parametrize(("name", "default"), [pytest.param(s.name, s.default, id=s.name) for s in SETTABLE])
def test_every_setting_can_be_set_through_the_chart(name: str, default: str, tmp_path: Path) -> None:
    """And is what was set, in the file that the program reads; which takes it."""
    value = _sample(name, default)
    beside = next(beside for pattern, beside in BESIDE.items() if re.fullmatch(pattern, name))
    tree = _merged({"webex": beside}, _tree(_parts(name), value))
    file = _settings_file(_with_config(tree))

    found = yaml.safe_load(file)
    for part in _parts(name):
        found = found[part]
    assert found == value
    (tmp_path / "config.yaml").write_text(file, "utf-8")
    require_token(load({f"{PREFIX}CONFIG": str(tmp_path / "config.yaml")}))


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy; the other wins."""
    both = {
        key: _merged(value, other[key]) if isinstance(value, Mapping) and isinstance(other.get(key), Mapping) else value
        for key, value in one.items()
    }
    return {**both, **{key: value for key, value in other.items() if not isinstance(both.get(key), Mapping)}}


def _with_config(tree: Mapping[str, Any]) -> Rendering:
    one = ('webex.tokenKey=""', "processor.state.persistent=true", "processor.replicas=1")
    return Rendering(sets=(*BASE, *one, f"config={json.dumps(tree)}"))


def _settings_file(rendering: Rendering) -> str:
    found = [each for each in of_kind(rendering.objects(), "ConfigMap") if "config.yaml" in each["data"]]
    return str(next(each for each in found if each["metadata"]["name"].endswith("webex-events"))["data"]["config.yaml"])


@pytest.mark.parametrize("place", sorted(CHART_OWNED))
def test_what_the_chart_sets_is_refused_elsewhere(place: str) -> None:
    """Twice the same would be twice a truth. By a sentence, which says where it stands."""
    where = place.replace("<name>", "acme")
    sentence = f"config.{where} is set by the chart. Use "
    if place.endswith(".token") and place != "webex.token":
        sentence = f"config.{where.removesuffix('.token')} has a token in it, and a ConfigMap is no place for a secret."

    with pytest.raises(CannotRender, match=re.escape(f"* {sentence}")):
        Rendering(sets=(*BASE, f"config={json.dumps(_tree(where.split('.'), 'something'))}")).text()


def test_what_the_chart_sets_exists() -> None:
    """The list is not older than the program."""
    known = {_path(each.name) for each in describe()}

    assert [place for place in CHART_OWNED if not any(f"{each}.".startswith(f"{place}.") for each in known)] == []


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"log": {"levle": "debug"}}, "/config/log"),
        ({"webhook": {"SECRET": "x"}}, "/config/webhook"),
        ({"webex": {"Token": "x"}}, "/config/webex"),
        ({"webex": {"organizations": {"acme": {"TOKEN": "x"}}}}, "/config/webex/organizations/acme"),
        ({"webex": {"organizations": {"ACME": {"id": A_UUID}}}}, "/config/webex/organizations"),
        ({"sandbox": {"port": 1}}, "/config"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused(config: object, where: str) -> None:
    """When it is installed, not when the pod starts. One in capitals, too: no guard would look at it."""
    with pytest.raises(CannotRender, match=re.escape(f"'{where}': additional properties ")):
        Rendering(sets=(*BASE, f"config={json.dumps(config)}")).text()


def test_the_schema_of_the_settings_is_current() -> None:
    """Else: ``python -m tests.deploy.values_schema --write``."""
    assert SCHEMA.read_text("utf-8") == current()


# --- what the chart's own suite lets pass -----------------------------------------------------------------------------


def _cases(which: str) -> list[Any]:
    """Cases of the suite of guards whose names begin so."""
    suite = yaml.safe_load((CHART / "tests" / "guards_test.yaml").read_text("utf-8"))
    found = [each for each in suite["tests"] if each["it"].startswith(which)]
    return [pytest.param(each.get("set", {}), id=each["it"]) for each in found]


@pytest.mark.parametrize("values", _cases("passes"))
def test_what_guards_let_pass_the_program_takes(values: Mapping[str, object], tmp_path: Path) -> None:
    """With what each role demands."""
    sets = tuple(f"{name}={json.dumps(value)}" for name, value in values.items())
    objects = Rendering(values=values_of("minimal"), sets=sets, release="web").objects()
    seen = set()
    for each in pods(objects):
        container = extract(each, objects, Everything({"current"}), tmp_path / each.owner["metadata"]["name"])
        settings = load(container.environ)
        seen.add(container.role)
        _demand(container.role, settings)

    assert seen & {"receiver", "processor"}


def _demand(role: str, settings: Settings) -> None:
    """Raises SettingsError where the role would end at its start."""
    require_kafka(settings)
    if role == "receiver":
        require_secrets(settings)
    if role == "processor":
        require_token(settings)


#: Sentences about credentials: each stands for a refusal of the program.
CREDENTIALS = (
    "half ",
    "two credentials of an",
    "a caller of no",
    "a Service App ",
    "a credential of which",
    "an organisation without",
)


@pytest.mark.parametrize("values", [case for which in CREDENTIALS for case in _cases(which)])
def test_credentials_that_guards_refuse_the_program_refuses(values: Mapping[str, object], tmp_path: Path) -> None:
    """So no guard is in the way of what would work."""
    chart = tmp_path / CHART.name
    shutil.copytree(CHART, chart)
    (chart / "templates" / "validate.yaml").unlink()
    sets = tuple(f"{name}={json.dumps(value)}" for name, value in values.items())
    file = _settings_file(Rendering(chart=chart, values=values_of("minimal"), sets=sets, release="web"))
    (tmp_path / "config.yaml").write_text(file, "utf-8")

    with pytest.raises(SettingsError):
        require_token(load({f"{PREFIX}CONFIG": str(tmp_path / "config.yaml")}))


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (('kafka.bootstrapServers=["[fd00::1]:9092"]',), {"bootstrap_servers": "[fd00::1]:9092"}),
        (('kafka.group="a: b"',), {"group": "a: b"}),
        (('kafka.group="123"',), {"group": "123"}),
        (('kafka.group="1:30"',), {"group": "1:30"}),
        (('kafka.group="no"',), {"group": "no"}),
        (('kafka.group="# none"',), {"group": "# none"}),
        (('kafka.group="1_000"',), {"group": "1_000"}),
        (('kafka.group="\\"\\\\"',), {"group": '"\\'}),
        (('kafka.topicPrefix="1e3"',), {"topic_prefix": "1e3"}),
        (('receiver.journal={"maxMib": 1048576}',), {}),
    ],
)
def test_the_program_reads_what_was_said(sets: tuple[str, ...], expected: Mapping[str, str], tmp_path: Path) -> None:
    """Whatever YAML would take it for."""
    file = _settings_file(Rendering(sets=(*BASE, *sets)))
    (tmp_path / "config.yaml").write_text(file, "utf-8")

    settings = load({f"{PREFIX}CONFIG": str(tmp_path / "config.yaml")})

    assert {name: getattr(settings.kafka, name) for name in expected} == expected
    assert settings.bus == "kafka"


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
