"""What the collector of a role has to look at."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import gc
from service.cli.garbage import spare_what_stays
spare_what_stays()
print(gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000, gc.isenabled(), gc.get_threshold()[0] > 700)
"""


def test_what_stays_is_never_looked_at_again() -> None:
    """Modules and all that is no garbage are set aside; what comes is still looked at, less often."""
    said = subprocess.run((sys.executable, "-c", LOOK), capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True"] * 4
