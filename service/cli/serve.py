"""``webex-events serve``: the roles that run for months, in many replicas. Nothing is imported here but what they need: each
megabyte and each tenth of a second would be paid by every one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import structlog
import typer
import uvloop

from service.cli.endings import FAILED, WRONG, end
from service.cli.examples import Command, Group
from service.cli.given import settings_of
from service.cli.shutdown import Stop, Watchdog, stopped_by_signals
from service.core.errors import EventProcessorError, PolicyError, SettingsError, whereabouts
from service.settings import Settings
from service.telemetry.logging import configure

serve_app = typer.Typer(
    cls=Group,
    help="Run one role of the program until SIGTERM or Ctrl-C.",
    epilog="webex-events serve receiver\nwebex-events serve processor",
    no_args_is_help=True,
)

#: ``serve`` under the program's name, as it stands in the whole program.
only_serve = typer.Typer(cls=Group, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
only_serve.add_typer(serve_app, name="serve")


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
    from service.cli.receiver import serve_receiver

    run_role(serve_receiver)


@serve_app.command(
    "processor",
    cls=Command,
    epilog="WEBEX_EVENTS_WEBEX__TOKEN_FILE=token WEBEX_EVENTS_POLICY__FILE=policy.yaml webex-events serve processor",
)
def processor() -> None:
    """Look at the meetings that events point to, decide about registrants, act, read back."""
    from service.cli.processor import serve_processor

    run_role(serve_processor)


# --- how a role runs and ends -----------------------------------------------------------------------------------------


def run_role(
    role: Callable[[Settings, Stop], Awaitable[None]], *, overrides: Mapping[str, object] | None = None
) -> None:
    """Run a role until it is asked to stop, and end the process as it went; ``overrides`` win over its settings."""
    settings = settings_of(overrides)
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
