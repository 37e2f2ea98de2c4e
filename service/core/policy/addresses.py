"""Which organisation an e-mail address belongs to, where there can be no doubt about it.

A registrant types the address, so it is written to deceive. Whatever is not plainly one address has no domain at all.
"""

from __future__ import annotations

import re

import idna

#: RFC 5321, 4.5.3.1 (a path has 256 octets, two of them brackets).
_LONGEST_ADDRESS = 254
_LONGEST_LOCAL_PART = 64

#: A dot-atom of RFC 5322 in ASCII, without "%" and "!": old relays read a second route in them (RFC 5321, appendix C).
_ATOM = r"[A-Za-z0-9#$&'*+/=?^_`{|}~-]+"
_ADDRESS = re.compile(rf"(?P<local>{_ATOM}(?:\.{_ATOM})*)@(?P<domain>[^@]+)")

#: Letters, digits, hyphens; at least two labels, the last one no number (an IP address is no domain).
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}")


def email_domain(email: str) -> str:
    """The domain of one plain ``local@domain`` address in the form of :func:`domain`, "" for anything else.

    No display name, comment, quotes, second address, white space, control character or trailing dot; the local part is ASCII.
    """
    return _parts(email)[1]


def address(email: str) -> str:
    """One plain address as conditions compare it: lower case, its domain in the form of :func:`domain`, "" for anything else.

    In theory, capitals in the local part make another mailbox (RFC 5321, 2.4); in practice, nobody gives it to somebody else.
    """
    local, name = _parts(email)
    return f"{local.lower()}@{name}" if name else ""


def _parts(email: str) -> tuple[str, str]:
    """Local part, which is ASCII, and usual domain; two empty texts for anything but one plain address."""
    found = _ADDRESS.fullmatch(email) if len(email) <= _LONGEST_ADDRESS else None
    if found is None or len(found["local"]) > _LONGEST_LOCAL_PART:
        return "", ""
    name = domain(found["domain"])
    return (found["local"], name) if name else ("", "")


def domain(name: str) -> str:
    """A domain as conditions compare it: lower case, every label in ASCII (IDNA 2008, RFC 5891); "" where it is none.

    Nothing is mapped: full-width letters and dots are refused, and ``straße.de`` is not ``strasse.de``.
    """
    # Of bytes, lower() changes ASCII letters only; of a text, it would turn the Kelvin sign into "k".
    lowered = name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")
    if not lowered.isascii() or "--" in lowered:
        lowered = _to_ascii(lowered)
    return lowered if len(lowered) <= _LONGEST_ADDRESS and _DOMAIN.fullmatch(lowered) else ""


def _to_ascii(name: str) -> str:
    if len(name) > _LONGEST_ADDRESS:
        return ""
    try:
        # Without strict, the full-width and the ideographic full stop count as dots.
        return idna.encode(name, strict=True).decode("ascii")
    except UnicodeError:
        return ""
