"""nanogpt-kit: experiments with GPT-sized language models.

Read the code in this order: README.md, experiments/quickstart.toml, train/trainer.py, components/model/gpt.py,
components/norm/rmsnorm.py, api.py. After that you can write a component.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanogpt_kit.core.errors import KitError
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.generate.load import load_run
    from nanogpt_kit.sweep.questions import ablate, compare
    from nanogpt_kit.train.run import Run, open_run, run

__version__ = "0.2.0"
__all__ = ["Experiment", "KitError", "Run", "__version__", "ablate", "compare", "load_run", "open_run", "run"]

LAZY = {  # public name -> its module, imported on first use; the first two import no torch
    "Experiment": "nanogpt_kit.core.experiment",
    "KitError": "nanogpt_kit.core.errors",
    "Run": "nanogpt_kit.train.run",
    "ablate": "nanogpt_kit.sweep.questions",
    "compare": "nanogpt_kit.sweep.questions",
    "load_run": "nanogpt_kit.generate.load",
    "open_run": "nanogpt_kit.train.run",
    "run": "nanogpt_kit.train.run",
}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(LAZY[name]), name)
