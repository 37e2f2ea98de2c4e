"""Secrets in files: what is one, and how they change while the process runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.cli.secret_files import SETTLING, LiveSecrets, read_secret, read_secrets
from service.core.errors import SettingsError
from service.core.signature import ANYBODY, Secret


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        pytest.param(b"abc", b"abc", id="no newline"),
        pytest.param(b"abc\n", b"abc", id="one newline"),
        pytest.param(b"abc\r\n", b"abc", id="a newline of Windows"),
        pytest.param(b"abc\n\n", b"abc\n", id="two newlines"),
        pytest.param(b" a\xffc\t", b" a\xffc\t", id="any bytes"),
        pytest.param(b"x", b"x", id="one byte"),
    ],
)
def test_one_newline_is_not_part_of_a_secret(tmp_path: Path, content: bytes, secret: bytes) -> None:
    """A file is its secret, but for one newline at its end."""
    (tmp_path / "secret").write_bytes(content)

    assert read_secret(tmp_path / "secret") == secret


@pytest.mark.parametrize(
    "content", [None, b"", b"\n", b"x" * 70_000], ids=["missing", "empty", "a newline", "too long"]
)
def test_what_is_no_secret_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """A file that cannot be a secret is named."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)

    with pytest.raises(SettingsError, match="/secret "):
        read_secret(tmp_path / "secret")


ORG = "1eb65fdf-9643-417f-9974-ad72cae0e10f"
OTHER = "96abc2aa-3dcc-11e5-a152-fe34819cdc9a"


def anybodys(value: bytes, name: str) -> Secret:
    return Secret(value, {ANYBODY: name})


def values(secrets: LiveSecrets) -> list[bytes]:
    return [each.value for each in secrets()]


def mounted(folder: Path, version: str, **secrets: bytes) -> None:
    """Write secrets as Kubernetes mounts them: files are links through ``..data``, which is swapped at once."""
    real = folder / f"..{version}"
    real.mkdir(parents=True)
    for name, secret in secrets.items():
        (real / name).write_bytes(secret)
    fresh = folder / "..data_tmp"
    fresh.symlink_to(real.name)
    fresh.rename(folder / "..data")
    for name in secrets:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def test_every_file_of_a_mounted_secret_is_one(tmp_path: Path) -> None:
    """Links are followed; folders and entries that begin with a dot are skipped; equal ones for all count once."""
    mounted(tmp_path, "1", b=b"two\n", a=b"one", c=b"one")
    (tmp_path / "folder").mkdir()
    (tmp_path / ".hidden").write_bytes(b"three")

    assert read_secrets(tmp_path) == (anybodys(b"one", "a"), anybodys(b"two", "b"))


def test_equal_secrets_keep_all_their_owners(tmp_path: Path) -> None:
    """Two organisations with one secret are one secret that fits both, each under its own name."""
    for name in (f"{ORG}.1", f"{OTHER}.1", f"{OTHER}.2", "webhook.secret"):
        (tmp_path / name).write_bytes(b"same\n")

    assert read_secrets(tmp_path) == (
        Secret(b"same", {ORG: f"{ORG}.1", OTHER: f"{OTHER}.1", ANYBODY: "webhook.secret"}),
    )


def test_a_name_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    """Whatever bytes a file's name has, it can be logged and counted."""
    (tmp_path / os.fsdecode(b"a\xff")).write_bytes(b"x")

    assert read_secrets(tmp_path)[0].name == "a\N{REPLACEMENT CHARACTER}"


