"""Opens the storage of a study: a file beside its runs, or a file or server that several machines share."""

from __future__ import annotations

import importlib.util
import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from nanogpt_kit.core.errors import Fault, KitError, RunFailed
from nanogpt_kit.runs.lock import Lock
from nanogpt_kit.runs.secrets import hide_password, hide_password_in_message, is_ambiguous, parse_url

STORAGE_FORMS = (
    "journal, sqlite, a path that ends in .journal, sqlite:///PATH, postgresql://..., mysql://..., grpc://HOST:PORT"
)
STORAGE_KEY = "sweep.storage"
DATABASE_URL = re.compile(r"(sqlite(\+\w+)?:///.|(postgresql|mysql)(\+\w+)?://).*")
PROXY_URL = re.compile(r"grpc://(?P<host>[^:/]+):(?P<port>\d+)/?")
PROXY_TIMEOUT_SECONDS = 10.0
SQLITE_TIMEOUT_SECONDS = 60  # for which a writer waits for the others
TABLE_ATTEMPTS = 5  # to find the tables of a database, or to create them
DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "mysql": ("MySQLdb", "pymysql")}  # any of them is enough


# Forms of sweep.storage


def is_journal(storage: str) -> bool:
    return storage == "journal" or (storage.endswith(".journal") and "://" not in storage)


def check_storage_form(storage: str) -> None:
    """Raises KitError if `sweep.storage` has none of the known forms. Nothing is opened."""
    reason = ""
    if storage.startswith("grpc://"):
        reason = "" if PROXY_URL.fullmatch(storage) else "should be grpc://HOST:PORT"
    elif DATABASE_URL.fullmatch(storage):
        if is_ambiguous(storage):
            reason = 'has more than one "@"; in a user name, a password or a query write it as %40'
        elif parse_url(storage) is None:
            reason = "is not a URL: the host or the port cannot be read; in a password write @ as %40 and : as %3A"
    elif not is_journal(storage) and storage != "sqlite":
        reason = f"is none of: {STORAGE_FORMS}"
    if reason:
        raise KitError(Fault(f"{hide_password(storage)!r} {reason}", STORAGE_KEY))


def open_storage(storage: str, folder: Path, for_reading: bool = False) -> BaseStorage:
    """Opens what `sweep.storage` names; `folder` is the sweep's. Raises KitError if it cannot be reached.

    With `for_reading` no file is created or repaired.
    """
    check_storage_form(storage)
    try:
        if is_journal(storage):
            path = folder / "study.journal" if storage == "journal" else Path(storage)
            return open_journal(path.absolute(), for_reading)
        if storage == "sqlite":
            storage = f"sqlite:///{(folder / 'study.db').absolute()}"
        if storage.startswith("grpc://"):
            return open_proxy(storage)
        return open_database(storage, for_reading)
    except KitError:
        raise
    except Exception as error:
        reason = driver_message(error, storage)
        raise KitError(Fault(f"{hide_password(storage)} cannot be reached: {reason}", STORAGE_KEY)) from None


def is_storage_error(error: Exception) -> bool:
    """Whether an error came from the storage: a full disk, a server that is gone."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | optuna.exceptions.StorageInternalError) or package in ("sqlalchemy", "grpc")


def driver_message(error: Exception, storage: str) -> str:
    """The first line of a driver's message about `storage`, without the password."""
    return hide_password_in_message(str(error).strip(), storage).split("\n")[0] or type(error).__name__


@contextmanager
def report_storage_failure(key: str, storage: str, remedy: str = "") -> Iterator[None]:
    """Raises RunFailed for an error of the storage that the option `key` names."""
    try:
        yield
    except Exception as error:
        if not is_storage_error(error):
            raise
        reason = driver_message(error, storage)
        raise RunFailed(f"{key}: {hide_password(storage)} has failed: {reason}{remedy}") from None


# Journals


