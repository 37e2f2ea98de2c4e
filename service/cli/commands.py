"""The commands and their options. Each reads the settings it uses, runs one role or one small job, and says how it went."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import httpx
import structlog
import typer
import uvloop

from service.bus.kafka_admin import kafka_admin
from service.bus.kafka_connection import Connection
from service.bus.topics import TopicReport, apply, plan, standard
from service.cli.api.verbs import verbs_of
from service.cli.auth import auth_app
from service.cli.clock import utc_now
from service.cli.dev import DEV_SETTINGS, dev_secret_file, run_dev
from service.cli.dlq import dlq_app
from service.cli.endings import FAILED, NOT_NOW, WRONG, end
from service.cli.examples import Command, Group
from service.cli.guests import guests_app
from service.cli.inputs import bytes_of
from service.cli.journal import journal_app
from service.cli.kafka_connection import kafka_connection, warning_of
from service.cli.ledger import ledger_app
from service.cli.operate import confirm_app, operate_app, release_app
from service.cli.policy import policy_app
from service.cli.roles import serve_processor, serve_receiver
from service.cli.sandbox import serve_sandbox
from service.cli.secret_files import read_secret, read_secrets
from service.cli.shutdown import Stop, Watchdog, stopped_by_signals
from service.cli.trigger import TRIGGERED, fields_of, notification, send
from service.cli.undo import registrants_app
from service.core import signature
from service.core.errors import (
    BadSignature,
    EventProcessorError,
    KafkaUnavailable,
    PolicyError,
    SettingsError,
    whereabouts,
)
from service.settings import Settings, load
from service.telemetry.logging import configure

#: Seconds within which a broker has to answer for the first time.
KAFKA_CONNECT = 8

_ABOUT = """Webex webhooks: verified, never lost, turned into CloudEvents, and acted upon.

