"""The limits of a process, in one of its own: they cannot be taken back."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOK = """
import resource, sys
from service.cli.process_limits import prepare, room_for
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
prepare()
print(resource.getrlimit(resource.RLIMIT_CORE)[0], resource.getrlimit(resource.RLIMIT_NOFILE)[0], room_for(wanted))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "said"),
    [
        pytest.param(64, 8192, 4096, "0 8192 4096", id="the soft limit is raised"),
        pytest.param(64, 1024, 4096, "0 1024 768", id="fewer connections than were asked for"),
        pytest.param(64, 100, 4096, "0 100 50", id="hardly any files"),
        pytest.param(64, 1024, 100, "0 1024 100", id="enough for what was asked for"),
    ],
)
def test_files_are_kept_for_what_is_no_connection(soft: int, hard: int, wanted: int, said: str) -> None:
    """Where connections took every file, probes would fail, and a healthy process would be started again."""
    asked = (sys.executable, "-c", LOOK, str(soft), str(hard), str(wanted))
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == said
