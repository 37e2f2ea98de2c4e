"""The settings: one frozen value, read once at the start. Every problem is reported at once, and none shows a value.

Where a setting may stand, strongest first: the environment (``WEBEX_EVENTS_KAFKA__GROUP``), ``.env`` (the same names),
the YAML file that ``WEBEX_EVENTS_CONFIG`` names (``kafka: {group: …}``), the default. A name that is not known is an
error, wherever it stands: a misspelt setting would otherwise be a default in disguise.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import SplitResult, urlsplit

import yaml
from dotenv.parser import parse_stream
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError

from service.core.errors import Problem, SettingsError
from service.core.organizations import ONLY_ORGANIZATION, Organization, Organizations, organization_id
from service.core.signature import ANYBODY, Secret, SignatureMode

PREFIX = "WEBEX_EVENTS_"
CONFIG = f"{PREFIX}CONFIG"

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

_Path = tuple[str, ...]

#: Stands in a path for a name that the operator chooses.
_ANY = "<name>"


# --- what there is to set ---------------------------------------------------------------------------------------------


def _servers(value: object) -> object:
    """One text, comma-separated; YAML may have a list."""
    parts = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else []
    servers = [part.strip() if isinstance(part, str) else "" for part in parts]
    if not servers or not all(re.fullmatch(r"\S+:\d{1,5}", server) for server in servers):
        raise ValueError("must be host:port, several of them separated by commas")
    return ",".join(servers)


def _words(value: object, pattern: str, what: str) -> str:
    """One text, comma-separated; YAML may have a list."""
    parts = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [None]
    words = [part.strip() if isinstance(part, str) else "" for part in parts]
    if not all(re.fullmatch(pattern, word) for word in words):
        raise ValueError(f"must be {what}, several of them separated by commas")
    return ",".join(words)


def _patterns(value: object) -> object:
    return _words(value, r"[^\s,]{1,320}", "shell-style patterns such as registrants.*") if value else ""


def _addresses(value: object) -> object:
    return _words(value, r"[^\s,@]+@[^\s,@]+", "e-mail addresses") if value else ""


def _mechanism(value: object) -> object:
    if value not in get_args(SaslMechanism):
        raise ValueError(f"must be {_or(get_args(SaslMechanism))}; GSSAPI and OAUTHBEARER are not supported")
    return value


def _or(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _web_address(value: str) -> str:
    """Without the last slash; nothing in it but scheme, host, port and path."""
    url = _split(value)
    if url is None or url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must be a web address such as https://webexapis.com/v1")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("must not have a user name, a query or a fragment")
    return value.rstrip("/")


def _organization(value: str) -> str:
    if not organization_id(value):
        raise ValueError(
            "must be the id of a Webex organisation: a UUID, or Webex's long form of it (Y2lzY29zcGFyazov…)"
        )
    return value


class _Group(BaseModel, frozen=True, extra="forbid", hide_input_in_errors=True):
    """Settings that belong together."""


class Topics(_Group, frozen=True):
    """What ``topics apply`` creates."""

    partitions: Annotated[
        int, Field(ge=1, le=10_000, description="of every topic; an existing topic keeps its own")
    ] = 6
    replication: Annotated[
        int | None, Field(ge=1, le=100, description="copies of every topic; by default 3, or what the cluster has")
    ] = None
    min_insync: Annotated[
        int | None, Field(ge=1, le=100, description="copies that must have a record; by default 2 of 3, else 1")
    ] = None
    retention_days: Annotated[int, Field(ge=1, le=36_500, description="of everything but the ledger")] = 7


class Sasl(_Group, frozen=True):
    """Who we are, for a broker that asks for a password."""

    mechanism: Annotated[
        SaslMechanism | None,
        BeforeValidator(_mechanism),
        Field(description="`PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`; needed with SASL"),
    ] = None
    username: Annotated[
        str | None, Field(min_length=1, description="whom the broker knows us as; needed with SASL")
    ] = None
    password_file: Annotated[
        Path | None, Field(description="file with the password; needed with SASL; re-read for each connection")
    ] = None


class Kafka(_Group, frozen=True):
    """The cluster."""

    bootstrap_servers: Annotated[
        str | None, BeforeValidator(_servers), Field(description="`host:port`, comma-separated")
    ] = None
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,200}$", description="before every topic name")] = (
        "webex."
    )
    group: Annotated[str, Field(min_length=1, description="consumer group of the processors")] = (
        "webex-events-processor"
    )
    instance_id: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9._-]{1,200}$",
            description="this processor's own name, kept over restarts: one that comes back in time causes no rebalance; "
            "no other process may have it, else the one that had it first ends",
        ),
    ] = None
    security_protocol: Annotated[
        SecurityProtocol, Field(description="`PLAINTEXT`, `SSL` (which is TLS), `SASL_PLAINTEXT` or `SASL_SSL`")
    ] = "PLAINTEXT"
    sasl: Sasl = Sasl()
    ca_file: Annotated[
        Path | None,
        Field(
            description="PEM file of the authorities that the brokers' certificates are by; without it those that the system "
            "trusts; re-read for each connection"
        ),
    ] = None
    cert_file: Annotated[
        Path | None,
        Field(description="PEM file of our own certificate, where the brokers want one; re-read for each connection"),
    ] = None
    key_file: Annotated[
        Path | None, Field(description="PEM file of its private key, not encrypted; re-read for each connection")
    ] = None
    topics: Topics = Topics()


class Journal(_Group, frozen=True):
    """The durable log on this machine."""

    enabled: Annotated[bool, Field(description="`false`: no spool, 503 while Kafka is away")] = True
    path: Annotated[Path, Field(description="its folder; only `dev` runs several roles on one")] = Path("data")
    max_mib: Annotated[
        int | None,
        Field(ge=16, le=1_048_576, description="MiB that its file may have; without it as much as its volume gives"),
    ] = None
    retention_mib: Annotated[
        int,
        Field(
            ge=16,
            le=1_048_576,
            description="with `BUS=journal`: above so many MiB the oldest records go, whatever their age, once every"
            " consumer group has finished them",
        ),
    ] = 1024


class Receiver(_Group, frozen=True):
    """The public listener."""

    host: Annotated[
        str, Field(min_length=1, description="address of the public listener; `::` is every address, of IPv4 too")
    ] = "0.0.0.0"  # noqa: S104
    port: Annotated[int, Field(ge=0, le=65_535, description="its port; 0 takes any free one")] = 8080
    direct: Annotated[
        bool, Field(description="`false`: webhooks go through the ASGI application, as under any other server; slower")
    ] = True
    max_connections: Annotated[
        int, Field(ge=1, le=1_000_000, description="open connections, in all; further ones are closed at once")
    ] = 4096
    max_connections_per_source: Annotated[
        int,
        Field(ge=0, le=1_000_000, description="the same for one address; 0: no limit, as behind a proxy all have one"),
    ] = 0


class Admin(_Group, frozen=True):
    """The private listener."""

    host: Annotated[
        str, Field(min_length=1, description="address of the private listener: `/livez`, `/readyz`, `/metrics`")
    ] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535, description="its port; 0 takes any free one")] = 9090


class Webhook(_Group, frozen=True):
    """How notifications are verified."""

    secret: Annotated[SecretStr | None, Field(min_length=1, description="one live secret")] = None
    secrets_dir: Annotated[
        Path | None,
        Field(
            description="folder in which every file is one live secret; a name `<orgId>.<slot>` binds it to that "
            "organisation; re-read while running"
        ),
    ] = None
    signatures: Annotated[
        SignatureMode,
        Field(description="`auto`: the strongest decides; `spark` or `webex`: only that header is looked at"),
    ] = SignatureMode.AUTO

    @property
    def fixed_secrets(self) -> tuple[Secret, ...]:
        """``secret`` as the bytes that the environment has; none where it is not set."""
        if self.secret is None:
            return ()
        value = self.secret.get_secret_value().encode("utf-8", "surrogateescape")
        return (Secret(value, {ANYBODY: "WEBHOOK__SECRET"}),)


class Rejects(_Group, frozen=True):
    """What is kept of requests whose signature was refused, in the journal's folder."""

    max: Annotated[
        int, Field(ge=0, le=100_000, description="refused requests that are kept for `rejects list`; 0: none")
    ] = 1000
    retention: Annotated[
        int,
        Field(
            ge=1, le=31_536_000, description="seconds that they are kept; their sources' addresses are personal data"
        ),
    ] = 604_800
    bodies: Annotated[
        bool, Field(description="with their bodies; those may hold personal data, and come from anybody")
    ] = False


