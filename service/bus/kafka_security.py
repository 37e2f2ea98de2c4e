"""What TLS and SASL take: a password and certificates, from files that may change while we run."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from service.core.errors import Problem, SettingsError

#: The settings that name files, as people write them.
PASSWORD_FILE = "WEBEX_EVENTS_KAFKA__SASL__PASSWORD_FILE"  # noqa: S105 - the name of a setting
CA_FILE = "WEBEX_EVENTS_KAFKA__CA_FILE"
CERT_FILE = "WEBEX_EVENTS_KAFKA__CERT_FILE"
KEY_FILE = "WEBEX_EVENTS_KAFKA__KEY_FILE"

_LONGEST = 1024 * 1024


@dataclass(frozen=True)
class Security:
    """How a broker is spoken with. ``protocol`` is Kafka's word: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.

    With SASL there are ``mechanism``, ``username`` and ``password_file``; with SSL there may be ``ca_file`` (else whom the
    system trusts), and ``cert_file`` with ``key_file``.
    """

    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted, and the broker proves who it is."""
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def sasl(self) -> bool:
        """Whether we say who we are by a password."""
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")


@dataclass(frozen=True)
class Credentials:
    """What the files held when they were read. ``password`` is "" without SASL; ``tls`` is None without TLS."""

    password: str = field(repr=False)
    tls: ssl.SSLContext | None


def read_credentials(security: Security) -> Credentials:
    """Read the files. Raises SettingsError, with every problem and the setting that names the file; never what is in it."""
    problems: list[Problem] = []
    password = _password(security.password_file, problems) if security.sasl else ""
    tls = _context(security, problems) if security.tls else None
    if problems:
        raise SettingsError(tuple(problems))
    return Credentials(password, tls)


def _password(file: Path | None, problems: list[Problem]) -> str:
    content = _content(file, PASSWORD_FILE, problems)
    if content is None:
        return ""
    try:
        password = content.decode()
    except UnicodeDecodeError:
        problems.append(Problem(f"{PASSWORD_FILE}: the file is not UTF-8"))
        return ""
    password = password.removesuffix("\n").removesuffix("\r") if password.endswith("\n") else password
    if not password or "\0" in password:  # SASL separates by it
        problems.append(Problem(f"{PASSWORD_FILE}: the file {'has a NUL in it' if password else 'is empty'}"))
    return password


def _context(security: Security, problems: list[Problem]) -> ssl.SSLContext | None:
    """A context that refuses every broker whose certificate is not by who is trusted, or not for its host's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # with check_hostname and CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if security.ca_file is None:
        context.load_default_certs()
    elif _content(security.ca_file, CA_FILE, problems) is not None:
        try:
            context.load_verify_locations(cafile=security.ca_file)
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            problems.append(Problem(f"{CA_FILE}: the file has no certificate in PEM form"))
    if security.cert_file is not None and security.key_file is not None:
        _load_own(context, security.cert_file, security.key_file, problems)
    return context


def _load_own(context: ssl.SSLContext, cert: Path, key: Path, problems: list[Problem]) -> None:
    contents = [_content(cert, CERT_FILE, problems), _content(key, KEY_FILE, problems)]
    if None in contents:
        return
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except _Encrypted:
        problems.append(Problem(f"{KEY_FILE}: the key is encrypted; it must be readable without a pass phrase"))
    except (OSError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            problems.append(Problem(f"{KEY_FILE}: it is not the key of the certificate in {CERT_FILE}"))
        else:
            problems.append(Problem(f"{CERT_FILE} and {KEY_FILE}: no certificate and private key in PEM form"))


class _Encrypted(Exception):
    """OpenSSL asks for a pass phrase."""


def _no_passphrase() -> str:
    raise _Encrypted  # without this OpenSSL asks on the terminal


def _content(file: Path | None, setting: str, problems: list[Problem]) -> bytes | None:
    """What it holds; None where it cannot be read. The path is not said: it may be a password in the wrong place."""
    if file is None:
        problems.append(Problem(f"{setting} is needed"))
        return None
    try:
        with file.open("rb") as stream:
            content = stream.read(_LONGEST + 1)
    except (OSError, ValueError) as error:
        problems.append(Problem(f"{setting}: the file cannot be read ({type(error).__name__})"))
        return None
    if len(content) > _LONGEST:
        problems.append(Problem(f"{setting}: the file is longer than {_LONGEST} bytes"))
        return None
    return content


class LiveCredentials:
    """The credentials as the files have them now. While these are no good, the last good ones stay in use."""

    def __init__(self, read: Callable[[], Credentials]) -> None:
        self._read = read
        self._good: Credentials | None = None
        self._complaint = ""

    async def present(self) -> Credentials:
        """Read them, beside the event loop. Raises SettingsError where they never were any good."""
        try:
            self._good = await asyncio.to_thread(self._read)
        except SettingsError as error:
            if self._good is None:
                raise
            if self._complaint != str(error):  # once, and not for each connection
                self._complaint = str(error)
                structlog.get_logger().error("kafka.credentials_kept", reason=str(error))
            return self._good
        self._complaint = ""
        return self._good
