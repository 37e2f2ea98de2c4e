"""Calls to the Webex API. ``protocol`` is pure; ``transport``, ``client`` and ``tokens`` are the only users of httpx
for it.
"""
