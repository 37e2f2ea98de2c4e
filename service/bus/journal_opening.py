"""The way the journal's file is opened: verified first, mended where it is damaged, and written to only then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import apsw

from service.bus.journal_check import Damaged, Progress, check
from service.bus.journal_file import (
    APPLICATION_ID,
    FILE_NAME,
    FORMAT,
    FORMATS,
    HOLES,
    SCHEMA,
    WAL_NAME,
    JournalFile,
    has_holes,
    size_of,
)
from service.bus.journal_lock import FolderLock
from service.bus.journal_pages import opened_for_reading, read_log_of
from service.bus.journal_salvage import finish_salvage, salvage, sync_folder, warn_of_damaged
from service.core.errors import JournalError, JournalInUse

#: The first SQLite without the WAL-reset bug (https://www.sqlite.org/changes.html).
OLDEST_SQLITE = (3, 51, 3)

#: The damage that SQLite itself finds: it cannot make sense of what it reads, or the disk does not give it.
_DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, UnicodeError)
_SMALLEST = 512  # bytes of a page of SQLite's
_UNREAD = (apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS, apsw.SQLITE_IOERR_DATA)


def check_sqlite(version: str) -> None:
    """Refuse a SQLite that can lose committed transactions. Raises JournalError."""
    if tuple(int(part) for part in version.split(".")) < OLDEST_SQLITE:
        raise JournalError(
            f"SQLite {version} has the WAL-reset bug; {'.'.join(map(str, OLDEST_SQLITE))} or newer is needed"
        )


def open_file(
    folder: Path,
    max_bytes: int | None,
    *,
    now: Callable[[], datetime],
    vfs: str | None = None,
    prepare: Callable[[JournalFile], None] = lambda _: None,
) -> JournalFile:
    """The file in ``folder``, verified. Where it is damaged, it is moved aside, and what can be verified is kept.

    ``now`` names what is moved aside; ``prepare`` has the file first, and where it raises, nothing is open or locked.
    Raises JournalError: in use, another format, not a journal, no room to mend it.
    """
    check_sqlite(apsw.sqlite_lib_version())
    try:
        _make_folder(folder)
        return _open_locked(folder, max_bytes, now, vfs, prepare)
    except (apsw.Error, OSError, UnicodeError, JournalError, Damaged) as exc:
        kind = JournalInUse if isinstance(exc, JournalInUse) else JournalError
        raise kind(f"the journal in {folder} cannot be opened: {exc}") from exc


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def _open_locked(
    folder: Path,
    max_bytes: int | None,
    now: Callable[[], datetime],
    vfs: str | None,
    prepare: Callable[[JournalFile], None],
) -> JournalFile:
    with contextlib.ExitStack() as undo:
        lock = FolderLock(folder)
        undo.callback(lock.release)
        warn_of_damaged(folder)
        side = finish_salvage(folder, lock)
        damage = None if side is None else f"the journal was damaged before; the damaged files are in {side}"
        try:
            connection = _open_verified(folder, lock.appended, vfs)
        except Damaged as exc:
            damage = salvage(folder, str(exc), lock=lock, now=now())
            connection = _open_verified(folder, lock.appended, vfs)
        undo.callback(connection.close)
        if max_bytes is not None:
            connection.pragma("max_page_count", max(1, max_bytes // connection.pragma("page_size")))
        file = JournalFile(connection, lock, damage=damage)
        prepare(file)
        undo.pop_all()
        return file


def _open_verified(folder: Path, appended: int, vfs: str | None) -> apsw.Connection:
    """Nothing is written before everything is verified. Raises Damaged."""
    wal = folder / WAL_NAME
    had_log = wal.exists()
    _check_files(folder, appended)
    (folder / FILE_NAME).touch(mode=0o600)  # SQLite gives the WAL the same mode
    connection = apsw.Connection(str(folder / FILE_NAME), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    try:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        _prepare(connection, folder, appended)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    except BaseException as exc:
        connection.close()
        if not had_log and wal.exists() and not wal.stat().st_size:
            wal.unlink()  # what SQLite made of a file that may be somebody else's
        if _is_damage(exc):
            raise Damaged(f"SQLite says: {exc}") from exc
        raise
    return connection


def _is_damage(exc: BaseException) -> bool:
    return isinstance(exc, _DAMAGE) or getattr(exc, "extendedresult", None) in _UNREAD


def _check_files(folder: Path, appended: int) -> None:
    """What SQLite would pass over in silence. Raises Damaged."""
    with opened_for_reading(folder / FILE_NAME) as database, opened_for_reading(folder / WAL_NAME) as wal:
        log = read_log_of(database, wal)
    size = size_of(folder / FILE_NAME)
    if size < log.page_size and size_of(folder / WAL_NAME):  # SQLite would delete the log
        raise Damaged(f"there is {WAL_NAME}, and no {FILE_NAME} to it")
    if size < _SMALLEST:
        if appended:
            raise Damaged(_nothing_left(appended))
        if size:  # SQLite would take it for a new one
            raise JournalError(f"{FILE_NAME} is not a journal of this program")
    if log.cut:
        raise Damaged(f"{WAL_NAME} has transactions behind one that cannot be read")


def _nothing_left(appended: int) -> str:
    return f"{appended} records were appended once, and nothing is left"


def _prepare(connection: apsw.Connection, folder: Path, appended: int) -> None:
    connection.pragma("locking_mode", "exclusive")
    connection.pragma("cell_size_check", 1)
    connection.pragma("trusted_schema", 0)
    new = _is_new(connection)  # before anything is written: the file may be somebody else's
    if new and appended:
        raise Damaged(_nothing_left(appended))
    if not new:
        check(connection, appended=appended, progress=Progress("journal.verifying"))
    _make_durable(connection, folder)
    if new:
        connection.execute(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT")
    elif not has_holes(connection):
        connection.execute(HOLES)
    with contextlib.suppress(apsw.FullError):  # the log begins anew: nothing that was torn is left in it
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def _make_durable(connection: apsw.Connection, folder: Path) -> None:
    if connection.pragma("journal_mode", "wal") != "wal":
        raise JournalError("SQLite cannot keep a write-ahead log there")
    for pragma, value in (("synchronous", "full"), ("fullfsync", 1), ("checkpoint_fullfsync", 1)):
        connection.pragma(pragma, value)
    if connection.pragma("synchronous") != 2:
        raise JournalError("SQLite did not accept synchronous=FULL")
    sync_folder(folder)  # now the WAL is there too; SQLite syncs the folder as well, but ignores a failure


def _is_new(connection: apsw.Connection) -> bool:
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    if (application, version, tables) == (0, 0, 0):
        return True
    if application != APPLICATION_ID:
        if _one_byte_off(application & 0xFFFFFFFF):
            raise Damaged("its header is not what was written")
        raise JournalError(f"{FILE_NAME} is not a journal of this program")
    if not 0 < version < FORMATS:
        raise Damaged("its header is not what was written")
    if version != FORMAT:
        raise JournalError(f"its format is {version}, this version of the program reads {FORMAT}")
    return False


def _one_byte_off(application: int) -> bool:
    """Another program's number would be another one altogether."""
    return sum(bool((application ^ APPLICATION_ID) >> shift & 0xFF) for shift in range(0, 32, 8)) == 1
