"""The commands and their options. Each reads the settings it uses, runs one role or one small job, and says how it went."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import msgspec
import structlog
import typer
import uvloop

from service.bus.kafka_admin import kafka_admin
from service.bus.topics import TopicReport, apply, plan, standard
from service.cli.clock import utc_now
from service.cli.dev import dev_secret_file, run_dev, with_dev_defaults
from service.cli.roles import serve_processor, serve_receiver
from service.cli.sandbox import serve_sandbox
from service.cli.secret_files import read_secret, read_secrets
from service.cli.serving import Stop, stopped_by_signals
from service.cli.trigger import notification, send
from service.core import policy, signature
from service.core.errors import (
    BadSignature,
    EventProcessorError,
    KafkaUnavailable,
    PolicyError,
    SettingsError,
    whereabouts,
)
from service.settings import Settings, load, require_kafka
from service.telemetry import logging

#: Exit codes that scripts rely on: done, failed, wrong usage or settings, temporarily not possible.
FAILED, WRONG, NOT_NOW = 1, 2, 4

_EXAMPLES = """Webex webhooks, verified, never lost, turned into CloudEvents, and acted upon.

\b
Examples:
  webex-events dev                            everything in one process, with a simulated Webex
  webex-events trigger meetings.updated       send it a signed webhook, from another terminal
  webex-events serve receiver                 the public endpoint (settings: environment, .env, YAML)
  webex-events serve processor                decide about registrants by the policy
  webex-events topics plan                    what `topics apply` would do to Kafka
  webex-events policy check policy.yaml       what is wrong with a policy, with line and column
  webex-events signature verify body.json --header "X-Spark-Signature: 0a1b…"

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 4 temporarily not possible.
"""

app = typer.Typer(
    help=_EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
serve_app = typer.Typer(help="Run one role of the program until SIGTERM or Ctrl-C.", no_args_is_help=True)
topics_app = typer.Typer(help="Create the topics on Kafka, or see what is missing.", no_args_is_help=True)
signature_app = typer.Typer(help="Sign a body as Webex does, or find out whether it was signed.", no_args_is_help=True)
policy_app = typer.Typer(help="The policy for registrants.", no_args_is_help=True)
app.add_typer(serve_app, name="serve")
app.add_typer(topics_app, name="topics")
app.add_typer(signature_app, name="signature")
app.add_typer(policy_app, name="policy")


@app.command("dev")
def dev() -> None:
    """Receiver, processor and a simulated Webex in one process, on the journal; no Kafka, no account."""
    _run_role(run_dev, overrides=with_dev_defaults(os.environ))


@serve_app.command("receiver")
def receiver() -> None:
    """The public endpoint: verify, normalize, make durable, answer."""
    _run_role(serve_receiver)


@serve_app.command("processor")
def processor() -> None:
    """Look at the meetings that events point to, decide about registrants, act, read back."""
    _run_role(serve_processor)


@app.command("sandbox")
def sandbox(
    target_url: Annotated[str | None, typer.Option(help="Where its signed webhooks go; none without it.")] = None,
) -> None:
    """A simulated Webex: REST, people who register, signed webhooks."""
    _run_role(lambda settings, stop: serve_sandbox(settings, stop, target=target_url))


@topics_app.command("plan")
def topics_plan() -> None:
    """What `apply` would do. Changes nothing."""
    _report(_topics(plan))


@topics_app.command("apply")
def topics_apply() -> None:
    """Create what is missing and set what differs; the count of partitions never changes."""
    _report(_topics(apply))


@app.command("trigger")
def trigger(
    what: Annotated[str, typer.Argument(metavar="RESOURCE.EVENT", help="For example meetings.updated.")],
    meeting: Annotated[str, typer.Option(help="Series id of the meeting that it is about.")] = "5" * 32,
    data: Annotated[str, typer.Option(help="JSON object: fields of `data` to set.")] = "{}",
    url: Annotated[str, typer.Option(help="The receiver's endpoint.")] = "http://127.0.0.1:8080/webhooks/webex",
) -> None:
    """Send a signed webhook, with the secret of the settings or of `dev`."""
    settings = _settings()
    try:
        body = notification(what, series=meeting, now=utc_now(), data=msgspec.json.decode(data, type=dict[str, Any]))
    except (ValueError, msgspec.DecodeError) as error:
        _end(str(error), WRONG)
    try:
        status = send(url, body, secret=_secrets(settings)[0])
    except httpx.TransportError as error:
        _end(f"Nobody answered at {url} ({type(error).__name__}). Is `webex-events dev` running?", NOT_NOW)
    except httpx.InvalidURL as error:
        _end(f"{url} is not a web address ({error})", WRONG)
    typer.echo(f"{what} about meeting {meeting}: answered {status}")
    raise typer.Exit(0 if 200 <= status < 300 else FAILED)


@signature_app.command("sign")
def signature_sign(body: Annotated[Path, typer.Argument(help="File with the exact bytes; - reads stdin.")]) -> None:
    """Print the signature headers of a body."""
    for name, value in signature.sign(_bytes_of(body), _secrets(_settings())[0]).items():
        typer.echo(f"{name}: {value}")


@signature_app.command("verify")
def signature_verify(
    body: Annotated[Path, typer.Argument(help="File with the exact bytes; - reads stdin.")],
    header: Annotated[list[str], typer.Option("--header", "-H", help='"Name: value" as it was received; repeatable.')],
) -> None:
    """Say whether one of the live secrets signed a body: exit 0 if so, 1 if not."""
    settings = _settings()
    headers = [
        (name.strip().lower().encode(), value.strip().encode()) for name, _, value in (h.partition(":") for h in header)
    ]
    try:
        index = signature.verify(_bytes_of(body), headers, secrets=_secrets(settings), mode=settings.webhook.signatures)
    except BadSignature as error:
        _end(f"not verified: {error}", FAILED)
    typer.echo(f"verified with secret {index + 1} of {len(_secrets(settings))}")


@policy_app.command("check")
def policy_check(file: Annotated[Path, typer.Argument(help="The policy file; - reads stdin.")]) -> None:
    """Say what is wrong with a policy, with line and column; nothing is changed."""
    try:
        checked = policy.parse(_bytes_of(file).decode("utf-8-sig"))
    except UnicodeDecodeError:
        _end(f"{file}: not UTF-8", WRONG)
    except PolicyError as error:
        _end("\n".join(f"{file}: {problem}" for problem in error.problems), WRONG)
    typer.echo(
        f"{file}: {len(checked.rules)} rules, version {checked.version}" + (", paused" if checked.paused else "")
    )


# --- how a command runs and ends --------------------------------------------------------------------------------------


def _settings(overrides: dict[str, object] | None = None) -> Settings:
    try:
        return load(os.environ, dotenv=Path(".env"), overrides=overrides)
    except SettingsError as error:
        _end("\n".join(map(str, error.problems)), WRONG)


def _run_role(role: Callable[[Settings, Stop], Awaitable[None]], *, overrides: dict[str, object] | None = None) -> None:
    settings = _settings(overrides)
    logging.configure(stream=sys.stdout, colours=sys.stdout.isatty(), level=settings.log.level)

    async def until_stopped() -> None:
        with stopped_by_signals() as stop:
            await role(settings, stop)

    try:
        uvloop.run(until_stopped())
    except (SettingsError, PolicyError) as error:
        _end("\n".join(map(str, error.problems)), WRONG)
    except EventProcessorError as error:
        _end(str(error), FAILED)
    except BaseExceptionGroup as group:
        for leaf in _leaves(group):
            structlog.get_logger().error("process.failed", error=type(leaf).__name__, where=whereabouts(leaf))
        raise typer.Exit(FAILED) from None


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


def _end(sentence: str, code: int) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(code)


def _bytes_of(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        _end(f"{file} cannot be read ({error.strerror})", WRONG)


def _secrets(settings: Settings) -> tuple[bytes, ...]:
    """The live secrets of the settings, else the one that `dev` made up."""
    folder, fixed, made_up = settings.webhook.secrets_dir, settings.webhook.fixed_secrets, dev_secret_file(settings)
    try:
        found = (*fixed, *(read_secrets(folder) if folder else ()))
        return found or (read_secret(made_up),)
    except SettingsError as error:
        hint = f"Set WEBEX_EVENTS_WEBHOOK__SECRET, or start `webex-events dev` first ({error})"
        _end(str(error) if fixed or folder else hint, WRONG)


def _topics(work: Callable[..., Awaitable[TopicReport]]) -> TopicReport:
    settings = _settings()
    topics = settings.kafka.topics

    async def talk(servers: str) -> TopicReport:
        wanted = standard(
            partitions=topics.partitions,
            replication=topics.replication,
            retention=timedelta(days=topics.retention_days),
        )
        async with kafka_admin(servers) as admin:
            return await work(admin, settings.kafka.topic_prefix, wanted)

    try:
        return asyncio.run(talk(require_kafka(settings)))
    except SettingsError as error:
        _end(str(error), WRONG)
    except KafkaUnavailable as error:
        _end(str(error), NOT_NOW)


def _report(report: TopicReport) -> None:
    for result in report.results:
        changes = ", ".join(f"{name}={value}" for name, value in result.changes.items())
        notes = [changes, *(f"not changed: {drift}" for drift in result.drift), result.problem]
        typer.echo(f"{result.topic:<32} {result.state:<10} {'; '.join(filter(None, notes))}".rstrip())
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    raise typer.Exit(FAILED if any(result.state == "failed" for result in report.results) else 0)
