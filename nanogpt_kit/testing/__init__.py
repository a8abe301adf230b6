"""Conformance suites: tests that every component of a kind must pass; its author's tests inherit them.

    from nanogpt_kit.testing.norm import NormConformance

    class TestMyNorm(NormConformance):
        component = MyNorm(eps=1e-6)

pytest finds the inherited tests. Write a class for each setting of the options that changes what is computed. The suite
of a kind is in the module of its name; its class attributes are settings of the suite. The first line of a failure
names the place and a remedy. The suites need pytest, that of tokenizers also hypothesis. Compiling through inductor is
marked `slow`.

Source: the idea is that of Optuna's `optuna.testing`.
"""

from __future__ import annotations

import pkgutil

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
