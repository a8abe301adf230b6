"""One study, three controllers: through a journal, SQLite, PostgreSQL and Optuna's gRPC proxy."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep import session
from nanogpt_kit.sweep.study import storage as storage_module
from nanogpt_kit.sweep.study.records import Owner
from nanogpt_kit.sweep.study.storage import open_storage, remove_incomplete_line
from nanogpt_kit.sweep.work.controller import Controller

X = '"evaluator.0.x" = { float = [0.0, 1.0] }'
TRIALS = 9
PASSWORD = secrets.token_hex(8)  # drawn, since a run's dirty.patch may hold this file


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server of its own, from Debian's package; its URL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    programs = found[-1].parent if found else None
    if programs is None:
        named = shutil.which("initdb")
        if named is None:
            pytest.skip("PostgreSQL is not installed (Debian's package: postgresql)")
        programs = Path(named).resolve().parent
    folder.mkdir()
    as_user: list[str] = []
    if os.getuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        for parent in folder.parents:
            if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/"):
                parent.chmod(0o755)
        as_user = ["runuser", "-u", "postgres", "--"]
    port, data = free_port(), folder / "data"
    (password := folder / "password").write_text(PASSWORD)
    password.chmod(0o644)
    initdb = [programs / "initdb", "-D", data, "-U", "kit", "-A", "scram-sha-256", f"--pwfile={password}"]
    subprocess.run([*as_user, *initdb], check=True, capture_output=True, cwd="/")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [*as_user, programs / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-o", options, "-l", folder / "log", "start"], check=True, capture_output=True, cwd="/")
    try:
        yield f"postgresql://kit:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        stopped = subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, text=True, cwd="/")
        assert stopped.returncode == 0, stopped


SERVER = """
import sys
import optuna
optuna.storages.run_grpc_proxy_server(optuna.storages.RDBStorage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""


@contextmanager
def proxy(folder: Path) -> Iterator[str]:
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen([sys.executable, "-Pc", SERVER, f"sqlite:///{folder}/behind.db", str(port)])
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def journal(folder: Path) -> Iterator[str]:
    yield str(folder / "shared.journal")


@contextmanager
def sqlite(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder}/shared.db"


def study_in(url: str) -> optuna.Study:
    return optuna.load_study(study_name="tiny", storage=open_storage(url, Path("/nowhere"), for_reading=True))


@pytest.mark.slow
@pytest.mark.usefixtures("real_processes")
@pytest.mark.parametrize("storage", [journal, sqlite, postgres, proxy])
def test_three_controllers_share_a_study_and_take_over_from_one_that_is_killed(
    make_sweep: Callable[..., Any], storage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(f"trials = {TRIALS}\nconfirm = 1", X, "train.steps=200", "evaluate.every_steps=100")
    with storage(tmp_path / "storage") as url:
        controllers = []
        for name in ("one", "two", "three"):  # as on three machines: runs in folders of their own
            monkeypatch.setenv("NANOGPT_KIT_RUNS", str(tmp_path / name))
            controllers.append(sweep.start(f"--storage={url}"))
        time.sleep(12)
        controllers[0].send_signal(signal.SIGKILL)
        told = [controller.communicate(timeout=300) for controller in controllers]
        codes = [controller.returncode for controller in controllers]
        assert codes == [-signal.SIGKILL, 0, 0], told
        trials = study_in(url).get_trials()
        assert [trial.number for trial in trials] == list(range(TRIALS))
        assert [trial.state.name for trial in trials] == ["COMPLETE"] * TRIALS
        assert len({trial.params["evaluator.0.x"] for trial in trials}) == TRIALS
        folders = {owner.folder for trial in trials if (owner := Owner.of(trial))}
        assert len(folders) > 1, "one controller did all the work"
        runs = [path.parent for path in tmp_path.glob("*/tiny/sweep/trial-*/experiment.toml")]
        assert len({run.name for run in runs}) == len(runs) == TRIALS + 6, (
            "each trial once, and the best and trial 0 with three fresh seeds"
        )
        for name in ("two", "three"):
            assert (tmp_path / name / "tiny" / "sweep" / "best.toml").exists()
            assert (tmp_path / name / "tiny" / "sweep" / "report.html").exists()
        written = [path for name in ("one", "two", "three") for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]


@pytest.mark.parametrize("torn", [b'{"op', b'{"op_code": 1}', b"\xff\xfe"])
def test_a_torn_journal_is_mended_and_a_whole_one_left_alone(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "study.journal"
    storage = open_storage("journal", tmp_path)
    optuna.create_study(study_name="a", storage=storage)
    whole = path.read_bytes()
    remove_incomplete_line(path)
    assert path.read_bytes() == whole
    path.write_bytes(whole + torn)
    again = open_storage("journal", tmp_path)
    assert path.read_bytes() == whole
    study = optuna.load_study(study_name="a", storage=again)
    study.enqueue_trial({})
    assert len(optuna.load_study(study_name="a", storage=open_storage("journal", tmp_path)).get_trials()) == 1


def test_a_line_that_one_controller_tore_does_not_hurt_those_that_live(tmp_path: Path) -> None:
    living = open_storage("journal", tmp_path)
    study = optuna.create_study(study_name="a", storage=living)
    with (tmp_path / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code":5,"worker_id":"x')
    study.enqueue_trial({})
    study.set_user_attr("still", "here")
    again = optuna.load_study(study_name="a", storage=open_storage("journal", tmp_path))
    assert (len(again.get_trials()), again.user_attrs) == (1, {"still": "here"})


def test_a_journal_that_is_damaged_elsewhere_is_named(tmp_path: Path) -> None:
    optuna.create_study(study_name="a", storage=open_storage("journal", tmp_path))
    path = tmp_path / "study.journal"
    path.write_bytes(b"garbage\n" + path.read_bytes())
    with pytest.raises(KitError, match=r"study\.journal is damaged before its last line"):
        open_storage("journal", tmp_path)


@pytest.mark.parametrize("for_reading", [True, False])
def test_a_journal_that_is_no_file_is_refused_at_once(tmp_path: Path, for_reading: bool) -> None:
    os.mkfifo(tmp_path / "study.journal")
    with pytest.raises(KitError, match=r"study\.journal is not a regular file; remove it"):
        open_storage("journal", tmp_path, for_reading)


def test_a_lock_that_a_kill_left_does_not_stop_the_next_controller(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from nanogpt_kit.sweep.study.storage import JournalLock\n"
        f"JournalLock(Path({str(tmp_path / 'study.journal')!r})).acquire()\n"
        "print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-Pc", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.communicate()
    began = time.monotonic()
    optuna.create_study(study_name="a", storage=open_storage("journal", tmp_path))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("jornal", "'jornal' is none of: journal, sqlite"),
        ("grpc://localhost", "should be grpc://HOST:PORT"),
        ("grpc://127.0.0.1:1", "grpc://127.0.0.1:1 cannot be reached"),
        ("postgresql://me:pass-word@127.0.0.1:1/x", "postgresql://me:***@127.0.0.1:1/x cannot be reached"),
        ("oracle://me:pass-word@host/x", "'oracle://me:***@host/x' is none of"),
        ("sqlite:////proc/none/x.db", "cannot be reached"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, words: str
) -> None:
    monkeypatch.setattr("nanogpt_kit.sweep.study.storage.PROXY_TIMEOUT_SECONDS", 0.5)
    with pytest.raises(KitError) as caught:
        open_storage(named, tmp_path)
    assert words in str(caught.value)
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize("named", ["journal", "sqlite", "other.journal"])
def test_looking_at_a_sweep_that_has_not_begun_makes_no_file(tmp_path: Path, named: str) -> None:
    with pytest.raises(KitError, match="no sweep has begun there"):
        open_storage(str(tmp_path / named) if "." in named else named, tmp_path, for_reading=True)
    assert not list(tmp_path.iterdir())


def test_a_storage_that_fails_meanwhile_ends_the_sweep_with_a_sentence(
    make_sweep: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Controller) -> None:
        raise optuna.exceptions.StorageInternalError("no connection to postgresql://me:pass-word@host/x\nmore of it")

    monkeypatch.setattr(Controller, "run", fails)
    sweep = make_sweep("trials = 2", X)
    with pytest.raises(RunFailed) as caught:
        session.run_sweep(Experiment.load(sweep.path))
    told = "journal has failed: no connection to postgresql://***@host/x; the same command continues"
    assert told in str(caught.value)


@pytest.mark.parametrize("made", [True, False])
def test_of_two_that_make_the_tables_at_once_one_looks_again_whatever_the_driver_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    from sqlalchemy.exc import OperationalError

    real, calls = storage_module.RDBStorage, []

    def beaten(url: str, **options: Any) -> Any:
        calls.append(url)
        if len(calls) > 1:
            return real(url, **options)
        if made:
            real(url, **options).engine.dispose()
        raise OperationalError("in any words", None, Exception())

    monkeypatch.setattr(storage_module, "RDBStorage", beaten)
    monkeypatch.setattr(storage_module, "SQLITE_TIMEOUT_SECONDS", 0.0)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    if made:
        storage_module.open_tables(url, {}).engine.dispose()
        assert len(calls) == 2
    else:
        with pytest.raises(OperationalError):
            storage_module.open_tables(url, {})
        assert len(calls) == 1
