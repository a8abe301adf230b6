"""A process that encodes: `python -m nanogpt_kit.data.worker`, started by `nanogpt_kit.data.encode`.

It takes a recipe for its encoder and then jobs on its standard input, and answers on its standard output. It ends when
its input does, so that none is left behind however the preparation ends.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from nanogpt_kit.core import signals
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.kinds import Encoder, Tokenizer
from nanogpt_kit.core.options import Component
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.data.encode import encode, receive, send


def make(recipe: dict[str, Any]) -> Encoder:
    registry = Registry.installed().with_sources(Component, recipe["files"])
    options = dict(recipe["tokenizer"])
    component = registry.load(Tokenizer, options.pop("use")).model_validate(options, context={"registry": registry})
    return component.restore(recipe["state"])


def main() -> None:
    signals.ignore_group_signals()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a tokenizer prints must not end up between the answers
    with suppress(EOFError, BrokenPipeError):
        recipe = receive(sys.stdin.buffer)
        try:
            encoder = make(recipe)
        except Exception as error:  # of a plugin's code, perhaps
            send(answers, (type(error).__name__, f"it cannot be restored: {error}"))
            return
        send(answers, "ready")
        while True:
            job = receive(sys.stdin.buffer)
            try:
                answer: Any = encode(job, encoder)
            except Exception as error:  # a tokenizer's own: told where it can be shown
                answer = "KitError" if isinstance(error, KitError) else type(error).__name__, str(error)
            send(answers, answer)


if __name__ == "__main__":
    main()
