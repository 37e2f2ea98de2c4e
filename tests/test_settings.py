"""Settings: where they come from, what is refused, and that nothing of a secret is ever shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.core.errors import SettingsError
from service.core.signature import ANYBODY, Secret
from service.settings import Settings, describe, load, require_kafka, require_secrets, require_token

REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"
NONE = "\u2013"


BARE = "1eb65fdf-9643-417f-9974-ad72cae0e10f"
LONG = "Y2lzY29zcGFyazovL3VzL09SR0FOSVpBVElPTi8xZWI2NWZkZi05NjQzLTQxN2YtOTk3NC1hZDcyY2FlMGUxMGY"
OTHER = "96abc2aa-3dcc-11e5-a152-fe34819cdc9a"
SASL = {
    "KAFKA__SASL__MECHANISM": "SCRAM-SHA-512",
    "KAFKA__SASL__USERNAME": "service",
    "KAFKA__SASL__PASSWORD_FILE": "password",
}
SERVICE_APP = {
    "WEBEX__SERVICE_APP__APPLICATION_ID": "a",
    "WEBEX__SERVICE_APP__CLIENT_ID": "b",
    "WEBEX__SERVICE_APP__CLIENT_SECRET_FILE": "c",
    "WEBEX__SERVICE_APP__CALLER__TOKEN_FILE": "d",
}


def named(value: bytes) -> Secret:
    """The secret of WEBHOOK__SECRET."""
    return Secret(value, {ANYBODY: "WEBHOOK__SECRET"})


def env(**variables: str) -> dict[str, str]:
    """Variables, with the prefix."""
    return {f"WEBEX_EVENTS_{name}": value for name, value in variables.items()}


def said(variables: dict[str, str], **more: Any) -> list[str]:
    """The problems that these settings have."""
    with pytest.raises(SettingsError) as refused:
        load(variables, **more)
    return [str(problem) for problem in refused.value.problems]


def test_nothing_needs_to_be_set() -> None:
    """Without any setting everything has its default, on the journal."""
    settings = load({})

    assert settings == Settings()
    assert (settings.bus, settings.receiver.port, settings.sweep.interval) == ("journal", 8080, 300)


@pytest.mark.parametrize(
    ("variables", "path", "value"),
    [
        pytest.param({"BUS": "kafka", "KAFKA__BOOTSTRAP_SERVERS": "a:9092"}, "bus", "kafka", id="a choice"),
        pytest.param(
            {"KAFKA__BOOTSTRAP_SERVERS": " a:1, [::1]:2 "}, "kafka.bootstrap_servers", "a:1,[::1]:2", id="a list"
        ),
        pytest.param(
            {"KAFKA__TOPICS__PARTITIONS": "12"}, "kafka.topics.partitions", 12, id="a number, two levels down"
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "PLAINTEXT"}, "kafka.security_protocol", "PLAINTEXT", id="no security"
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "SSL", "KAFKA__CA_FILE": "ca.pem"}, "kafka.ca_file", Path("ca.pem"), id="TLS"
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "SASL_SSL", **SASL}, "kafka.sasl.mechanism", "SCRAM-SHA-512", id="SASL"
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT", **SASL},
            "kafka.sasl.password_file",
            Path("password"),
            id="SASL without TLS",
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "SSL", "KAFKA__CERT_FILE": "c", "KAFKA__KEY_FILE": "k"},
            "kafka.key_file",
            Path("k"),
            id="our own certificate",
        ),
        pytest.param({"JOURNAL__PATH": "/var/lib/x"}, "journal.path", Path("/var/lib/x"), id="a path"),
        pytest.param({"WEBEX__ALLOW_HTTP": "true"}, "webex.allow_http", True, id="yes"),
        pytest.param({"WEBEX__BASE_URL": "https://x/v1/"}, "webex.base_url", "https://x/v1", id="a slash at the end"),
        pytest.param(
            {"WEBEX__BASE_URL": "http://127.0.0.9:8090/v1"}, "webex.base_url", "http://127.0.0.9:8090/v1", id="loopback"
        ),
        pytest.param(
            {"WEBEX__BASE_URL": "http://[::1]:8090"}, "webex.base_url", "http://[::1]:8090", id="loopback, IPv6"
        ),
        pytest.param(
            {"WEBEX__BASE_URL": "http://x", "WEBEX__ALLOW_HTTP": "1"}, "webex.base_url", "http://x", id="http, allowed"
        ),
        pytest.param({"WEBHOOK__SIGNATURES": "spark"}, "webhook.signatures", "spark", id="signatures"),
        pytest.param(
            {"WEBHOOK__SECRET": "s\udcff"}, "webhook.fixed_secrets", (named(b"s\xff"),), id="a secret that is no text"
        ),
        pytest.param({"RECEIVER__PORT": ""}, "receiver.port", 8080, id="an empty variable is an unset one"),
        pytest.param({"RECEIVER__PORT": "0"}, "receiver.port", 0, id="any port"),
        pytest.param({"RECEIVER_PORT": "tcp://10.0.0.1:80"}, "receiver.port", 8080, id="a service link's address"),
        pytest.param(
            {"RECEIVER_PORT_8080_TCP_ADDR": "10.0.0.1", "SERVICE_HOST": "x", "RECEIVER_SERVICE_PORT_HTTP": "1"},
            "bus",
            "journal",
            id="service links",
        ),
    ],
)
def test_the_environment_sets(variables: dict[str, str], path: str, value: object) -> None:
    """A variable sets the field of the same name."""
    found: Any = load(env(**variables))
    for name in path.split("."):
        found = getattr(found, name)

    assert found == value


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        pytest.param(
            {"KAFKA__BOOTSTRAP_SERVER": "a:1"},
            "is not a setting; did you mean WEBEX_EVENTS_KAFKA__BOOTSTRAP_SERVERS?",
            id="misspelt",
        ),
        pytest.param({"KAFKA_GROUP": "x"}, "did you mean WEBEX_EVENTS_KAFKA__GROUP?", id="one underscore"),
        pytest.param({"KAFKA": '{"group": "x"}'}, "WEBEX_EVENTS_KAFKA is not a setting", id="a whole group"),
        pytest.param({"bus": "kafka"}, "did you mean WEBEX_EVENTS_BUS?", id="small letters"),
        pytest.param({"ZZZ": "x"}, "WEBEX_EVENTS_ZZZ is not a setting", id="like nothing"),
        pytest.param(
            {"KAFKA__SASL__MECHANISM": "PLAIN"},
            "WEBEX_EVENTS_KAFKA__SASL__MECHANISM would not be used with WEBEX_EVENTS_KAFKA__SECURITY_PROTOCOL=PLAINTEXT; it is",
            id="SASL, but not by the protocol",
        ),
        pytest.param(
            {"KAFKA__CA_FILE": "x"},
            "WEBEX_EVENTS_KAFKA__CA_FILE would not be used with WEBEX_EVENTS_KAFKA__SECURITY_PROTOCOL=PLAINTEXT; it is for SSL",
            id="TLS, but not by the protocol",
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT", **SASL, "KAFKA__CERT_FILE": "x", "KAFKA__KEY_FILE": "y"},
            "KAFKA__CERT_FILE and WEBEX_EVENTS_KAFKA__KEY_FILE would not be used",
            id="a certificate without TLS",
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "SSL", "KAFKA__CERT_FILE": "x"},
            "WEBEX_EVENTS_KAFKA__KEY_FILE is needed with WEBEX_EVENTS_KAFKA__CERT_FILE",
            id="a certificate without its key",
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "SASL_SSL", "KAFKA__KEY_FILE": "x", "KAFKA__CA_FILE": "y", **SASL},
            "WEBEX_EVENTS_KAFKA__CERT_FILE is needed with WEBEX_EVENTS_KAFKA__KEY_FILE",
            id="a key without its certificate",
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "SASL_SSL", "KAFKA__SASL__MECHANISM": "PLAIN"},
            "WEBEX_EVENTS_KAFKA__SASL__USERNAME and WEBEX_EVENTS_KAFKA__SASL__PASSWORD_FILE are needed with",
            id="SASL without anybody",
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT", **SASL, "KAFKA__SASL__PASSWORD_FILE": ""},
            "WEBEX_EVENTS_KAFKA__SASL__PASSWORD_FILE is needed with WEBEX_EVENTS_KAFKA__SECURITY_PROTOCOL=SASL_PLAINTEXT",
            id="SASL without a password",
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "SASL_SSL", **SASL, "KAFKA__SASL__MECHANISM": "OAUTHBEARER"},
            "must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; GSSAPI and OAUTHBEARER are not supported",
            id="a mechanism that we do not have",
        ),
        pytest.param(
            {"KAFKA__SECURITY_PROTOCOL": "TLS"},
            "WEBEX_EVENTS_KAFKA__SECURITY_PROTOCOL: Input should be 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'",
            id="no such protocol",
        ),
        pytest.param(
            {"KAFKA__SASL__PASSWORD": "x"}, "did you mean WEBEX_EVENTS_KAFKA__SASL__PASSWORD_FILE?", id="a password"
        ),
        pytest.param({"COMMANDS__ALLOW": "meetings.*, a b"}, "COMMANDS__ALLOW: must be shell-style", id="no pattern"),
        pytest.param({"SWEEP__HOSTS": "ada"}, "SWEEP__HOSTS: must be e-mail addresses", id="no address"),
        pytest.param({"BUS": "rabbit"}, "WEBEX_EVENTS_BUS: Input should be 'journal' or 'kafka'", id="no such choice"),
        pytest.param(
            {"RECEIVER__PORT": "65536"}, "WEBEX_EVENTS_RECEIVER__PORT: Input should be less than", id="no such port"
        ),
        pytest.param(
            {"ADMIN__PORT": "-1"}, "WEBEX_EVENTS_ADMIN__PORT: Input should be greater than", id="a negative port"
        ),
        pytest.param(
            {"SWEEP__INTERVAL": "0"}, "WEBEX_EVENTS_SWEEP__INTERVAL: Input should be greater than", id="no interval"
        ),
        pytest.param(
            {"SWEEP__INTERVAL": "5m"}, "WEBEX_EVENTS_SWEEP__INTERVAL: Input should be a valid integer", id="no number"
        ),
        pytest.param(
            {"SANDBOX__PACE": "nan"}, "WEBEX_EVENTS_SANDBOX__PACE: Input should be a finite number", id="not a number"
        ),
        pytest.param(
            {"JOURNAL__ENABLED": "perhaps"},
            "WEBEX_EVENTS_JOURNAL__ENABLED: Input should be a valid boolean",
            id="neither",
        ),
        pytest.param(
            {"KAFKA__TOPIC_PREFIX": "a/b"}, "WEBEX_EVENTS_KAFKA__TOPIC_PREFIX: String should match", id="no topic"
        ),
        pytest.param({"KAFKA__BOOTSTRAP_SERVERS": "a:1,,b"}, "must be host:port", id="no servers"),
        pytest.param(
            {"WEBEX__BASE_URL": "ftp://x"}, "WEBEX_EVENTS_WEBEX__BASE_URL: must be a web address", id="no web address"
        ),
        pytest.param({"WEBEX__BASE_URL": "https://x:port"}, "must be a web address", id="no port in it"),
        pytest.param({"WEBEX__BASE_URL": "https://u:p@x"}, "must not have a user name", id="a password in it"),
        pytest.param({"WEBEX__BASE_URL": "http://localhost.example"}, "WEBEX__BASE_URL must be https", id="plain http"),
        pytest.param(
            {"BUS": "kafka"}, "KAFKA__BOOTSTRAP_SERVERS is needed with WEBEX_EVENTS_BUS=kafka", id="Kafka, but where"
        ),
        pytest.param(
            {"JOURNAL__ENABLED": "false"}, "leaves WEBEX_EVENTS_BUS=journal nowhere to store", id="no bus at all"
        ),
        pytest.param(
            {"WEBEX__TOKEN": "a", "WEBEX__TOKEN_FILE": "b"},
            "of WEBEX_EVENTS_WEBEX__TOKEN and WEBEX_EVENTS_WEBEX__TOKEN_FILE only",
            id="two tokens",
        ),
        pytest.param(
            {"WEBEX__CLIENT_ID": "a"},
            "WEBEX_EVENTS_WEBEX__REFRESH_TOKEN_FILE must be set too",
            id="half an integration",
        ),
        pytest.param(
            {"WEBEX__SERVICE_APP__CLIENT_ID": "a"},
            "WEBEX__SERVICE_APP__APPLICATION_ID and WEBEX_EVENTS_WEBEX__SERVICE_APP__CLIENT_SECRET_FILE must be set too",
            id="half a Service App",
        ),
        pytest.param(
            {**SERVICE_APP, "WEBEX__SERVICE_APP__CALLER__TOKEN_FILE": ""},
            "WEBEX__SERVICE_APP__CALLER__TOKEN_FILE, or what is needed to refresh it, must be set too",
            id="a Service App that nobody may ask for",
        ),
        pytest.param(
            {**SERVICE_APP, "WEBEX__SERVICE_APP__CALLER__TOKEN": "x"},
            "only one can be set",
            id="two tokens of a caller",
        ),
        pytest.param(
            {"WEBEX__ORGANIZATION_ID": "acme"},
            "WEBEX_EVENTS_WEBEX__ORGANIZATION_ID: must be the id of a Webex organisation",
            id="no organisation's id",
        ),
        pytest.param(
            {"WEBEX__ORGANIZATIONS__ACME__ID": "acme"},
            "WEBEX_EVENTS_WEBEX__ORGANIZATIONS__ACME__ID: must be the id of a Webex organisation",
            id="no id of one of several",
        ),
        pytest.param(
            {"WEBEX__ORGANIZATIONS__ACME__TOKEN": "x"},
            "WEBEX_EVENTS_WEBEX__ORGANIZATIONS__ACME__ID is needed",
            id="an organisation without an id",
        ),
        pytest.param(
            {"WEBEX__ORGANIZATIONS__ACME__ID": BARE, "WEBEX__ORGANIZATIONS__B__ID": LONG},
            "WEBEX_EVENTS_WEBEX__ORGANIZATIONS__B__ID is the id of another organisation too",
            id="one organisation twice, in two forms",
        ),
        pytest.param(
            {"WEBEX__ORGANIZATIONS__ACME__ID": BARE, "WEBEX__TOKEN": "x"},
            "WEBEX_EVENTS_WEBEX__ORGANIZATION_ID is needed for the credential beside",
            id="whose the first credential is",
        ),
        pytest.param(
            {
                "WEBEX__ORGANIZATIONS__ACME__ID": BARE,
                "WEBEX__ORGANIZATIONS__ACME__TOKEN": "x",
                "WEBEX__ORGANIZATIONS__ACME__TOKEN_FILE": "y",
            },
            "of WEBEX_EVENTS_WEBEX__ORGANIZATIONS__ACME__TOKEN and",
            id="two tokens of one organisation",
        ),
        pytest.param(
            {"WEBEX__ORGANIZATIONS__ACME__TOKENS": "x"},
            "did you mean WEBEX_EVENTS_WEBEX__ORGANIZATIONS__ACME__TOKEN?",
            id="misspelt below an organisation",
        ),
        pytest.param({"WEBEX__ORGANIZATIONS__acme__ID": BARE}, "__ACME__ID?", id="a name in small letters"),
        pytest.param({"WEBEX__ORGANIZATIONS__A-__ID": BARE}, "A-__ID: String should match", id="an odd name"),
        pytest.param(
            {"CONFIG": "/nowhere.yaml"},
            "WEBEX_EVENTS_CONFIG: the file cannot be read (FileNotFoundError)",
            id="no such file",
        ),
    ],
)
def test_a_problem_is_named(variables: dict[str, str], problem: str) -> None:
    """What is wrong is refused with the variable's name and what would be right."""
    (sentence,) = said(env(**variables))

    assert problem in sentence


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    """Problems of all places, single values and combinations come together."""
    dotenv, config = tmp_path / ".env", tmp_path / "webex.yaml"
    dotenv.write_text(f"WEBEX_EVENTS_CONFIG={config}\nWEBEX_EVENTS_LOG__LEVEL=loud\nWEBEX_EVENTS_LOG__COLOR=1\n")
    config.write_text("admin: {port: x}\nkafka: {topicz: 1, topics: 5}\n")

    problems = said(env(BUS="kafka", RECEIVER__PORT="x"), dotenv=dotenv)

    assert problems == [
        f"kafka.topicz ({config}) is not a setting; did you mean kafka.topic_prefix?",
        f"kafka.topics ({config}): a group of settings is expected here",
        "WEBEX_EVENTS_LOG__COLOR (.env) is not a setting; did you mean WEBEX_EVENTS_LOG__LEVEL?",
        "WEBEX_EVENTS_RECEIVER__PORT: Input should be a valid integer, unable to parse string as an integer",
        f"admin.port ({config}): Input should be a valid integer, unable to parse string as an integer",
        "WEBEX_EVENTS_LOG__LEVEL (.env): Input should be 'debug', 'info', 'warning' or 'error'",
        "WEBEX_EVENTS_KAFKA__BOOTSTRAP_SERVERS is needed with WEBEX_EVENTS_BUS=kafka",
    ]


