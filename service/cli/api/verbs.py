"""One command for each of Webex's operations: arguments and options are what the table of operations says.

Parameters of the path are arguments, in the path's order. Each parameter of the query and of the headers is an option
with Webex's name in kebab-case; so is ``hostEmail`` where it belongs into the body.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.api import options
from service.cli.api.bodies import Field, body_of, fields_of
from service.cli.api.calls import SECRET_FIELDS, Asked, moment, perform
from service.cli.api.verification import can_verify
from service.cli.endings import WRONG, end
from service.cli.examples import Command, Group
from service.cli.secret_files import read_secret
from service.core.errors import SettingsError, WebexRejected
from service.webex.operations import OPERATIONS, Operation, Parameter, request_for

_HELP: Mapping[str, str] = {
    "meetings": "Meetings, as Webex has them.",
    "registrants": "People who registered for a meeting.",
    "registration": "The registration form of a meeting.",
    "webhooks": "Where Webex sends its notifications.",
    "guests": "Guests, and meetings that are sponsored for them.",
    "auth": "The credential, and tokens.",
}


#: Operations whose body may be left out.
_OPTIONAL_BODY = ("meetings.end",)


def verbs_of(resource: str, *, name: str = "") -> typer.Typer:
    """The commands of one resource, as a group called ``name`` (by default the resource)."""
    group_name = name or resource
    verbs = [op for op in OPERATIONS if op.resource == resource]
    group = typer.Typer(
        cls=Group,
        help=_HELP[group_name],
        epilog="\n".join(_example(op, group_name) for op in verbs),
        no_args_is_help=True,
    )
    for op in verbs:
        group.command(
            op.verb,
            cls=Command,
            help=f"{op.summary}.",
            epilog=_example(op, group_name),
            no_args_is_help=_asks(op),
        )(command(op))
    return group


def _example(op: Operation, group: str) -> str:
    """The shortest call that can be right."""
    ids = [_metavar(parameter) for parameter in op.placed("path")]
    body = ["--body", "FILE"] if op.body and op.name not in _OPTIONAL_BODY else []
    return " ".join(["webex-events", group, op.verb, *ids, *body])


def _metavar(parameter: Parameter) -> str:
    return kebab(parameter.name).replace("-", "_").upper()


def command(op: Operation) -> Callable[..., None]:
    """The function of one verb, with the signature that typer reads."""

    def run(**given: Any) -> None:
        perform(_asked(op, given))

    setattr(run, "__signature__", inspect.Signature([*_parameters(op)]))  # noqa: B010 - mypy knows no such attribute
    return run


def kebab(name: str) -> str:
    """``hostEmail`` → ``host-email``, ``hasQA`` → ``has-qa``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def _asks(op: Operation) -> bool:
    return any(op.placed("path"))


# --- what typer is told -----------------------------------------------------------------------------------------------


def _parameters(op: Operation) -> Iterator[inspect.Parameter]:
    for each in op.placed("path"):
        metavar = _metavar(each)
        yield _parameter(
            f"path_{each.name}",
            Annotated[str, typer.Argument(metavar=metavar, help=each.description, show_default=False)],
            default=inspect.Parameter.empty,
        )
    for each in (*op.placed("query"), *op.placed("header")):
        yield _parameter(f"{each.place}_{each.name}", _option(each))
        if each.name in SECRET_FIELDS:
            text = f"{each.description}, from a file: arguments are seen in the list of processes."
            yield _parameter(
                f"file_{each.name}", Annotated[Path | None, typer.Option(f"--{kebab(each.name)}-file", help=text)]
            )
    if op.body:
        yield from _body_parameters(op)
    yield from _common(op)


def _option(parameter: Parameter) -> Any:
    names = f"--{kebab(parameter.name)}"
    text = f"{parameter.description}."
    if parameter.type == "boolean":
        return Annotated[options.TrueFalse | None, typer.Option(names, help=text, case_sensitive=False)]
    if parameter.type == "integer":
        return Annotated[int | None, typer.Option(names, help=text)]
    choices = f" One of {', '.join(parameter.choices)}." if parameter.choices else ""
    return Annotated[str | None, typer.Option(names, help=text + choices, metavar="TEXT")]


