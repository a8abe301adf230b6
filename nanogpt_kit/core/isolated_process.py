"""The process of `isolated_import`: imports one entry point and writes what came of it into a folder.

It is executed as a file: `python isolated_process.py FOLDER`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

REQUEST, READY, RESULT, OUTPUT, TRACE = "request.json", "ready", "result.json", "output", "trace"  # files
PRELOADED = ("torch", "nanogpt_kit.api")  # what every component needs: not part of what its import costs


def serve_request(folder: Path) -> NoReturn:
    import faulthandler
    import threading

    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    sys.path[:] = request["path"]
    for module in PRELOADED:
        importlib.import_module(module)
    from nanogpt_kit.core.registry import Entry

    entry = Entry(**request["entry"])
    module, function = request["describe"]
    describe = getattr(importlib.import_module(module), function)
    with (folder / TRACE).open("w", encoding="utf-8") as trace:
        faulthandler.enable(trace)
        faulthandler.dump_traceback_later(request["seconds"], exit=True, file=trace)
        threads = threading.active_count()
        (folder / READY).touch()
        record = import_record(entry, describe)
        faulthandler.cancel_dump_traceback_later()
        record["threads"] = max(0, threading.active_count() - threads)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed or replaced by the import
            continue
    partial = folder / f"{RESULT}.partial"
    partial.write_text(json.dumps(record), encoding="utf-8", errors="backslashreplace")
    partial.replace(folder / RESULT)
    os._exit(0)  # threads of the import would keep the process alive


def import_record(entry: Any, describe: Any) -> dict[str, Any]:
    from nanogpt_kit.core.kinds import KINDS
    from nanogpt_kit.core.registry import VERB, class_fault

    module, _, attribute = entry.target.partition(":")
    start = time.perf_counter()
    try:
        loaded = importlib.import_module(module)
        for part in attribute.split("."):
            loaded = getattr(loaded, part)
    except BaseException as error:  # the code of a stranger
        return failure("raised", error, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    try:
        if entry.kind == VERB:
            return verb_record(loaded, seconds)
        if fault := class_fault(loaded, KINDS[entry.kind]):
            return {"outcome": "refused", "cause": f"it {fault}", "seconds": seconds}
        return {"outcome": "imported", "cause": "", "seconds": seconds, "facts": describe(loaded)}
    except BaseException as error:  # its options are code, too
        return failure("refused", error, seconds)


def verb_record(loaded: Any, seconds: float) -> dict[str, Any]:
    is_command = isinstance(loaded, importlib.import_module("click").Command)
    cause = "" if is_command else f"it is not a click command but a {type(loaded).__name__}"
    return {"outcome": "imported" if is_command else "refused", "cause": cause, "seconds": seconds}


def failure(outcome: str, error: BaseException, seconds: float) -> dict[str, Any]:
    message = str(error).strip().partition("\n")[0]
    cause = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return {"outcome": outcome, "cause": cause, "seconds": seconds}


if __name__ == "__main__":
    serve_request(Path(sys.argv[1]))