def test_every_bad_file_is_named(tmp_path: Path) -> None:
    """All problems of a folder come at once."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"" if name != "b" else b"x")

    with pytest.raises(SettingsError) as refused:
        read_secrets(tmp_path)

    assert [str(problem) for problem in refused.value.problems] == [f"{tmp_path}/a is empty", f"{tmp_path}/c is empty"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A file by itself and with the reason; the folder only where it is the folder's fault."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").symlink_to("nowhere")
    (tmp_path / "folder" / "b").symlink_to("b")
    (tmp_path / "folder" / "c").write_bytes(b"x")
    said = []
    for folder in ("folder", "none"):
        with pytest.raises(SettingsError) as refused:
            read_secrets(tmp_path / folder)
        said += [str(problem) for problem in refused.value.problems]

    assert said == [
        f"{tmp_path}/folder/a cannot be read (No such file or directory)",
        f"{tmp_path}/folder/b cannot be read (Too many levels of symbolic links)",
        f"{tmp_path}/none cannot be read (No such file or directory)",
    ]


@pytest.mark.parametrize("fixed", [(), (anybodys(b"", "a"),)], ids=["none", "an empty one"])
def test_there_is_always_a_secret(fixed: tuple[Secret, ...]) -> None:
    """Without a secret nothing starts."""
    with pytest.raises(SettingsError, match="no secret"):
        LiveSecrets(fixed=fixed)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """A folder without files is refused at the start, even beside a fixed secret."""
    with pytest.raises(SettingsError, match="0 files"):
        LiveSecrets(fixed=[anybodys(b"x", "x")], folder=tmp_path)


async def test_secrets_change_while_running(tmp_path: Path) -> None:
    """A rotation A, A+B, B is followed without a restart; the fixed one stays."""
    mounted(tmp_path, "1", a=b"A")
    secrets = LiveSecrets(fixed=[anybodys(b"fixed", "WEBHOOK__SECRET")], folder=tmp_path)
    seen = [values(secrets)]
    mounted(tmp_path, "2", a=b"A", b=b"B")
    await secrets.refresh()
    seen.append(values(secrets))
    (tmp_path / "a").unlink()
    await secrets.refresh()
    seen.append(values(secrets))

    assert seen == [[b"fixed", b"A"], [b"fixed", b"A", b"B"], [b"fixed", b"B"]]


@pytest.mark.parametrize("damage", ["empty", "emptied", "gone"])
async def test_a_bad_folder_changes_nothing(tmp_path: Path, damage: str) -> None:
    """While the folder is no good the secrets stay, the log says so once and shows none; afterwards all goes on."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "a").write_bytes(b"canary")
    (folder / "z").write_bytes(b"canary-z")
    secrets = LiveSecrets(folder=folder)
    if damage == "empty":
        (folder / "b").write_bytes(b"")
    else:
        (folder / "a").unlink()
        (folder / "z").unlink()
    if damage == "gone":
        folder.rmdir()

    began = secrets.taken
    with capture_logs() as logs:
        await secrets.refresh()
        await secrets.refresh()
    kept = values(secrets)
    assert (secrets.refused, secrets.taken) == (True, began)
    folder.mkdir(exist_ok=True)
    (folder / "b").write_bytes(b"new")
    (folder / "a").write_bytes(b"old")
    (folder / "z").unlink(missing_ok=True)
    await secrets.refresh()

    assert kept == [b"canary", b"canary-z"]
    assert [(line["event"], line["log_level"]) for line in logs] == [("secrets.kept", "error")]
    assert "canary" not in repr(logs)
    assert values(secrets) == [b"old", b"new"]
    assert not secrets.refused
    assert secrets.taken > began


async def test_without_a_change_it_is_the_same_object(tmp_path: Path) -> None:
    """Whoever derives something of the secrets may keep it until they change."""
    (tmp_path / "a").write_bytes(b"A")
    secrets = LiveSecrets(folder=tmp_path)
    before = secrets()
    await secrets.refresh()

    assert secrets() is before


async def test_a_change_is_told_by_names(tmp_path: Path) -> None:
    """The log says which secret came and which went, and no value."""
    (tmp_path / "a").write_bytes(b"canary-A")
    secrets = LiveSecrets(folder=tmp_path)
    (tmp_path / "b").write_bytes(b"canary-B")
    (tmp_path / "a").unlink()
    with capture_logs() as logs:
        await secrets.refresh()

    assert logs == [{"event": "secrets.changed", "log_level": "info", "live": 1, "added": ["b"], "removed": ["a"]}]


async def test_half_a_file_is_no_secret(tmp_path: Path) -> None:
    """While somebody is writing, what stands in the folder for a moment only never becomes live."""
    (tmp_path / "a").write_bytes(b"A")
    secrets, seen = LiveSecrets(folder=tmp_path), set[bytes]()
    refreshing = asyncio.create_task(secrets.refresh())
    for size in range(1, 9):  # as an editor or a copy over a slow line would
        (tmp_path / "a").write_bytes(b"complete"[:size])
        await asyncio.sleep(SETTLING / 4)
        seen.update(values(secrets))
    await refreshing
    await secrets.refresh()

    assert seen <= {b"A", b"complete"}
    assert values(secrets) == [b"complete"]


async def test_the_folder_is_watched(tmp_path: Path) -> None:
    """Beside the receiver, the folder is read again and again."""
    (tmp_path / "a").write_bytes(b"A")
    secrets = LiveSecrets(folder=tmp_path)
    watching = asyncio.create_task(secrets.watch(interval=0.01))
    (tmp_path / "a").write_bytes(b"B")
    async with asyncio.timeout(5):
        while values(secrets) != [b"B"]:  # noqa: ASYNC110 - what is waited for is a file
            await asyncio.sleep(0.01)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_a_secret_that_gets_another_owner_is_a_change(tmp_path: Path) -> None:
    """The value is the same, but not everybody may sign with it any more: the log says so by name."""
    (tmp_path / "next").write_bytes(b"value")
    live = LiveSecrets(folder=tmp_path)
    (tmp_path / "next").rename(tmp_path / "1eb65fdf-9643-417f-9974-ad72cae0e10f.next")
    with capture_logs() as logs:
        await live.refresh()
    (line,) = logs
    assert (line["added"], line["removed"]) == (["1eb65fdf-9643-417f-9974-ad72cae0e10f.next"], ["next"])