def test_the_strongest_place_wins(tmp_path: Path) -> None:
    """Overrides beat the environment, which beats ``.env``, which beats the YAML file, which beats the default."""
    dotenv, config = tmp_path / ".env", tmp_path / "webex.yaml"
    config.write_text(
        "kafka: {group: yaml, topic_prefix: yaml, instance_id: yaml, topics: {partitions: 3}}\nreceiver: {host: yaml}"
    )
    dotenv.write_text(
        "export WEBEX_EVENTS_KAFKA__GROUP='dotenv'\nWEBEX_EVENTS_KAFKA__TOPIC_PREFIX=dotenv\n"
        'WEBEX_EVENTS_KAFKA__INSTANCE_ID="dotenv"\nOTHER=1\n'
    )

    settings = load(
        env(CONFIG=str(config), KAFKA__GROUP="env", KAFKA__TOPIC_PREFIX="env"),
        dotenv=dotenv,
        overrides={"KAFKA__GROUP": "override"},
    )

    kafka = settings.kafka
    assert (kafka.group, kafka.topic_prefix, kafka.instance_id) == ("override", "env", "dotenv")
    assert (settings.receiver.host, kafka.topics.partitions, kafka.topics.retention_days) == ("yaml", 3, 7)


def test_what_stands_in_dotenv_is_taken_as_it_is(tmp_path: Path) -> None:
    """Nothing in ``.env`` is replaced by other variables: secrets have dollars in them."""
    (tmp_path / ".env").write_text("WEBEX_EVENTS_WEBHOOK__SECRET=a${HOME}b\n")

    assert load({"HOME": "/root"}, dotenv=tmp_path / ".env").webhook.fixed_secrets == (named(b"a${HOME}b"),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("a: [1", "line 1, column 6: {file}: expected ',' or ']'", id="no YAML"),
        pytest.param("bus: journal\nBUS: kafka", "line 2, column 1: {file}: a name is there twice", id="a name twice"),
        pytest.param("- bus", "the file ({file}): a group of settings is expected here", id="a list"),
        pytest.param(
            "webhook: {secret: 12345}", "webhook.secret ({file}): Input should be a valid string", id="a number as text"
        ),
        pytest.param(
            "kafka: {sasl: {user: x}}", "kafka.sasl.user ({file}) is not a setting; did you mean", id="misspelt"
        ),
        pytest.param("policy: {file: {x: 1}}", "policy.file ({file}): Input is not a valid path", id="too deep"),
        pytest.param("bus: *canary", "line 1, column 6: {file}: found undefined alias …", id="an alias"),
        pytest.param("bus: !canary x", "line 1, column 6: {file}: could not determine", id="a tag"),
        pytest.param("\x00", "{file}: ", id="control characters"),
    ],
)
def test_a_yaml_file_is_read_strictly(tmp_path: Path, text: str, problem: str) -> None:
    """What is wrong with the file is said with its place."""
    file = tmp_path / "webex.yaml"
    file.write_text(text)

    (sentence,) = said(env(CONFIG=str(file)))

    assert sentence.startswith(problem.format(file=file))
    assert "canary" not in sentence


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "kafka:\nbus: null\n"], ids=["empty", "a comment", "nulls"])
def test_an_empty_yaml_file_sets_nothing(tmp_path: Path, text: str) -> None:
    """Names without values are not set."""
    file = tmp_path / "webex.yaml"
    file.write_text(text.replace("kafka:\n", ""))

    assert load(env(CONFIG=str(file))) == Settings()


