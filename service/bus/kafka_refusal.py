"""Why a broker does not let us in, as a sentence that says what to do about it. Pure."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from service.bus.kafka_security import CA_FILE, CERT_FILE, KEY_FILE, PASSWORD_FILE, Security

#: OpenSSL's verify results (X509_V_ERR_… of openssl/x509_vfy.h) that have a sentence of their own.
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21, 24, 27})
_OTHER_NAME = frozenset({62, 64})

_MECHANISM = "WEBEX_EVENTS_KAFKA__SASL__MECHANISM"
_PROTOCOL = "WEBEX_EVENTS_KAFKA__SECURITY_PROTOCOL"
_SERVERS = "WEBEX_EVENTS_KAFKA__BOOTSTRAP_SERVERS"
_USERNAME = "WEBEX_EVENTS_KAFKA__SASL__USERNAME"


class KafkaRefused(KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """The broker does not let us in, or is not who it should be. The message says why and what to do.

    ``everywhere``: another broker of the cluster would say the same. ``passing``: a broker that ends does so too.
    """

    def __init__(self, reason: str, *, everywhere: bool = False, passing: bool = False) -> None:
        super().__init__(reason)
        self.everywhere = everywhere
        self.passing = passing

    def __str__(self) -> str:
        return str(self.args[0])


#: Of the broker that let us in, about what we want there.
DENIALS = (ClusterAuthorizationFailedError, GroupAuthorizationFailedError, TopicAuthorizationFailedError)


def refusal_of(error: BaseException, security: Security) -> KafkaRefused | None:
    """The refusal, where it is a matter of certificates, passwords or protocols; None where no broker was reached at all."""
    causes = list(_causes(error))
    for cause in causes:
        if (refused := _tls(cause, security) or _sasl(cause, security)) is not None:
            return refused
    if any(isinstance(cause, _HUNG_UP) for cause in causes):
        wanted = "" if security.cert_file or not security.tls else f", and whether it wants {CERT_FILE}"
        return KafkaRefused(
            "the broker closed the connection while it was set up;"
            f" look whether its listener speaks {security.protocol} ({_PROTOCOL}){wanted}",
            passing=True,
        )
    return None


def reason_of(error: BaseException) -> str:
    """Why something did not work, for the log: a sentence where the operator can mend it, else the error's class."""
    if isinstance(error, KafkaRefused):
        return str(error)
    if isinstance(error, TopicAuthorizationFailedError):
        return _denied("topic", error)
    if isinstance(error, GroupAuthorizationFailedError):
        return _denied("consumer group", error)
    if isinstance(error, ClusterAuthorizationFailedError):  # a producer's id takes Write on any topic (KIP-679)
        return f"no permission for the cluster, or to write to any topic; {_ADD}"
    return type(error).__name__


_ADD = "add the ACL, docs/reference/kafka.md has them all"


def _denied(what: str, error: KafkaError) -> str:
    named = f"the {what} {error.args[0]}" if error.args and isinstance(error.args[0], str) else f"a {what}"
    return f"no permission for {named}; {_ADD}"


_HUNG_UP = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, asyncio.IncompleteReadError, ssl.SSLEOFError)


def _causes(error: BaseException) -> Iterator[BaseException]:
    step: BaseException | None = error
    while step is not None:
        yield step
        step = step.__cause__


def _tls(error: BaseException, security: Security) -> KafkaRefused | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return KafkaRefused(_certificate(error, security))
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
        return None
    said = (error.reason or type(error).__name__).lower().replace("_", " ")
    if "alert" in said and ("certificate" in said or "unknown ca" in said):
        if security.cert_file is None:
            reason = f"the broker wants a certificate of ours ({said}); set {CERT_FILE} and {KEY_FILE}"
        else:
            reason = f"the broker refuses our certificate ({said}); renew the files of {CERT_FILE} and {KEY_FILE}"
        return KafkaRefused(reason, everywhere=True)
    return KafkaRefused(
        f"the broker and we do not agree on TLS ({said}); look whether its listener speaks {security.protocol}"
    )


def _certificate(error: ssl.SSLCertVerificationError, security: Security) -> str:
    code = error.verify_code
    if code in (_EXPIRED, _NOT_YET_VALID):
        when = "has expired" if code == _EXPIRED else "is not valid yet"
        return f"the broker's certificate {when}; renew it there, or look at this machine's clock"
    if code in _OTHER_NAME:
        return (
            f"the broker's certificate is not for this host's name; name the host in {_SERVERS} as its certificate does"
        )
    if code in _UNKNOWN_AUTHORITY:
        trusted = f"the file of {CA_FILE} does not have" if security.ca_file else "this system does not trust"
        return f"the broker's certificate is by an authority that {trusted}; put the authority's into {CA_FILE}"
    return f"the broker's certificate is not accepted ({error.verify_message}); mend it there, or look at {CA_FILE}"


def _sasl(error: BaseException, security: Security) -> KafkaRefused | None:
    if isinstance(error, SaslAuthenticationFailed):
        reason = f"the broker refuses the user name or the password ({security.mechanism})"
        return KafkaRefused(f"{reason}; correct {_USERNAME} or the file of {PASSWORD_FILE}", everywhere=True)
    if isinstance(error, UnsupportedSaslMechanismError):
        return KafkaRefused(f"the broker's listener does not offer {security.mechanism}; correct {_MECHANISM}")
    if isinstance(error, IllegalSaslStateError):
        return KafkaRefused(f"the broker's listener does not ask for a password; correct {_PROTOCOL}")
    if security.sasl and isinstance(
        error, (AssertionError, LookupError, ValueError)
    ):  # aiokafka's, about what it was sent
        reason = f"the broker does not follow {security.mechanism}, or does not know the password itself"
        return KafkaRefused(f"{reason}; look whether {_SERVERS} is the right one")
    return None
