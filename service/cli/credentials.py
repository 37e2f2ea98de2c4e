"""The credentials of the settings, and a client for each organisation."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

from service.cli.secret_files import read_secret
from service.core.errors import Problem, SettingsError
from service.core.organizations import ONLY_ORGANIZATION, organization_id
from service.settings import Credential as CredentialSettings
from service.settings import Settings, require_token
from service.webex.client import WebexClient, Wiring
from service.webex.minting import Mint, MintedToken, ServiceApp
from service.webex.rate import Budget
from service.webex.tenant import Tenant
from service.webex.tokens import Credential, Credentials, FileToken, OAuth, RefreshingToken, SecretFile, StaticToken


def token_source(settings: Settings, *, organization: str = "") -> Credential:
    """The credential of one organisation: of the one with this id or name in the settings, or of the only one.

    Raises SettingsError, also where there are several and none is named.
    """
    found = credentials(settings)
    named = {name: organization_id(each.id) for name, each in settings.webex.organizations.items()}
    if settings.webex.organization_id:
        named[ONLY_ORGANIZATION] = ONLY_ORGANIZATION
    key = _key(settings, organization, named) if organization else next(iter(found)) if len(found) == 1 else ""
    if key not in found:
        known = ", ".join(sorted(named))
        raise _refused(
            f"there are several organisations; name one of {known}" if not organization else "no such organisation"
        )
    return found[key]


def _key(settings: Settings, organization: str, named: Mapping[str, str]) -> str:
    bare = organization_id(organization)
    if bare and bare == organization_id(settings.webex.organization_id):
        return ONLY_ORGANIZATION
    return named.get(organization, bare)


def credentials(settings: Settings) -> dict[str, Credential]:
    """The credential of every organisation, by its key. Raises SettingsError."""
    require_token(settings)
    webex, made = settings.webex, {}
    mint = _mint(settings) if webex.service_app.given else None
    if webex.has_first:
        made[ONLY_ORGANIZATION] = _credential(settings, webex, ONLY_ORGANIZATION, webex.organization_id, mint)
    for each in webex.organizations.values():
        key = organization_id(each.id)
        made[key] = _credential(settings, each, key, each.id, mint)
    return made


@contextlib.asynccontextmanager
async def tenants(
    settings: Settings, found: Mapping[str, Credential], wiring: Wiring
) -> AsyncIterator[Mapping[str, Tenant]]:
    """A client for each of these credentials, with a rate budget of its own; all are closed at the end of the block."""
    webex = settings.webex
    async with contextlib.AsyncExitStack() as stack:
        opened: dict[str, Tenant] = {}
        for key, credential in found.items():
            client = WebexClient(webex.base_url, credential, allow_http=webex.allow_http, wiring=wiring)
            opened[key] = Tenant(await stack.enter_async_context(client), credential)
        yield opened


def _credential(
    settings: Settings, given: CredentialSettings, key: str, organization: str | None, mint: Mint | None
) -> Credential:
    own = _own(settings, given, key)
    if own is not None:
        return own
    assert mint is not None  # noqa: S101 - require_token saw to it
    oauth = OAuth(
        client_id=mint.app.client_id,
        client_secret=mint.app.client_secret,
        token_url=_token_url(settings),
        allow_http=settings.webex.allow_http,
    )
    return MintedToken(mint, oauth, organization=organization or "", persist=_grant_file(settings, f"app-{key}"))


def _own(settings: Settings, given: CredentialSettings, key: str) -> Credential | None:
    """What a credential's own settings say; None where they say nothing."""
    if given.token is not None:
        return _static(given.token.get_secret_value())
    if given.token_file is not None:
        return FileToken(given.token_file)
    if given.refresh_token_file is None or given.client_secret_file is None:
        return None
    return RefreshingToken(
        Credentials(
            client_id=given.client_id or "",
            client_secret=_secret(given.client_secret_file),
            refresh_token=_secret(given.refresh_token_file),
            token_url=_token_url(settings),
            allow_http=settings.webex.allow_http,
        ),
        persist=_grant_file(settings, key),
    )


def _mint(settings: Settings) -> Mint:
    app, webex = settings.webex.service_app, settings.webex
    caller = _own(settings, app.caller, "caller")
    if caller is None or app.client_secret_file is None:
        raise _refused("the Service App lacks its caller or its secret")  # settings.load says it better
    return Mint(
        ServiceApp(
            application_id=app.application_id or "",
            client_id=app.client_id or "",
            client_secret=_secret(app.client_secret_file),
        ),
        caller=caller,
        client=partial(WebexClient, webex.base_url, caller, allow_http=webex.allow_http, budget=Budget()),
    )


def _static(value: str) -> StaticToken:
    try:
        return StaticToken(value)
    except ValueError as error:
        raise _refused(str(error)) from None


def _secret(file: Path) -> SecretFile:
    """Raises SettingsError where it cannot be read now: at the start somebody is there to see it."""
    read_secret(file)
    return SecretFile(file)


def _token_url(settings: Settings) -> str:
    return f"{settings.webex.base_url}/access_token"


def _grant_file(settings: Settings, key: str) -> Path:
    """Where the grant is kept; the first organisation's has no name of its own."""
    folder = settings.journal.path
    with contextlib.suppress(OSError):  # then storing fails, and says so
        folder.mkdir(parents=True, exist_ok=True)
    return folder / ("webex-grant.json" if key == ONLY_ORGANIZATION else f"webex-grant-{key}.json")


def _refused(sentence: str) -> SettingsError:
    return SettingsError((Problem(sentence),))