def test_a_broken_dotenv_is_refused(tmp_path: Path) -> None:
    """A line of ``.env`` that is no assignment is named by its number, and not shown."""
    (tmp_path / ".env").write_text("A=1\nWEBEX_EVENTS_WEBHOOK__SECRET='open-canary\n")

    (sentence,) = said({}, dotenv=tmp_path / ".env")

    assert sentence.startswith("line 2")
    assert "canary" not in sentence


@pytest.mark.parametrize(
    "variables",
    [
        {"WEBHOOK__SECRET": "canary", "BUS": "x"},
        {"WEBEX__TOKEN": "canary", "WEBEX__TOKEN_FILE": "x"},
        {"WEBEX__BASE_URL": "https://canary@x"},
        {"WEBEX__TOKENS": "canary"},
        {"RECEIVER__PORT": "canary"},
        {"KAFKA__BOOTSTRAP_SERVERS": "canary"},
        {"KAFKA__SASL__PASSWORD": "canary"},
        {"KAFKA__SASL__MECHANISM": "canary"},
        {"KAFKA__SASL__PASSWORD_FILE": "canary"},
        {"KAFKA__SECURITY_PROTOCOL": "canary"},
        {"WEBEX__ORGANIZATION_ID": "canary"},
        {"WEBEX__ORGANIZATIONS__ACME__TOKEN": "canary"},
    ],
    ids=str,
)
def test_no_value_is_ever_shown(variables: dict[str, str]) -> None:
    """Whatever is wrong, the problem does not quote a value: it may be a secret in the wrong place."""
    assert "canary" not in "".join(said(env(**variables)))


