from __future__ import annotations

import os

import pytest

from tests.contracts.document import Document, where

_ABSENT = "WEBEX_OPENAPI names no file: the contract with Cisco's document is not checked"


@pytest.fixture(scope="session")
def cisco() -> Document:
    """Cisco's OpenAPI from ``WEBEX_OPENAPI``. Where it is absent the contract tests say so and are left out; with
    ``CI=true`` they fail.
    """
    path = where()
    if not path.is_file():
        if os.environ.get("CI") == "true":
            pytest.fail(_ABSENT, pytrace=False)
        pytest.skip(_ABSENT)
    return Document.read(path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line where the document is absent, whatever else is shown."""
    if not where().is_file():
        terminalreporter.write_line(_ABSENT)
