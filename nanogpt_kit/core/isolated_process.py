"""What `isolated_import` starts, as `python isolated_process.py FOLDER`: sets the path, and then imports the kit."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

REQUEST, READY, RESULT, OUTPUT, TRACE = "request.json", "ready", "result.json", "output", "trace"  # files
PRELOADED = ("nanogpt_kit.api", "torch")  # what every component needs: not part of what its import costs


def serve_request(folder: Path) -> None:
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    sys.path[:] = request["path"]
    importlib.import_module("nanogpt_kit.system.installed_metadata").accept_damaged_metadata()
    for module in PRELOADED:
        importlib.import_module(module)
    importlib.import_module("nanogpt_kit.core.isolated_record").record_import(folder, request)


if __name__ == "__main__":
    serve_request(Path(sys.argv[1]))