def test_secrets_hide_themselves() -> None:
    """Settings that are printed show no secret."""
    settings = load(env(WEBHOOK__SECRET="canary-1", WEBEX__TOKEN="canary-2"))

    assert "canary" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.webhook.fixed_secrets == (named(b"canary-1"),)
    assert "canary" not in repr(settings.webhook.fixed_secrets)


def test_settings_do_not_change() -> None:
    """The value is frozen."""
    with pytest.raises(ValidationError):
        load({}).receiver.port = 1  # type: ignore[misc] # that is the point


@pytest.mark.parametrize(
    ("require", "enough"),
    [
        pytest.param(require_secrets, {"WEBHOOK__SECRET": "x"}, id="a secret"),
        pytest.param(require_secrets, {"WEBHOOK__SECRETS_DIR": "x"}, id="a folder of secrets"),
        pytest.param(require_token, {"WEBEX__TOKEN": "x"}, id="a token"),
        pytest.param(require_token, {"WEBEX__TOKEN_FILE": "x"}, id="a file with a token"),
        pytest.param(
            require_token,
            {"WEBEX__CLIENT_ID": "a", "WEBEX__CLIENT_SECRET_FILE": "b", "WEBEX__REFRESH_TOKEN_FILE": "c"},
            id="an integration",
        ),
        pytest.param(require_token, {**SERVICE_APP, "WEBEX__ORGANIZATION_ID": BARE}, id="a Service App"),
        pytest.param(require_kafka, {"KAFKA__BOOTSTRAP_SERVERS": "a:1"}, id="Kafka"),
    ],
)
def test_a_command_demands_only_what_it_uses(require: Any, enough: dict[str, str]) -> None:
    """Nothing is demanded by reading; a command that needs a setting says which."""
    with pytest.raises(SettingsError, match=r"WEBEX_EVENTS_\w+ .*is needed"):
        require(load({}))

    require(load(env(**enough)))


