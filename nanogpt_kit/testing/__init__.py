"""Conformance suites: what every component of a kind must hold, to be inherited by the tests of those who write one.

    from nanogpt_kit.testing.norm import NormConformance

    class TestMyNorm(NormConformance):
        component = MyNorm(eps=1e-6)

pytest finds the inherited tests; a class for each setting of the options that changes what is computed is a good
measure. There is a suite for `dataset`, `tokenizer`, `order`, `attention`, `position`, `norm`, `mlp`, `model`,
`optimizer` and `sampler`, each in the module of that name; its class attributes say what else may be told. They need
pytest, that for tokenizers hypothesis, too. Compiling through inductor is marked `slow`.

Source: the idea is that of Optuna's `optuna.testing`.
"""

from __future__ import annotations

import pkgutil

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
