"""The part of `isolated_import` that runs in the separate process: imports an entry point and writes the result."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from nanogpt_kit.core.entry import VERB, Entry, class_fault
from nanogpt_kit.core.isolated_process import READY, RESULT, TRACE
from nanogpt_kit.core.kinds import KINDS


def record_import(folder: Path, request: dict[str, Any]) -> NoReturn:
    """Ends the process: threads of the import would keep it alive."""
    module, function = request["describe"]
    describe = getattr(importlib.import_module(module), function)
    with (folder / TRACE).open("w", encoding="utf-8") as trace:
        faulthandler.enable(trace)
        faulthandler.dump_traceback_later(request["seconds"], exit=True, file=trace)
        threads, write_json = threading.active_count(), json.dumps  # which an import may replace
        os.ftruncate(1, 0)  # what came before is not of the import: a .pth file that raises, warnings of torch
        os.lseek(1, 0, os.SEEK_SET)
        (folder / READY).touch()
        record = import_record(Entry(**request["entry"]), describe)
        faulthandler.cancel_dump_traceback_later()
        record["threads"] = max(0, threading.active_count() - threads)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # the import may have closed or replaced it
            continue
    partial = folder / f"{RESULT}.partial"
    partial.write_text(write_json(record), encoding="utf-8", errors="backslashreplace")
    partial.replace(folder / RESULT)
    os._exit(0)


def import_record(entry: Entry, describe: Callable[[Any], Any]) -> dict[str, Any]:
    """What came of the import, as fields of `IsolatedImport`."""
    module, _, attribute = entry.target.partition(":")
    start = time.perf_counter()
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except BaseException as error:  # the code of a stranger
        return failure("raised", error, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    try:
        fault = verb_fault(loaded) if entry.kind == VERB else class_fault(loaded, KINDS[entry.kind])
        if fault:
            return {"outcome": "refused", "cause": f"it {fault}", "seconds": seconds}
        facts = None if entry.kind == VERB else describe(loaded)
        return {"outcome": "imported", "cause": "", "seconds": seconds, "facts": facts}
    except BaseException as error:  # options are code, too
        return failure("refused", error, seconds)


def verb_fault(loaded: object) -> str:
    return "" if isinstance(loaded, click.Command) else f"is not a click command but of type {type(loaded).__name__}"


def failure(outcome: str, error: BaseException, seconds: float) -> dict[str, Any]:
    message = str(error).strip().partition("\n")[0]
    cause = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return {"outcome": outcome, "cause": cause, "seconds": seconds}