def test_organizations_come_from_the_environment_and_from_yaml(tmp_path: Path) -> None:
    """The operator names them; both places can be mixed, and the environment wins."""
    config = tmp_path / "webex.yaml"
    config.write_text(
        f"webex:\n  organization_id: {BARE}\n  organizations:\n"
        f"    globex_2: {{id: {OTHER}, token_file: yaml}}\n    Initech: {{id: 00000000-0000-4000-8000-000000000000}}\n"
    )

    settings = load(env(CONFIG=str(config), WEBEX__ORGANIZATIONS__GLOBEX_2__TOKEN_FILE="env"))

    assert set(settings.webex.organizations) == {"globex_2", "initech"}
    assert settings.webex.organizations["globex_2"].token_file == Path("env")
    assert [(each.key, each.id) for each in settings.webex.known.known] == [
        ("default", BARE),
        (OTHER, OTHER),
        ("00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000000"),
    ]


@pytest.mark.parametrize(
    ("variables", "keys"),
    [
        pytest.param({}, ["default"], id="nothing"),
        pytest.param({"WEBEX__TOKEN": "x"}, ["default"], id="a token"),
        pytest.param({"WEBEX__ORGANIZATION_ID": BARE}, ["default"], id="its organisation"),
        pytest.param({"WEBEX__ORGANIZATIONS__A__ID": LONG}, [BARE], id="one that has a name"),
        pytest.param(
            {"WEBEX__ORGANIZATIONS__A__ID": LONG, "WEBEX__ORGANIZATIONS__B__ID": OTHER}, [BARE, OTHER], id="two"
        ),
        pytest.param(
            {"WEBEX__ORGANIZATION_ID": BARE, "WEBEX__ORGANIZATIONS__B__ID": OTHER}, ["default", OTHER], id="one more"
        ),
    ],
)
def test_a_key_never_changes(variables: dict[str, str], keys: list[str]) -> None:
    """The credential of the top is ``default``, any other its id: adding one changes nothing about those before it.

    Receivers have no credentials, and come to the same keys.
    """
    webex = load(env(**variables)).webex

    assert [each.key for each in webex.known.known] == keys


