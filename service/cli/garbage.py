"""The garbage collector of a process that serves for months."""

from __future__ import annotations

import gc

#: Objects more than were freed, before the youngest are looked at. A request leaves no cycle behind, so there is little to
#: find; at Python's 700, a tenth of the time went into looking.
_YOUNGEST = 10_000
_OLDER = 20
_OLDEST = 50


def spare_what_stays() -> None:
    """What is there now stays for good: modules, settings, listeners. A full collection would go through all of it, 50 ms each
    time, and every answer would wait for that. Call it once, when everything runs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNGEST, _OLDER, _OLDEST)
