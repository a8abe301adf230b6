"""Comparison of runs: pairs, intervals, verdicts and the ledger. It reads runs and starts none.

The public function `nanogpt_kit.compare` has the name of this package, so the package can be called: it calls
`nanogpt_kit.sweep.questions.compare`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that is a function, too."""

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(importlib.import_module("nanogpt_kit.sweep.questions").compare)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("nanogpt_kit.sweep.questions").compare(*arguments, **options)


sys.modules[__name__].__class__ = CallablePackage