class Credential(_Group, frozen=True):
    """One of three: a token, a file with one, or what is needed to refresh the tokens of an integration."""

    token: Annotated[SecretStr | None, Field(min_length=1, description="access token")] = None
    token_file: Annotated[Path | None, Field(description="file with the access token; re-read while running")] = None
    client_id: Annotated[
        str | None, Field(min_length=1, description="of the integration, where the token is to be refreshed")
    ] = None
    client_secret_file: Annotated[
        Path | None, Field(description="file with the integration's client secret; re-read while running")
    ] = None
    refresh_token_file: Annotated[
        Path | None, Field(description="file with the integration's refresh token; re-read while running")
    ] = None

    @property
    def given(self) -> bool:
        """Whether there is one at all."""
        return self.token is not None or self.token_file is not None or self.refresh_token_file is not None


class ServiceApp(_Group, frozen=True):
    """A Service App, and the integration that may ask for its tokens."""

    application_id: Annotated[str | None, Field(min_length=1, description="of the Service App")] = None
    client_id: Annotated[str | None, Field(min_length=1, description="of the Service App")] = None
    client_secret_file: Annotated[
        Path | None, Field(description="file with the Service App's client secret; re-read while running")
    ] = None
    caller: Credential = Credential()

    @property
    def given(self) -> bool:
        """Whether there is one at all."""
        return self.application_id is not None


