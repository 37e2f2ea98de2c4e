"""Controllers: fetch, decide, act, verify. They see the rest through the protocols in ``ports``."""
