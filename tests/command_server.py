"""Runs commands of nanogpt-kit in processes forked from this one, so that torch is imported once for all of them.

Each line of standard input is a JSON object {"words", "environment", "folder", "error"}; the answer is a line with the
exit code, negative for a signal. The command's standard error goes to the file `error`.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from typing import Any

import nanogpt_kit.cli
import nanogpt_kit.train.session  # noqa: F401 - imported here, once for all commands


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            os._exit(run_command(request))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run_command(request: dict[str, Any]) -> int:
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ |= request["environment"]
    error = os.open(request["error"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, target in ((os.open(os.devnull, os.O_RDWR), 0), (error, 1), (error, 2)):
        os.dup2(descriptor, target)
    sys.argv = ["nanogpt-kit", *request["words"]]
    try:
        runpy.run_module("nanogpt_kit", run_name="__main__", alter_sys=True)
    except SystemExit as error_or_code:
        return error_or_code.code if isinstance(error_or_code.code, int) else int(error_or_code.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    main()
