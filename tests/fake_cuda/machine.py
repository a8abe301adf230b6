"""`python machine.py LIBRARY`: a process with the fake device. It answers one request a line, in JSON, until its input
ends: {"call": "module.function", "arguments": {...}} to {"result": ...} or {"error": traceback}.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path

from fake_device import load_device


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what anything prints is not an answer
    load_device(Path(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        module, _, name = request["call"].partition(".")
        try:
            answer = {"result": getattr(importlib.import_module(module), name)(**request["arguments"])}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
