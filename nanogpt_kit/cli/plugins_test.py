"""`nanogpt-kit plugins test TARGET`: the conformance suites of everything that a plugin declares."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from nanogpt_kit.cli.candidates import any_path_candidates
from nanogpt_kit.cli.experiment import TRUST
from nanogpt_kit.cli.json_output import json_option, print_json
from nanogpt_kit.cli.plugins_doctor import distribution_candidates
from nanogpt_kit.core.errors import DONE, FAILED, MISTAKE, KitError, printable
from nanogpt_kit.core.overrides import parse_override

if TYPE_CHECKING:
    from nanogpt_kit.testing.isolated.outcome import Outcome
    from nanogpt_kit.testing.isolated.target import Target

SECONDS = 300.0  # limit of a process
NEEDED = ("pytest", "hypothesis")


def target_candidates(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Distributions of plugins, wheels, source folders and component files."""
    return [*distribution_candidates(ctx, param, incomplete), *any_path_candidates(ctx, param, incomplete)]


@click.command("test")
@click.argument(
    "words", nargs=-1, required=True, metavar="TARGET... [KIND/NAME.OPTION=VALUE]...", shell_complete=target_candidates
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Time limit of the target's own tests, and of each component.",
)
@json_option("Print a JSON list with an object for each target.")
@TRUST
def plugins_test(words: tuple[str, ...], timeout: float, as_json: bool, trust_code: bool) -> int:
    """Test what TARGET declares: an installed distribution, a wheel, a source folder, or a component file.

    Each component passes the suite of its kind, and trains a tiny model for five steps. The tests that TARGET brings
    take the place of the suite where they have one of the component: the folder `tests` of a source folder,
    test_NAME.py beside a component file, the module `conformance` of an installed package or a wheel.

    Everything happens in an environment that is removed again: a wheel is installed there, over what is installed here.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise KitError(f'{missing[0]} is not installed: pip install "nanogpt-kit[test]"')
    from nanogpt_kit.testing.isolated.target import find_target

    options = [word for word in words if "=" in word and not Path(word).exists()]
    targets = [find_target(word, trust_code) for word in words if word not in options]
    if len(targets) != 1 and (options or not targets):
        raise KitError(f"command line: options are those of one target, got {len(targets)} targets")
    records, codes = [], []
    for target in targets:
        record, code = run_target(target, options, timeout, as_json)
        records.append(record)
        codes.append(code)
    if as_json:
        print_json(records)
    return FAILED if FAILED in codes else max(codes)


def run_target(target: Target, options: list[str], timeout: float, as_json: bool) -> tuple[dict[str, Any], int]:
    """Tests one target, printing each outcome unless `as_json`. Returns its record and the exit code."""
    from nanogpt_kit.testing.isolated.environment import isolated_environment
    from nanogpt_kit.testing.isolated.installation import install_target
    from nanogpt_kit.testing.isolated.runner import TargetRunner

    outcomes = []
    with isolated_environment() as environment:
        installed = install_target(target, environment)
        chosen = options_by_component(installed, options)
        if not as_json:
            click.echo(printable(title_text(installed)))
        for outcome in TargetRunner(installed, chosen, environment, timeout).outcomes():
            outcomes.append(outcome)
            if not as_json:
                click.echo(printable(outcome_text(outcome)))
    record = {"target": target.text, "distribution": installed.distribution, "version": installed.version}
    code = FAILED if any(outcome.failures for outcome in outcomes) else DONE
    if code == DONE and any(outcome.untested for outcome in outcomes):
        code = MISTAKE
    return {**record, "outcomes": [outcome.record() for outcome in outcomes]}, code


def options_by_component(target: Target, words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{"dataset/mine": {"source": "a.txt"}} of "dataset/mine.source=a.txt"; of "source=a.txt" where it has only one."""
    labels = [component.label for component in target.components]
    chosen: dict[str, dict[str, Any]] = {}
    for word in words:
        left, equals, right = word.partition("=")
        label, dot, option = left.partition(".") if "/" in left else ("".join(labels[:1]), ".", left)
        if not (equals and dot and ("/" in left or len(labels) == 1)):
            example = f"{labels[0] if labels else 'norm/mine'}.eps=1e-5"
            raise KitError(f"command line: expected KIND/NAME.OPTION=VALUE, as in {example}, got {word!r}")
        key, value = parse_override(f"{option}={right}")
        table = chosen.setdefault(label, {})
        for part in key[:-1]:
            table = table.setdefault(part, {})
        table[key[-1]] = value
    return chosen


def title_text(target: Target) -> str:
    """A file by its name: its version is a hash."""
    return target.text if target.file else f"{target.distribution} {target.version}"


def outcome_text(outcome: Outcome) -> str:
    """A line, and one for each failure."""
    counts = f"{outcome.passed} passed" + (f", {outcome.skipped} skipped" if outcome.skipped else "")
    if outcome.failures:
        counts = f"{len(outcome.failures)} failed, {counts}"
    lines = [f"  {outcome.label:24} {counts}"]
    by_message: dict[str, list[str]] = {}
    for failure in outcome.failures:
        by_message.setdefault(failure.message, []).append(failure.test)
    for message, tests in by_message.items():
        others = f" (and {len(tests) - 1} other test{'s' * (len(tests) > 2)})" if len(tests) > 1 else ""
        lines.append(f"    {f'{tests[0]}{others}: ' if tests[0] else ''}{message}")
    if outcome.untested:
        lines.append(f"    not tested: {outcome.untested}")
    return "\n".join(lines)