Settings come from the environment (WEBEX_EVENTS_…), from .env and from the YAML file that WEBEX_EVENTS_CONFIG names.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 refused by Webex, 4 temporarily not possible.
"""

app = typer.Typer(
    cls=Group,
    help=_ABOUT,
    epilog=(
        "webex-events dev                         everything in one process, with a simulated Webex\n"
        "webex-events trigger meetings.updated    send it a signed webhook, from another terminal\n"
        "webex-events serve receiver              the public endpoint\n"
        "webex-events serve processor             decide about registrants by the policy\n"
        "webex-events topics plan                 what `topics apply` would do to Kafka\n"
        "webex-events policy check policy.yaml    what is wrong with a policy, with line and column\n"
        "webex-events policy backtest new.yaml    who would be decided otherwise by another policy\n"
        "webex-events dlq list                    what could not be done, and why\n"
        "webex-events pause                       stop every write to Webex; `resume` takes it back\n"
        "webex-events registrants list MEETING_ID every operation of Webex's API by hand"
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
serve_app = typer.Typer(
    cls=Group,
    help="Run one role of the program until SIGTERM or Ctrl-C.",
    epilog="webex-events serve receiver\nwebex-events serve processor",
    no_args_is_help=True,
)
topics_app = typer.Typer(
    cls=Group,
    help="Create the topics on Kafka, or see what is missing.",
    epilog="webex-events topics plan\nwebex-events topics apply",
    no_args_is_help=True,
)
signature_app = typer.Typer(
    cls=Group,
    help="Sign a body as Webex does, or find out whether it was signed.",
    epilog=(
        "webex-events signature sign body.json\n"
        'webex-events signature verify body.json --header "X-Spark-Signature: 0a1b…"'
    ),
    no_args_is_help=True,
)
app.add_typer(serve_app, name="serve")
app.add_typer(topics_app, name="topics")
app.add_typer(signature_app, name="signature")
app.add_typer(policy_app, name="policy")
app.add_typer(verbs_of("meetings"), name="meetings")
app.add_typer(registrants_app, name="registrants")
app.add_typer(verbs_of("registration"), name="registration")
app.add_typer(verbs_of("webhooks"), name="webhooks")
app.add_typer(guests_app, name="guests")
app.add_typer(auth_app, name="auth")
app.add_typer(dlq_app, name="dlq")
app.add_typer(ledger_app, name="ledger")
app.add_typer(journal_app, name="journal")
app.add_typer(operate_app)
policy_app.add_typer(confirm_app)
registrants_app.add_typer(release_app)


@app.command(
    "dev",
    cls=Command,
    epilog=(
        "webex-events dev\n"
        "WEBEX_EVENTS_POLICY__FILE=my-policy.yaml webex-events dev\n"
        "WEBEX_EVENTS_RECEIVER__PORT=8081 WEBEX_EVENTS_SANDBOX__PACE=0.2 webex-events dev"
    ),
)
def dev() -> None:
    """Receiver, processor and a simulated Webex in one process, on the journal; no Kafka, no account."""
    _run_role(run_dev, overrides=DEV_SETTINGS)


@serve_app.command(
    "receiver",
    cls=Command,
    epilog=(
        "WEBEX_EVENTS_WEBHOOK__SECRETS_DIR=/run/secrets/webhooks webex-events serve receiver\n"
        "WEBEX_EVENTS_BUS=kafka WEBEX_EVENTS_KAFKA__BOOTSTRAP_SERVERS=kafka:9092 webex-events serve receiver"
    ),
)
def receiver() -> None:
    """The public endpoint: verify, normalize, make durable, answer."""
    _run_role(serve_receiver)


@serve_app.command(
    "processor",
    cls=Command,
    epilog="WEBEX_EVENTS_WEBEX__TOKEN_FILE=token WEBEX_EVENTS_POLICY__FILE=policy.yaml webex-events serve processor",
)
def processor() -> None:
    """Look at the meetings that events point to, decide about registrants, act, read back."""
    _run_role(serve_processor)


@app.command(
    "sandbox",
    cls=Command,
    epilog="webex-events sandbox\nwebex-events sandbox --target-url http://127.0.0.1:8080/webhooks/webex",
)
def sandbox(
    target_url: Annotated[str | None, typer.Option(help="Where its signed webhooks go; none without it.")] = None,
) -> None:
    """A simulated Webex: REST, people who register, signed webhooks."""
    _run_role(lambda settings, stop: serve_sandbox(settings, stop, target=target_url))


@topics_app.command("plan", cls=Command, epilog="webex-events topics plan")
def topics_plan() -> None:
    """What `apply` would do. Changes nothing."""
    _report(_topics(plan))


@topics_app.command(
    "apply",
    cls=Command,
    epilog="webex-events topics apply\nWEBEX_EVENTS_KAFKA__TOPICS__PARTITIONS=12 webex-events topics apply",
)
def topics_apply() -> None:
    """Create what is missing and set what differs; the count of partitions never changes."""
    _report(_topics(apply))


@app.command(
    "trigger",
    cls=Command,
    epilog=(
        "webex-events trigger meetings.updated\n"
        "webex-events trigger meetings.ended --meeting 0123456789abcdef0123456789abcdef\n"
        'webex-events trigger recordings.created --data \'{"topic": "Town hall"}\''
    ),
)
def trigger(
    what: Annotated[str, typer.Argument(metavar="RESOURCE.EVENT", help="For example meetings.updated.")],
    meeting: Annotated[str, typer.Option(help="Series id of the meeting that it is about.")] = "5" * 32,
    data: Annotated[str, typer.Option(help="JSON object: fields of `data` to set.")] = "{}",
    url: Annotated[str, typer.Option(help="The receiver's endpoint.")] = TRIGGERED,
) -> None:
    """Send a signed webhook, with the secret of the settings or of `dev`."""
    settings = _settings()
    try:
        body = notification(what, series=meeting, now=utc_now(), data=fields_of(data))
        status = send(url, body, secret=_secrets(settings)[0])
    except (ValueError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        end(str(error), WRONG)
    except httpx.TransportError as error:
        end(f"Nobody answered at {url} ({type(error).__name__}). Is `webex-events dev` running?", NOT_NOW)
    typer.echo(f"{what} about meeting {meeting}: answered {status}")
    raise typer.Exit(0 if 200 <= status < 300 else FAILED)


@signature_app.command(
    "sign",
    cls=Command,
    epilog="webex-events signature sign body.json\nwebex-events signature sign - < body.json",
)
def signature_sign(body: Annotated[Path, typer.Argument(help="File with the exact bytes; - reads stdin.")]) -> None:
    """Print the signature headers of a body."""
    for name, value in signature.sign(bytes_of(body), _secrets(_settings())[0]).items():
        typer.echo(f"{name}: {value}")


@signature_app.command(
    "verify",
    cls=Command,
    epilog=(
        'webex-events signature verify body.json --header "X-Spark-Signature: 0a1b…"\n'
        'webex-events signature verify - -H "X-Webex-Signature: SHA-256=0a1b…" < body.json'
    ),
)
def signature_verify(
    body: Annotated[Path, typer.Argument(help="File with the exact bytes; - reads stdin.")],
    header: Annotated[list[str], typer.Option("--header", "-H", help='"Name: value" as it was received; repeatable.')],
) -> None:
    """Say whether one of the live secrets signed a body: exit 0 if so, 1 if not."""
    settings = _settings()
    live = _secrets(settings)
    try:
        index = signature.verify(
            bytes_of(body), map(_raw_header, header), secrets=live, mode=settings.webhook.signatures
        )
    except BadSignature as error:
        end(f"not verified: {error}", FAILED)
    typer.echo(f"verified with secret {index + 1} of {len(live)}")


# --- how a command runs and ends --------------------------------------------------------------------------------------


def _settings(overrides: Mapping[str, object] | None = None) -> Settings:
    try:
        return load(os.environ, dotenv=Path(".env"), overrides=overrides)
    except SettingsError as error:
        end(str(error), WRONG)


def _run_role(
    role: Callable[[Settings, Stop], Awaitable[None]], *, overrides: Mapping[str, object] | None = None
) -> None:
    settings = _settings(overrides)
    configure(stream=sys.stdout, colours=sys.stdout.isatty(), level=settings.log.level)

    watchdog = Watchdog()

    async def until_stopped() -> None:
        with stopped_by_signals(watchdog.arm) as stop:
            await role(settings, stop)
            structlog.get_logger().info("process.stopped", seconds=round(stop.seconds, 2))

    try:
        uvloop.run(until_stopped())
    except SettingsError as error:
        end(str(error), WRONG)
    except PolicyError as error:
        end(_of_file(settings.policy.file, error), WRONG)
    except EventProcessorError as error:
        end(str(error), FAILED)
    except (Exception, BaseExceptionGroup) as bug:  # noqa: BLE001 - the last border: a traceback may show personal data
        for leaf in _leaves(bug):
            structlog.get_logger().error("process.failed", error=type(leaf).__name__, at=whereabouts(leaf))
        raise typer.Exit(FAILED) from None
    finally:
        watchdog.disarm()


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


def _of_file(file: Path | None, error: PolicyError) -> str:
    return "\n".join(f"{file or 'policy'}: {problem}" for problem in error.problems)


def _raw_header(text: str) -> tuple[bytes, bytes]:
    name, _, value = text.encode("utf-8", "surrogateescape").partition(b":")
    return name.strip().lower(), value.strip()


def _secrets(settings: Settings) -> tuple[bytes, ...]:
    """The live secrets of the settings, else the one that `dev` made up."""
    folder, fixed, made_up = settings.webhook.secrets_dir, settings.webhook.fixed_secrets, dev_secret_file(settings)
    try:
        found = (*fixed, *(read_secrets(folder) if folder else ()))
        return found or (read_secret(made_up),)
    except SettingsError as error:
        hint = f"Set WEBEX_EVENTS_WEBHOOK__SECRET, or start `webex-events dev` first ({error})"
        end(str(error) if fixed or folder else hint, WRONG)


def _topics(work: Callable[..., Awaitable[TopicReport]]) -> TopicReport:
    settings = _settings()
    topics = settings.kafka.topics
    configure(
        stream=sys.stderr, colours=sys.stderr.isatty(), level="critical"
    )  # what is logged ends in sentences below

    async def talk(connection: Connection) -> TopicReport:
        wanted = standard(
            partitions=topics.partitions,
            replication=topics.replication,
            min_insync=topics.min_insync,
            retention=timedelta(days=topics.retention_days),
        )
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(KAFKA_CONNECT):
                admin = await stack.enter_async_context(kafka_admin(connection))
            return await work(admin, settings.kafka.topic_prefix, wanted)

    try:
        connection = kafka_connection(settings)
        if warning := warning_of(connection.security):
            typer.echo(f"warning: {warning}", err=True)
        return asyncio.run(talk(connection))
    except SettingsError as error:
        end(str(error), WRONG)
    except TimeoutError:
        end(f"Kafka at {settings.kafka.bootstrap_servers} did not answer within {KAFKA_CONNECT} s", NOT_NOW)
    except KafkaUnavailable as error:
        end(f"Kafka at {settings.kafka.bootstrap_servers} cannot do it now: {error}", NOT_NOW)


def _report(report: TopicReport) -> None:
    for result in report.results:
        changes = ", ".join(f"{name}={value}" for name, value in result.changes.items())
        notes = [changes, *(f"not changed: {drift}" for drift in result.drift), result.problem]
        typer.echo(f"{result.topic:<32} {result.state:<10} {'; '.join(filter(None, notes))}".rstrip())
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    raise typer.Exit(FAILED if any(result.state == "failed" for result in report.results) else 0)