class TenantOrganization(Credential, frozen=True):
    """One of several organisations: its id, and a credential of its own unless the Service App has its consent."""

    id: Annotated[
        str | None,
        AfterValidator(_organization),
        Field(description="of the organisation: a UUID, or Webex's long form"),
    ] = None


class Webex(Credential, frozen=True):
    """The Webex API, and the credentials for it."""

    base_url: Annotated[str, AfterValidator(_web_address), Field(description="the Webex API")] = (
        "https://webexapis.com/v1"
    )
    allow_http: Annotated[bool, Field(description="plain http to more than this machine itself")] = False
    organization_id: Annotated[
        str | None,
        AfterValidator(_organization),
        Field(description="the organisation of the credential above; needed beside others, and for a Service App"),
    ] = None
    service_app: ServiceApp = ServiceApp()
    organizations: dict[
        Annotated[str, Field(pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$", max_length=64)], TenantOrganization
    ] = {}

    @property
    def known(self) -> Organizations:
        """The organisations and the keys under which their work stands."""
        others = [
            Organization(organization_id(each.id), organization_id(each.id), name)
            for name, each in self.organizations.items()
        ]
        first = Organization(ONLY_ORGANIZATION, organization_id(self.organization_id))
        return Organizations((first, *others) if self.has_first else tuple(others))

    @property
    def has_first(self) -> bool:
        """Whether there is an organisation beside those of ``organizations``: its key is ``default``."""
        return not self.organizations or self.given or self.organization_id is not None


class Policy(_Group, frozen=True):
    """The operator's rules."""

    file: Annotated[Path | None, Field(description="the policy; without one every registrant is held")] = None


class Sweep(_Group, frozen=True):
    """How often meetings are looked at without being told."""

    interval: Annotated[
        int, Field(ge=1, le=604_800, description="seconds that a meeting with registration goes unlooked-at, at most")
    ] = 300
    full_interval: Annotated[int, Field(ge=1, le=2_592_000, description="the same for a full look, in seconds")] = 3600
    discovery_interval: Annotated[
        int, Field(ge=1, le=2_592_000, description="seconds from one list of every host's meetings to the next")
    ] = 600
    hosts: Annotated[
        str,
        BeforeValidator(_addresses),
        Field(description="hosts whose meetings are listed too, comma-separated; those seen in events are anyway"),
    ] = ""


class Commands(_Group, frozen=True):
    """What downstream systems may ask for by the topic ``commands``."""

    allow: Annotated[
        str,
        BeforeValidator(_patterns),
        Field(description="operations, comma-separated, shell-style (`registrants.*,meetings.get`); none without it"),
    ] = ""
    hosts: Annotated[
        str,
        BeforeValidator(_patterns),
        Field(description="only for meetings of these hosts' addresses, comma-separated, shell-style; any without it"),
    ] = ""
    sites: Annotated[
        str,
        BeforeValidator(_patterns),
        Field(description="only for meetings on these Webex sites, comma-separated, shell-style; any without it"),
    ] = ""
    restricted: Annotated[
        bool, Field(description="answers with their links, passwords and tokens also go to the topic `restricted`")
    ] = False


class Guests(_Group, frozen=True):
    """Guest-to-guest meetings."""

    licence: Annotated[
        int, Field(ge=1, le=100_000, description="meetings that the Service App's licence allows at the same time")
    ] = 10


class Sandbox(_Group, frozen=True):
    """The simulated Webex."""

    host: Annotated[str, Field(min_length=1, description="address of the simulated Webex")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535, description="its port; 0 takes any free one")] = 8090
    pace: Annotated[
        float,
        Field(
            ge=0,
            le=86_400,
            allow_inf_nan=False,
            description="seconds from one registration to the next; 0: nobody registers by themselves",
        ),
    ] = 2.0


class Log(_Group, frozen=True):
    """What is logged, on stdout."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="`debug`, `info`, `warning` or `error`")
    ] = "info"


class Tracing(_Group, frozen=True):
    """Which webhooks are traced."""

    ratio: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="share of the webhooks that are sampled: one line in the log, and the flag in `traceparent`; those"
            " that the sender samples always are; `dev` samples all unless it is set",
        ),
    ] = 0.001


class Settings(_Group, frozen=True):
    """All settings. Made by :func:`load`; a value that exists is valid."""

    bus: Annotated[Literal["journal", "kafka"], Field(description="`journal` or `kafka`")] = "journal"
    kafka: Kafka = Kafka()
    journal: Journal = Journal()
    receiver: Receiver = Receiver()
    admin: Admin = Admin()
    webhook: Webhook = Webhook()
    rejects: Rejects = Rejects()
    webex: Webex = Webex()
    policy: Policy = Policy()
    sweep: Sweep = Sweep()
    commands: Commands = Commands()
    guests: Guests = Guests()
    sandbox: Sandbox = Sandbox()
    log: Log = Log()
    tracing: Tracing = Tracing()


# --- reading them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Given:
    """A value that somebody gave, and how they would recognise the place: the name as they wrote it."""

    path: _Path
    value: object
    label: str


def load(
    environ: Mapping[str, str], *, dotenv: Path | None = None, overrides: Mapping[str, object] | None = None
) -> Settings:
    """Read the settings. ``overrides`` (names without the prefix) win over everything; ``dotenv`` may be missing.

    Raises SettingsError with every problem.
    """
    problems: list[Problem] = []
    variables = _read_dotenv(dotenv, problems)
    config = environ.get(CONFIG) or variables.get(CONFIG)
    given = [
        *(_from_yaml(Path(config), problems) if config else ()),
        *_from_variables(variables, " (.env)", problems),
        *_from_variables({n: v for n, v in environ.items() if not _is_service_link(n, v)}, "", problems),
        *_from_variables({PREFIX + name: value for name, value in (overrides or {}).items()}, "", problems),
    ]
    settings = _validated({each.path: each for each in given}, problems)
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def _from_variables(variables: Mapping[str, object], where: str, problems: list[Problem]) -> Iterator[_Given]:
    for name, value in variables.items():
        if not name.startswith(PREFIX) or name == CONFIG or value is None or value == "":
            continue  # an empty variable is an unset one: compose files and shells cannot say it otherwise
        path = tuple(name.removeprefix(PREFIX).lower().split("__"))
        known = {_variable(leaf): leaf for leaf in _leaves_like(path)}
        if name in known:
            yield _Given(path, value, name + where)
        else:
            problems.append(Problem(_unknown(name + where, name, known)))


def _is_service_link(name: str, value: str) -> bool:
    """Kubernetes describes a service ``webex-events-…`` of the same namespace in variables that begin like ours."""
    return bool(_SERVICE_LINK.fullmatch(name)) or (name.endswith("_PORT") and value.startswith(("tcp://", "udp://")))


_SERVICE_LINK = re.compile(r"\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")


def _read_dotenv(file: Path | None, problems: list[Problem]) -> dict[str, str]:
    if file is None or not file.exists():
        return {}
    try:
        with file.open(encoding="utf-8") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(f"{file} cannot be read ({type(error).__name__})"))
        return {}
    problems.extend(
        Problem(f"{file} has something that is not NAME=value", line=binding.original.line, column=1)
        for binding in bindings
        if binding.error
    )
    return {binding.key: binding.value for binding in bindings if binding.key and binding.value is not None}


class _Yaml(yaml.SafeLoader):
    """YAML as PyYAML reads it, but of two equal keys neither wins in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping. Raises yaml.constructor.ConstructorError where a key is there twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value).lower()
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, "a name is there twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _from_yaml(file: Path, problems: list[Problem]) -> Iterator[_Given]:
    try:
        tree = yaml.load(file.read_text("utf-8"), Loader=_Yaml)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(f"{CONFIG}: the file cannot be read ({type(error).__name__})"))
        return
    except yaml.YAMLError as error:
        problems.append(_syntax(file, error))
        return
    yield from _walk(tree if tree is not None else {}, (), f" ({file})", problems)