def _body_parameters(op: Operation) -> Iterator[inspect.Parameter]:
    yield _parameter("body", options.Body)
    yield _parameter("sets", options.Set)
    if op.host_email == "body":
        yield _parameter(
            "host_email", Annotated[str | None, typer.Option("--host-email", metavar="TEXT", help=_HOST_EMAIL)]
        )
    for field in fields_of(op):
        yield _parameter(f"body_{field.name}", _field(field))


_HOST_EMAIL = "Act for this host; needs an admin-level scope."


def _field(field: Field) -> Any:
    name = f"--{kebab(field.option or field.name)}"
    text = f"Of the body: {field.name}."
    match field.kind:
        case "boolean":
            return Annotated[options.TrueFalse | None, typer.Option(name, help=text, case_sensitive=False)]
        case "integer":
            return Annotated[int | None, typer.Option(name, help=text)]
        case "ids" | "texts":
            return Annotated[list[str] | None, typer.Option(name, help=f"{text} Repeatable.", metavar="TEXT")]
        case "secret":
            return Annotated[Path | None, typer.Option(f"{name}-file", help=f"{text} A file that holds it.")]
    return Annotated[str | None, typer.Option(name, help=text, metavar="TEXT")]


def _common(op: Operation) -> Iterator[inspect.Parameter]:
    yield _parameter("organization", options.Organization)
    yield _parameter("form", options.Output)
    yield _parameter("dry_run", options.DryRun, default=False)
    if op.answers == "items" and op.method == "GET":
        yield _parameter("every", options.All, default=False)
    if not op.reads:
        yield _parameter("yes", options.Yes, default=False)
    if can_verify(op):
        yield _parameter("verify", options.Verify, default=False)
    if op.name == "applications.token":
        yield _parameter("reveal", options.Reveal, default=False)


def _parameter(name: str, annotation: Any, *, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


# --- what typer gives back --------------------------------------------------------------------------------------------


def _asked(op: Operation, given: Mapping[str, Any]) -> Asked:
    """What was typed. Ends with exit code 2 where Webex's own table says that it cannot be right."""
    host_email = given.get("host_email") or ""
    try:
        given = {**given, **_from_files(given)}
        places = {place: _placed(op, place, given) for place in ("path", "query", "header")}
        _check_every(op, given)
        request = request_for(
            op,
            path=places["path"],
            query=places["query"],
            headers=places["header"],
            body=body_of(op, file=given.get("body"), options=_prefixed("body_", given), sets=given.get("sets") or ()),
            host_email=host_email,
        )
    except (ValueError, WebexRejected, SettingsError) as error:
        end(str(error), WRONG)
    except OSError as error:
        end(f"{error.filename} cannot be read ({error.strerror})", WRONG)
    return Asked(
        op=op,
        request=request,
        path=places["path"],
        query=places["query"],
        headers=places["header"],
        host_email=host_email or places["query"].get("hostEmail") or places["header"].get("hostEmail") or "",
        **{name: given[name] for name in _CHOICES if name in given},
    )


_CHOICES = ("organization", "form", "dry_run", "every", "yes", "verify", "reveal")

#: What does not go together with ``--all`` where it is a walk over all registrants.
_NOT_WITH_ALL = ("max", "current", "email", "registrationTimeTo")


def _check_every(op: Operation, given: Mapping[str, Any]) -> None:
    """Raises ValueError where ``--all`` cannot do what the other options say."""
    if op.name != "registrants.list" or not given["every"]:
        return
    if unfit := [f"--{kebab(name)}" for name in _NOT_WITH_ALL if given[f"query_{name}"] is not None]:
        raise ValueError(f"--all does not go with {', '.join(unfit)}")
    if since := given["query_registrationTimeFrom"]:
        moment(since)


def _from_files(given: Mapping[str, Any]) -> dict[str, str]:
    """Header parameters that are given by a file. Raises SettingsError."""
    files = {name: file for name, file in _prefixed("file_", given).items() if file}
    return {f"header_{name}": read_secret(file).decode() for name, file in files.items()}


def _placed(op: Operation, place: str, given: Mapping[str, Any]) -> dict[str, Any]:
    values = {each: given[f"{place}_{each.name}"] for each in op.placed(place)}
    return {
        each.name: value == "true" if each.type == "boolean" else value
        for each, value in values.items()
        if value is not None
    }


def _prefixed(prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
