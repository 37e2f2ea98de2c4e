"""What a role loads before it does anything: every replica pays for it, in memory and in seconds."""

from __future__ import annotations

import subprocess
import sys

#: Of the operators' commands, of the other roles, and what only these need.
NOT_FOR_A_RECEIVER = {
    *("cel", "httpcore", "httpx", "jsonschema", "prompt_toolkit"),
    *("service.cli.commands", "service.controllers", "service.core.policy", "service.sandbox", "service.webex"),
}

_ASK = """
import sys
from service.cli import main
sys.argv[1:] = ["serve", "receiver", "--help"]
try:
    main()
except SystemExit:
    import service.cli.receiver
print("modules:", *sys.modules)
"""

_ASK_HEALTH = """
import sys
from service.cli import main
sys.argv[1:] = ["health", "--help"]
try:
    main()
except SystemExit:
    print("modules:", *sys.modules)
"""


#: A container is asked how it is every few seconds.
NOT_FOR_A_PROBE = NOT_FOR_A_RECEIVER | {"aiokafka", "apsw", "asyncio", "prometheus_client", "starlette", "structlog"}


def asked(program: str) -> tuple[str, set[str]]:
    """What a process of this program says, and which modules it has loaded."""
    done = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=True)
    said, _, modules = done.stdout.partition("modules:")
    return said, set(modules.split())


def test_health_loads_what_it_needs() -> None:
    """``webex-events health``, up to where it would ask."""
    said, modules = asked(_ASK_HEALTH)

    assert "Usage: webex-events health" in said
    assert NOT_FOR_A_PROBE & modules == set()
    assert "service.settings" in modules


def test_a_receiver_loads_what_it_needs() -> None:
    """``webex-events serve receiver`` as far as its listeners, without starting them."""
    said, modules = asked(_ASK)

    assert "Usage: webex-events serve receiver" in said
    assert NOT_FOR_A_RECEIVER & modules == set()
    assert {"service.receiver.app", "service.bus.publisher", "aiokafka"} <= modules
