"""The suite of a kind: what every component of it passes."""

from __future__ import annotations

import importlib

from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.testing.component import ComponentConformance


def suite_of(kind: str) -> type[ComponentConformance]:
    """Its class, which is in the module of the kind's name."""
    suite = getattr(importlib.import_module(f"nanogpt_kit.testing.{kind}"), f"{KINDS[kind].__name__}Conformance")
    assert issubclass(suite, ComponentConformance)
    return suite
