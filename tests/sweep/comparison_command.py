"""A comparison as a command, which tests kill: `python comparison_command.py FILE OPTIONS`, with options as JSON."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import rich

from nanogpt_kit.comparison.question import Arm, Question
from nanogpt_kit.core.errors import INTERRUPTED, KitError, RunFailed, notes_of
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep.comparison import run_comparison


def question_of(path: str, changes: list[str], metric: str = "val/loss") -> Question:
    """A base, and an arm for each change; a change may be empty."""
    base = Experiment.load(path, trust_code=True)
    arms = [Arm(change or "the same", base.with_(*change.split()) if change else base) for change in changes]
    return Question("compare", (Arm("base", base), *arms), metric)


def main(path: str, options: dict[str, Any]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rich.reconfigure(stderr=True)
    question = question_of(path, options.pop("changes"), options.pop("metric", "val/loss"))
    try:
        comparison = run_comparison(question, options.pop("seeds"), command="python comparison_command.py", **options)
    except KeyboardInterrupt as error:
        print("interrupted", *notes_of(error), file=sys.stderr)
        return INTERRUPTED
    except (KitError, RunFailed) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, KitError) else 1
    print(comparison.model_dump_json())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], json.loads(sys.argv[2])))
