"""The commands and their options. Each reads the settings it uses, runs one role or one small job, and says how it went."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated

import httpx
import typer

from service.bus.kafka_admin import kafka_admin
from service.bus.kafka_connection import Connection
from service.bus.topics import TopicReport, apply, plan, standard
from service.cli.api.verbs import verbs_of
from service.cli.auth import auth_app
from service.cli.clock import utc_now
from service.cli.dev import DEV_SETTINGS, run_dev
from service.cli.dlq import dlq_app
from service.cli.endings import FAILED, NOT_NOW, WRONG, end
from service.cli.events import events_app
from service.cli.examples import Command, Group
from service.cli.given import settings_of
from service.cli.guests import guests_app
from service.cli.journal import journal_app
from service.cli.journal_drain import drain_app
from service.cli.kafka_connection import kafka_connection, warning_of
from service.cli.ledger import ledger_app
from service.cli.operate import confirm_app, operate_app, release_app
from service.cli.policy import policy_app
from service.cli.probe import health_app
from service.cli.rejects import rejects_app
from service.cli.sandbox import serve_sandbox
from service.cli.serve import run_role, serve_app
from service.cli.signatures import signature_app, signing_secret
from service.cli.trigger import TRIGGERED, fields_of, notification, send
from service.cli.undo import registrants_app
from service.core.errors import (
    KafkaUnavailable,
    SettingsError,
)
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
        "webex-events health                      is the role beside us ready; for containers\n"
        "webex-events topics plan                 what `topics apply` would do to Kafka\n"
        "webex-events policy check policy.yaml    what is wrong with a policy, with line and column\n"
        "webex-events policy backtest new.yaml    who would be decided otherwise by another policy\n"
        "webex-events events tail                 the events as they come, from Kafka or the journal\n"
        "webex-events dlq list                    what could not be done, and why\n"
        "webex-events rejects list                whose signature was refused, and why\n"
        "webex-events pause                       stop every write to Webex; `resume` takes it back\n"
        "webex-events registrants list MEETING_ID every operation of Webex's API by hand"
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
topics_app = typer.Typer(
    cls=Group,
    help="Create the topics on Kafka, or see what is missing.",
    epilog="webex-events topics plan\nwebex-events topics apply",
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
app.add_typer(events_app, name="events")
app.add_typer(dlq_app, name="dlq")
app.add_typer(rejects_app, name="rejects")
app.add_typer(ledger_app, name="ledger")
app.add_typer(journal_app, name="journal")
app.add_typer(operate_app)
app.add_typer(health_app)
journal_app.add_typer(drain_app)
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
    run_role(run_dev, overrides=DEV_SETTINGS)


@app.command(
    "sandbox",
    cls=Command,
    epilog="webex-events sandbox\nwebex-events sandbox --target-url http://127.0.0.1:8080/webhooks/webex",
)
def sandbox(
    target_url: Annotated[str | None, typer.Option(help="Where its signed webhooks go; none without it.")] = None,
) -> None:
    """A simulated Webex: REST, people who register, signed webhooks."""
    run_role(lambda settings, stop: serve_sandbox(settings, stop, target=target_url))


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
    settings = settings_of()
    try:
        body = notification(what, series=meeting, now=utc_now(), data=fields_of(data))
        status = send(url, body, secret=signing_secret(settings))
    except (ValueError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        end(str(error), WRONG)
    except httpx.TransportError as error:
        end(f"Nobody answered at {url} ({type(error).__name__}). Is `webex-events dev` running?", NOT_NOW)
    typer.echo(f"{what} about meeting {meeting}: answered {status}")
    raise typer.Exit(0 if 200 <= status < 300 else FAILED)


def _topics(work: Callable[..., Awaitable[TopicReport]]) -> TopicReport:
    settings = settings_of()
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
