"""What log lines look like, and that logging never gets in the way."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
import structlog

from service.telemetry.logging import configure


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The lines written so far, parsed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_a_json_object(stream: io.StringIO) -> None:
    """Our events are JSON objects with a level and a time in UTC."""
    structlog.get_logger().info("webhook.accepted", id="0f", quarantined=False)

    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "webhook.accepted", "id": "0f", "quarantined": False, "level": "info"}


def test_a_terminal_gets_coloured_lines(stream: io.StringIO) -> None:
    """On a terminal a line is for people, in colours."""
    terminal = io.StringIO()
    configure(stream=terminal, colours=True)

    structlog.get_logger().warning("webhook.refused", status=401, who="bob@example.org\x1b[2J")

    assert "\x1b[" in terminal.getvalue()
    assert "webhook.refused" in terminal.getvalue()
    assert "bob" not in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()


def test_the_libraries_go_the_same_way(stream: io.StringIO) -> None:
    """Warnings of libraries are lines like ours; what they say below that is dropped, whatever our own level."""
    logging.getLogger("httpx").info("HTTP Request: GET https://x/?hostEmail=bob%40example.org")
    logging.getLogger("httpx").warning("Unable to reach %s for %s", "127.0.0.1:9092", "bob@example.org")

    (line,) = lines(stream)
    assert (line["logger"], line["level"]) == ("httpx", "warning")
    assert line["event"] == "Unable to reach 127.0.0.1:9092 for ***"


def test_a_library_that_sets_its_own_level_stays_quiet(stream: io.StringIO) -> None:
    """Uvicorn sets the level of its loggers; that does not make its INFO lines ours."""
    logger = logging.getLogger("tests.chatty")
    logger.setLevel(logging.DEBUG)
    logger.info("GET /webhooks/webex?email=bob@example.org")

    assert lines(stream) == []


def fail() -> None:
    raise ValueError("Bob Builder has no seat")


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "a library's"])
def test_an_error_is_its_class_and_place(stream: io.StringIO, ours: bool) -> None:
    """An exception is shown by class and place; its message and locals, which may be personal data, are not."""
    try:
        fail()
    except ValueError:
        if ours:
            structlog.get_logger().exception("work.failed")
        else:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application\nBob Builder")

    (line,) = lines(stream)
    assert line["error"] == "ValueError"
    assert line["at"][-1].endswith(" fail")
    assert "Bob" not in stream.getvalue()


def test_the_second_line_of_a_library_is_dropped(stream: io.StringIO) -> None:
    """asyncio shows the repr of a failed task on the second line, and with it whatever the error said."""
    logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: <Task exception=ValueError('Bob')>")

    assert [line["event"] for line in lines(stream)] == ["Task exception was never retrieved"]


class Full(io.StringIO):
    """A stream onto a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("target", [Full(), "closed"], ids=["full", "closed"])
def test_work_does_not_fail_for_its_log(
    stream: io.StringIO, target: io.StringIO | str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that cannot be written is lost, and nothing is raised or shown elsewhere."""
    broken = target if isinstance(target, io.StringIO) else io.StringIO()
    configure(stream=broken, colours=False)
    if target == "closed":
        broken.close()

    structlog.get_logger().info("webhook.accepted")
    logging.getLogger("aiokafka").error("%d", "bob@example.org")

    assert capsys.readouterr() == ("", "")


def test_a_narrow_terminal_encoding_is_no_obstacle() -> None:
    """Characters that the stream cannot show are escaped."""
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as narrow:
        configure(stream=narrow, colours=True)
        structlog.get_logger().info("meeting.found", rule="für Gäste \udcff")
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
        assert b"f\\xfcr" in raw.getvalue()


def test_levels_are_for_our_own_events(stream: io.StringIO) -> None:
    """Below the level nothing is written."""
    configure(stream=stream, colours=False, level="warning")

    structlog.get_logger().info("webhook.accepted")

    assert lines(stream) == []