def _syntax(file: Path, error: yaml.YAMLError) -> Problem:
    """The place and PyYAML's complaint, without what it quotes from the file: that may be a secret."""
    mark = getattr(error, "problem_mark", None)
    complaint = re.sub(r"'(?!<)[^'\s]{2,}'", "…", getattr(error, "problem", None) or "not YAML")
    return Problem(f"{file}: {complaint}", line=mark.line + 1 if mark else 0, column=mark.column + 1 if mark else 0)


def _walk(node: object, path: _Path, where: str, problems: list[Problem]) -> Iterator[_Given]:
    if not isinstance(node, Mapping):
        problems.append(Problem(f"{'.'.join(path) or 'the file'}{where}: a group of settings is expected here"))
        return
    for key, value in node.items():
        here = (*path, str(key).lower())
        name = ".".join(here)
        if value is None:
            continue
        known = {".".join(leaf): leaf for leaf in _leaves_like(here)}
        groups = {leaf[:depth] for leaf in known.values() for depth in range(1, len(leaf))}
        if here in groups:
            yield from _walk(value, here, where, problems)
        elif name in known:
            yield _Given(here, value, name + where)
        else:
            problems.append(Problem(_unknown(name + where, name, known)))


def _unknown(label: str, name: str, known: Mapping[str, _Path]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"{label} is not a setting" + (f"; did you mean {nearest[0]}?" if nearest else "")


def _validated(given: Mapping[_Path, _Given], problems: list[Problem]) -> Settings:
    """The settings. What is wrong counts as not given, so that everything else is looked at too."""
    try:
        settings = Settings.model_validate(_tree(given))
        broken: set[_Path] = set()
    except ValidationError as errors:
        broken = set()
        for error in errors.errors(include_url=False, include_context=False, include_input=False):
            for path in _at(error["loc"], given):
                broken.add(path)
                problems.append(Problem(f"{given[path].label}: {error['msg'].removeprefix('Value error, ')}"))
        settings = Settings.model_validate(_tree({path: each for path, each in given.items() if path not in broken}))
    problems.extend(Problem(text) for paths, text in _conflicts(settings) if broken.isdisjoint(paths))
    return settings


def _at(place: tuple[int | str, ...], given: Mapping[_Path, _Given]) -> list[_Path]:
    """What was given there: one value, or where the name of a group is wrong, all that stand under it."""
    exact = [path for path in given if path == place[: len(path)]]
    under = tuple(place[:-1]) if place[-1:] == ("[key]",) else place
    return exact or [path for path in given if path[: len(under)] == under]


def _tree(given: Mapping[_Path, _Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, each in given.items():
        group = tree
        for name in path[:-1]:
            group = group.setdefault(name, {})
        group[path[-1]] = each.value
    return tree


# --- what only several settings together can get wrong ----------------------------------------------------------------


def _conflicts(settings: Settings) -> Iterator[tuple[list[_Path], str]]:
    """Sentences, each with the settings that it is about."""
    bus: _Path = ("bus",)
    servers: _Path = ("kafka", "bootstrap_servers")
    enabled: _Path = ("journal", "enabled")
    if settings.bus == "kafka" and settings.kafka.bootstrap_servers is None:
        yield [bus, servers], f"{_variable(servers)} is needed with {_variable(bus)}=kafka"
    if settings.bus == "journal" and not settings.journal.enabled:
        yield [bus, enabled], f"{_variable(enabled)}=false leaves {_variable(bus)}=journal nowhere to store"
    yield from _sasl(settings.kafka)
    yield from _tls(settings.kafka)
    yield from _insecure(settings.webex)
    yield from _credentials(settings.webex, ("webex",))
    yield from _credentials(settings.webex.service_app.caller, ("webex", "service_app", "caller"))
    yield from _service_app(settings.webex.service_app)
    yield from _organizations(settings.webex)


_PROTOCOL: _Path = ("kafka", "security_protocol")


def _sasl(kafka: Kafka) -> Iterator[tuple[list[_Path], str]]:
    """What is missing for the protocol, or would stand unused: somebody believes that it protects them."""
    said = f"{_variable(_PROTOCOL)}={kafka.security_protocol}"
    paths: list[_Path] = [("kafka", "sasl", name) for name in Sasl.model_fields]
    missing = [path for path in paths if getattr(kafka.sasl, path[-1]) is None]
    unused = [path for path in paths if path not in missing]
    if kafka.security_protocol.startswith("SASL_") and missing:
        yield [_PROTOCOL, *missing], f"{_needed(missing)} with {said}"
    elif not kafka.security_protocol.startswith("SASL_") and unused:
        yield [_PROTOCOL, *unused], f"{_unused(unused)} with {said}; it is for SASL_SSL and SASL_PLAINTEXT"


def _tls(kafka: Kafka) -> Iterator[tuple[list[_Path], str]]:
    """The same for the certificates."""
    paths: list[_Path] = [("kafka", name) for name in ("ca_file", "cert_file", "key_file")]
    given = [path for path in paths if getattr(kafka, path[-1]) is not None]
    pair = [path for path in given if path in paths[1:]]
    if not kafka.security_protocol.endswith("SSL"):
        said = f"{_variable(_PROTOCOL)}={kafka.security_protocol}"
        if given:
            yield [_PROTOCOL, *given], f"{_unused(given)} with {said}; it is for SSL and SASL_SSL"
    elif len(pair) == 1:
        missing = [path for path in paths[1:] if path not in pair]
        yield paths[1:], f"{_needed(missing)} with {_variable(pair[0])}"


def _needed(paths: Sequence[_Path]) -> str:
    return f"{' and '.join(map(_variable, paths))} {'are' if len(paths) > 1 else 'is'} needed"


def _unused(paths: Sequence[_Path]) -> str:
    return f"{' and '.join(map(_variable, paths))} would not be used"


def _insecure(webex: Webex) -> Iterator[tuple[list[_Path], str]]:
    address: _Path = ("webex", "base_url")
    allow: _Path = ("webex", "allow_http")
    url = _split(webex.base_url)
    if url is not None and url.scheme == "http" and not webex.allow_http and not _is_loopback(url.hostname or ""):
        yield [address, allow], f"{_variable(address)} must be https; {_variable(allow)}=true permits plain http"


def _credentials(credential: Credential, place: _Path) -> Iterator[tuple[list[_Path], str]]:
    names = ("client_id", "client_secret_file", "refresh_token_file")
    refresh: list[_Path] = [(*place, name) for name in names]
    missing = [path for path in refresh if getattr(credential, path[-1]) is None]
    if 0 < len(missing) < len(refresh):
        yield refresh, f"{' and '.join(map(_variable, missing))} must be set too for tokens to be refreshed"
    ways: list[_Path] = [(*place, "token"), (*place, "token_file"), refresh[2]]
    used = [path for path in ways if getattr(credential, path[-1]) is not None]
    if len(used) > 1:
        yield used, f"of {' and '.join(map(_variable, used))} only one can be set"


def _service_app(app: ServiceApp) -> Iterator[tuple[list[_Path], str]]:
    place: _Path = ("webex", "service_app")
    paths: list[_Path] = [(*place, name) for name in ("application_id", "client_id", "client_secret_file")]
    missing = [path for path in paths if getattr(app, path[-1]) is None]
    if 0 < len(missing) < len(paths) or (app.caller.given and missing):
        yield paths, f"{' and '.join(map(_variable, missing))} must be set too for the tokens of a Service App"
    if not missing and not app.caller.given:
        caller: _Path = (*place, "caller", "token_file")
        said = f"{_variable(caller)}, or what is needed to refresh it, must be set too for the tokens of a Service App"
        yield [*paths, *((*place, "caller", name) for name in Credential.model_fields)], said


def _organizations(webex: Webex) -> Iterator[tuple[list[_Path], str]]:
    place: _Path = ("webex", "organizations")
    first: _Path = ("webex", "organization_id")
    ids = [organization_id(webex.organization_id)]
    for name, each in webex.organizations.items():
        yield from _credentials(each, (*place, name))
        own: _Path = (*place, name, "id")
        if each.id is None:
            yield [own], f"{_variable(own)} is needed"
        elif organization_id(each.id) in ids:
            yield [own, first], f"{_variable(own)} is the id of another organisation too"
        ids.append(organization_id(each.id))
    if webex.organizations and webex.given and webex.organization_id is None:
        ways: list[_Path] = [("webex", name) for name in Credential.model_fields]
        yield [first, *ways], f"{_variable(first)} is needed for the credential beside {_variable(place)}__…"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _split(address: str) -> SplitResult | None:
    try:
        url = urlsplit(address)
        _ = url.port  # raises where it is no port
    except ValueError:
        return None
    return url


# --- what a command demands -------------------------------------------------------------------------------------------


def require_secrets(settings: Settings) -> None:
    """For whoever verifies webhooks: without a secret everything would be refused. Raises SettingsError."""
    if settings.webhook.secret is None and settings.webhook.secrets_dir is None:
        raise _missing(f"{PREFIX}WEBHOOK__SECRET or {PREFIX}WEBHOOK__SECRETS_DIR is needed to verify webhooks")


def require_token(settings: Settings) -> None:
    """For whoever calls Webex: every organisation needs a credential. Raises SettingsError."""
    webex = settings.webex
    problems = [] if not webex.has_first or webex.given or _by_service_app(webex) else [Problem(_first_missing(webex))]
    for name, each in webex.organizations.items():
        if not each.given and not webex.service_app.given:
            ways = " or ".join(_variable(("webex", "organizations", name, way)) for way in ("token", "token_file"))
            problems.append(Problem(f"{ways} is needed to call Webex"))
    if problems:
        raise SettingsError(tuple(problems))


def _by_service_app(webex: Webex) -> bool:
    return webex.service_app.given and webex.organization_id is not None


def _first_missing(webex: Webex) -> str:
    if webex.service_app.given:
        return f"{PREFIX}WEBEX__ORGANIZATION_ID is needed to call Webex as a Service App"
    return f"{PREFIX}WEBEX__TOKEN or {PREFIX}WEBEX__TOKEN_FILE is needed to call Webex"


def require_kafka(settings: Settings) -> str:
    """For whoever talks to Kafka whatever the bus is: the bootstrap servers. Raises SettingsError."""
    if settings.kafka.bootstrap_servers is None:
        raise _missing(f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS is needed")
    return settings.kafka.bootstrap_servers


def _missing(sentence: str) -> SettingsError:
    return SettingsError((Problem(sentence),))


# --- the names, for people --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One row of the reference: the variable after the prefix, what it means, and its default ("" where it has none)."""

    name: str
    meaning: str
    default: str


def describe() -> list[Setting]:
    """Every setting, in the order in which they are declared."""
    return [
        Setting("__".join(path).upper(), field.description or "", _shown(field.default)) for path, field in _leaves()
    ]


def _shown(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, Path):
        return f"./{default}"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _variable(path: _Path) -> str:
    return PREFIX + "__".join(path).upper()


def _leaves(model: type[BaseModel] = Settings, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, (*path, name))
        elif get_origin(field.annotation) is dict:
            yield from _leaves(get_args(field.annotation)[1], (*path, name, _ANY))
        else:
            yield (*path, name), field


def _leaves_like(path: _Path) -> Iterator[_Path]:
    """Every leaf, with the names that ``path`` has in the places where the operator chooses."""
    for leaf, _ in _leaves():
        yield tuple(
            path[n] if name == _ANY and n < len(path) and path[:n] == leaf[:n] else name for n, name in enumerate(leaf)
        )
