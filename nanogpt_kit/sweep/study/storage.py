"""Where a study lies: a file beside its runs, or what several machines share."""

from __future__ import annotations

import importlib.util
import os
import re
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.runs.lock import Lock
from nanogpt_kit.runs.secrets import hide_password, is_ambiguous, parsed, scrub

FORMS = "journal, sqlite, a path that ends in .journal, sqlite:///PATH, postgresql://..., mysql://..., grpc://HOST:PORT"
DATABASE = re.compile(r"(sqlite(\+\w+)?:///.|(postgresql|mysql)(\+\w+)?://).*")
PROXY = re.compile(r"grpc://(?P<host>[^:/]+):(?P<port>\d+)/?")
REACH_SECONDS = 10.0  # for a proxy to answer
ATTEMPTS = 5  # to find the tables of a database, or to make them
BUSY_SECONDS = 60  # that a writer to SQLite waits for the others
DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "mysql": ("MySQLdb", "pymysql")}  # any of them does


class SystemLock(BaseJournalFileLock):
    """Around each append to a journal, which it mends first.

    The system drops it with its holder; Optuna's own locks are left behind by a kill.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.lock = Lock(journal.with_name(journal.name + ".lock"), wait=True)

    def acquire(self) -> bool:
        self.lock.__enter__()
        mend(self.journal)
        return True

    def release(self) -> None:
        self.lock.__exit__(None, None, None)


def is_journal(named: str) -> bool:
    return named == "journal" or (named.endswith(".journal") and "://" not in named)


def check_form(named: str) -> None:
    """Raises KitError where it is of none of the forms."""
    reason = ""
    if named.startswith("grpc://"):
        reason = "" if PROXY.fullmatch(named) else "should be grpc://HOST:PORT"
    elif DATABASE.fullmatch(named):
        if is_ambiguous(named):
            reason = 'has an "@" too many; in a user name, a password or a query write it as %40'
        elif parsed(named) is None:
            reason = "is not a URL: the host or the port cannot be read; in a password write @ as %40 and : as %3A"
    elif not is_journal(named) and named != "sqlite":
        reason = f"is none of: {FORMS}"
    if reason:
        raise KitError(Fault(f"{hide_password(named)!r} {reason}", "sweep.storage"))


def open_storage(named: str, folder: Path, for_reading: bool = False) -> BaseStorage:
    """What `sweep.storage` names; `folder` is the sweep's. Raises KitError where it cannot be reached.

    `for_reading` neither makes nor mends anything that is a file.
    """
    check_form(named)
    try:
        if is_journal(named):
            path = folder / "study.journal" if named == "journal" else Path(named)
            return open_journal(path.absolute(), for_reading)
        if named == "sqlite":
            named = f"sqlite:///{(folder / 'study.db').absolute()}"
        if named.startswith("grpc://"):
            return open_proxy(named)
        return open_database(named, for_reading)
    except KitError:
        raise
    except Exception as error:
        raise KitError(f"sweep.storage: {hide_password(named)} cannot be reached: {cause(error, named)}") from None


def cause(error: Exception, named: str) -> str:
    """The first line of what a driver says of the storage that `sweep.storage` names, without its password."""
    return scrub(str(error).strip(), named).split("\n")[0] or type(error).__name__


def open_journal(path: Path, for_reading: bool) -> BaseStorage:
    if for_reading and not path.exists():
        raise KitError(f"there is no {path}: no sweep has begun there")
    if path.exists() and not path.is_file():  # a FIFO would be waited for, and a device has no end
        raise KitError(f"sweep.storage: {path} is not a regular file; remove it, or name another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = SystemLock(path)
    if not for_reading:
        lock.acquire()
        lock.release()
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except ValueError as error:
        raise KitError(f"sweep.storage: {path} is damaged, and not only at its end: {error}") from None


def mend(path: Path) -> None:
    """Cuts off a last line that a kill tore: after the next append no reader would get past it."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def open_database(url: str, for_reading: bool) -> BaseStorage:
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    name = parsed.get_backend_name()
    if name == "sqlite":
        if for_reading and parsed.database and not Path(parsed.database).exists():
            raise KitError(f"there is no {parsed.database}: no sweep has begun there")
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        storage = with_tables(url, {"connect_args": {"timeout": BUSY_SECONDS}})
        return storage if for_reading else one_at_a_time(storage)
    if name in DRIVERS and "+" not in parsed.drivername:
        found = next((driver for driver in DRIVERS[name] if importlib.util.find_spec(driver)), None)
        if found is None:
            raise KitError(f"sweep.storage: {name} wants a driver; install one of: {', '.join(DRIVERS[name])}")
        named = parsed.set(drivername=f"{name}+{found.lower()}")  # which one is the default, SQLAlchemy has changed
        url = named.render_as_string(hide_password=False)
    return with_tables(url, {"pool_pre_ping": True})


def one_at_a_time(storage: RDBStorage) -> RDBStorage:
    """SQLite locks no row, and two that read a queued trial would both take it: a transaction locks from its start."""
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def by_hand(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # else the driver begins transactions, when it first writes

    @event.listens_for(storage.engine, "begin")
    def lock(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # connections that were made before
    return storage


def with_tables(url: str, engine: dict[str, Any]) -> RDBStorage:
    """Its tables are made where there are none; of two that make them at the same time one fails, and looks again."""
    from sqlalchemy.exc import SQLAlchemyError

    for _ in range(ATTEMPTS):
        try:
            return RDBStorage(url, engine_kwargs=engine)
        except SQLAlchemyError:
            if not has_tables(url, engine):
                raise
            time.sleep(BUSY_SECONDS / 100)
    return RDBStorage(url, engine_kwargs=engine)


def has_tables(url: str, engine: dict[str, Any]) -> bool:
    """Whether somebody has made any. Raises SQLAlchemyError where the database cannot be reached."""
    from sqlalchemy import create_engine, inspect

    reached = create_engine(url, **engine)
    try:
        return bool(inspect(reached).get_table_names())
    finally:
        reached.dispose()


def open_proxy(url: str) -> BaseStorage:
    found = PROXY.fullmatch(url)
    assert found, "its form was checked"
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    host, port = found["host"], int(found["port"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        proxy = optuna.storages.GrpcStorageProxy(host=host, port=port)
    proxy.wait_server_ready(timeout=REACH_SECONDS)
    return proxy


def has_failed(error: Exception) -> bool:
    """Whether it is the storage that an error came from: a full disk, a server that is gone."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | optuna.exceptions.StorageInternalError) or package in ("sqlalchemy", "grpc")
