"""A run imports only what it uses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# Each takes 0.05 to 1 s to import. A run that neither compiles nor reads tables nor has figures uses none of them.
UNUSED = {
    "IPython",
    "datasets",
    "matplotlib",
    "optuna",
    "pandas",
    "plotly",
    "pyarrow",
    "scipy",
    "sqlalchemy",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "torch.fx.experimental.symbolic_shapes",
    "torch.utils.tensorboard",
    "transformers",
}
RUN = f"""
import sys
from nanogpt_kit.__main__ import run_command
from nanogpt_kit.train import cores

cores.MIN_SECONDS_PER_CHUNK = 1e-12  # so that the batch is split
assert run_command() == 0
print(sorted({UNUSED!r} & set(sys.modules)), file=sys.stderr)
"""


def test_a_run_imports_nothing_that_it_does_not_use(tiny: Path) -> None:
    options = [
        "callback=['console', 'tensorboard']",
        "train.steps=2",
        "train.threads=2",
        "model.dropout=0.0",
        "sample.max_new_tokens=3",
    ]
    command = [sys.executable, "-c", RUN, "run", str(tiny), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tiny.parent, check=True)
    [record] = tiny.parent.glob("runs/tiny/*/provenance.json")
    assert json.loads(record.read_text(encoding="utf-8"))["machine"]["chunks"] == 2
    assert done.stderr.splitlines()[-1] == "[]"
