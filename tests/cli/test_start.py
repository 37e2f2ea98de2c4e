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


def test_a_receiver_loads_what_it_needs() -> None:
    """``webex-events serve receiver`` as far as its listeners, without starting them."""
    done = subprocess.run((sys.executable, "-c", _ASK), capture_output=True, text=True, check=True)
    said, _, modules = done.stdout.partition("modules:")

    assert "Usage: webex-events serve receiver" in said
    assert NOT_FOR_A_RECEIVER & set(modules.split()) == set()
    assert {"service.receiver.app", "service.bus.publisher", "aiokafka"} <= set(modules.split())