class JournalLock(BaseJournalFileLock):
    """Held for each append to a journal, after repairing its end.

    The system releases it when its holder ends; a kill would leave Optuna's own lock files behind.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.lock = Lock(journal.with_name(journal.name + ".lock"), wait=True)

    def acquire(self) -> bool:
        self.lock.__enter__()
        remove_incomplete_line(self.journal)
        return True

    def release(self) -> None:
        self.lock.__exit__(None, None, None)


def open_journal(path: Path, for_reading: bool) -> BaseStorage:
    if for_reading and not path.exists():
        raise KitError(f"there is no {path}: no sweep has begun there")
    if path.exists() and not path.is_file():  # a FIFO would block, and a device has no end
        raise KitError(Fault(f"{path} is not a regular file; remove it, or name another path", STORAGE_KEY))
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalLock(path)
    if not for_reading:
        lock.acquire()
        lock.release()
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except ValueError as error:
        raise KitError(
            Fault(f"{path} is damaged before its last line: {error}; restore it, or move it away", STORAGE_KEY)
        ) from None


def remove_incomplete_line(path: Path) -> None:
    """Removes a last line that a kill left incomplete: after the next append no reader could read beyond it."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


# Databases


def open_database(url: str, for_reading: bool) -> BaseStorage:
    from sqlalchemy.engine import make_url

    parts = make_url(url)
    name = parts.get_backend_name()
    if name == "sqlite":
        if for_reading and parts.database and not Path(parts.database).exists():
            raise KitError(f"there is no {parts.database}: no sweep has begun there")
        if parts.database:
            Path(parts.database).parent.mkdir(parents=True, exist_ok=True)
        storage = open_tables(url, {"connect_args": {"timeout": SQLITE_TIMEOUT_SECONDS}})
        return storage if for_reading else with_immediate_transactions(storage)
    if name in DRIVERS and "+" not in parts.drivername:
        driver = next((driver for driver in DRIVERS[name] if importlib.util.find_spec(driver)), None)
        if driver is None:
            raise KitError(Fault(f"{name} requires a driver; install one of: {', '.join(DRIVERS[name])}", STORAGE_KEY))
        named = parts.set(drivername=f"{name}+{driver.lower()}")  # SQLAlchemy's default has changed between versions
        url = named.render_as_string(hide_password=False)
    return open_tables(url, {"pool_pre_ping": True})


def with_immediate_transactions(storage: RDBStorage) -> RDBStorage:
    """Makes SQLite's transactions lock from their start: it locks no row, so two could both claim a queued trial."""
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def begin_by_hand(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # otherwise the driver begins a transaction at its first write

    @event.listens_for(storage.engine, "begin")
    def lock(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # connections made before
    return storage


def open_tables(url: str, engine: dict[str, Any]) -> RDBStorage:
    """Creates missing tables. If two programs create them at once one fails, and finds those of the other."""
    from sqlalchemy.exc import SQLAlchemyError

    for _ in range(TABLE_ATTEMPTS):
        try:
            return RDBStorage(url, engine_kwargs=engine)
        except SQLAlchemyError:
            if not has_tables(url, engine):
                raise
            time.sleep(SQLITE_TIMEOUT_SECONDS / 100)
    return RDBStorage(url, engine_kwargs=engine)


def has_tables(url: str, engine: dict[str, Any]) -> bool:
    """Raises SQLAlchemyError if the database cannot be reached."""
    from sqlalchemy import create_engine, inspect

    database = create_engine(url, **engine)
    try:
        return bool(inspect(database).get_table_names())
    finally:
        database.dispose()


def open_proxy(url: str) -> BaseStorage:
    parts = PROXY_URL.fullmatch(url)
    assert parts, "its form was checked"
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        proxy = optuna.storages.GrpcStorageProxy(host=parts["host"], port=int(parts["port"]))
    proxy.wait_server_ready(timeout=PROXY_TIMEOUT_SECONDS)
    return proxy