@pytest.mark.parametrize(
    ("variables", "problems"),
    [
        pytest.param(
            {"WEBEX__ORGANIZATIONS__A__ID": BARE, "WEBEX__ORGANIZATIONS__B__ID": OTHER},
            ["ORGANIZATIONS__A__TOKEN or", "ORGANIZATIONS__B__TOKEN or"],
            id="no credential at all",
        ),
        pytest.param(
            {
                "WEBEX__ORGANIZATIONS__A__ID": BARE,
                "WEBEX__ORGANIZATION_ID": OTHER,
                "WEBEX__ORGANIZATIONS__A__TOKEN": "x",
            },
            ["WEBEX_EVENTS_WEBEX__TOKEN or"],
            id="the first one has none",
        ),
        pytest.param(SERVICE_APP, ["WEBEX__ORGANIZATION_ID is needed to call"], id="a Service App of nobody"),
        pytest.param({**SERVICE_APP, "WEBEX__ORGANIZATIONS__A__ID": BARE}, [], id="the Service App is for all"),
    ],
)
def test_every_organisation_needs_a_credential(variables: dict[str, str], problems: list[str]) -> None:
    """Whoever calls Webex is told of each that has none."""
    settings = load(env(**variables))
    found: list[str] = []
    try:
        require_token(settings)
    except SettingsError as refused:
        found = [problem.message for problem in refused.problems]

    assert len(found) == len(problems)
    assert all(wanted in sentence for sentence, wanted in zip(found, problems, strict=True))


def test_the_reference_is_complete() -> None:
    """docs/reference/settings.md has one row for each setting, as the settings describe themselves."""
    rows = [f"| `{s.name}` | {s.meaning} | {f'`{s.default}`' if s.default else NONE} |" for s in describe()]
    written = [line for line in REFERENCE.read_text("utf-8").splitlines() if re.match(r"\| `[A-Z]", line)]

    assert written == rows, "the table should be:\n" + "\n".join(rows)
