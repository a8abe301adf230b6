"""What to write instead of an option that a verb does not have: most such options are keys of the experiment."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanogpt_kit.cli.foreign_words import FOREIGN_OPTIONS
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.foreign_names import Answer, foreign_option, plain

if TYPE_CHECKING:
    from nanogpt_kit.core.suggestions import KeySuggestions

MIN_LIKENESS = 0.85  # of an own option that is meant, even where another verb has the one that was written: --steps
WORDS = "nanogpt_kit.words"  # in a context's meta: all words of the command
OVERRIDABLE = {  # of a trained model, by verb
    "sample": ("sample", "sampler"),
    "eval": ("evaluate", "evaluator", "sample", "sampler", "train.precision"),
}


class OptionRemedy:
    """The remedy for `option`, which the command of `ctx` does not have; `group` has all verbs."""

    def __init__(self, option: str, ctx: click.Context, group: click.Group) -> None:
        self.command, self.group = ctx.command, group
        self.words: list[str] = ctx.meta[WORDS]
        self.program = ctx.find_root().command_path
        path = ctx.command_path.removeprefix(self.program).split()
        self.verb = path[0] if path else ""
        self.name, self.value = find_option(option, self.words)

    def text(self) -> str:
        if not self.verb:
            verb = next((word for word in self.words if word in self.group.commands), None)
            return f"; options follow the verb, as in {self.program} {verb or 'run quickstart'}"
        own = long_options(self.command)
        if self.name in own:
            return f"; write {own[self.name]}"
        words = self.foreign_words()
        if words:
            return f"; {words}"
        takes_keys = any(parameter.nargs == -1 for parameter in self.command.params)
        likely = difflib.get_close_matches(self.name, own, n=1, cutoff=MIN_LIKENESS)
        return (takes_keys and self.key_text()) or (not likely and self.other_verb()) or self.nearest(own, takes_keys)

    def foreign_words(self) -> str:
        takes_experiment = any(parameter.name == "experiment" for parameter in self.command.params)
        text = FOREIGN_OPTIONS.get((self.verb, self.name), "")
        text = text or (FOREIGN_OPTIONS.get(("", self.name), "") if takes_experiment else "")
        return text.format(verb=self.verb, value=shlex.quote(self.value) if self.value else "").rstrip()

    def key_text(self) -> str:
        """The option as a key of the experiment; empty where there is none that the verb takes."""
        answers = next(filter(None, map(self.allowed, self.answers())), [])
        if not answers and self.name.startswith("no_") and not self.value:  # --no-bias
            self.name, self.value = self.name.removeprefix("no_"), "false"
            return self.key_text()
        if not answers:
            return ""
        key, remark = answers[0]
        if not key:
            return f"; {remark}"
        if remark and "=" not in key:  # it says how the value is computed from the one that was given
            return f"; write {key}=VALUE ({remark})"
        keys = [key if "=" in key else f"{key}={own_value(key, self.value)}" for key, _ in answers]
        return f"; write {' or '.join(map(shlex.quote, keys))}"

    def answers(self) -> Iterator[list[Answer]]:
        """What the option may be, the likeliest first."""
        section, dot, last = self.name.rpartition(".")
        if dot and self.name in self.suggestions.keys:
            yield [(self.name, "")]
        answer = foreign_option(last, section)
        yield [answer] if answer else []
        for known in (self.suggestions.chosen, self.suggestions.available):
            yield known.get(last, [])

    def allowed(self, answers: list[Answer]) -> list[Answer]:
        """Those whose key the verb takes."""
        if self.verb in OVERRIDABLE:
            return answers_within(OVERRIDABLE[self.verb], answers)
        others = tuple(f"{section}." for section in ("sweep", "ablate") if section != self.verb)
        return [answer for answer in answers if not answer[0].startswith(others)]

    @cached_property
    def suggestions(self) -> KeySuggestions:
        """For the experiment that the command names, or else for any."""
        words = (word for word in self.words[1:] if "=" not in word and not word.startswith("-"))
        return suggestions_for(next(filter(None, map(experiment_values, words)), {}))

    def other_verb(self) -> str:
        verbs = [verb for verb, command in self.group.commands.items() if self.name in long_options(command)]
        return f"; it is an option of {all_of(verbs)}" if verbs else ""

    def nearest(self, own: dict[str, str], takes_keys: bool) -> str:
        named = own | {"help": "--help"}
        close = difflib.get_close_matches(self.name, named, n=1)
        if close:
            return f"; did you mean {named[close[0]]}?"
        known = f". Options: {', '.join(sorted(own.values()))}."
        if not takes_keys:
            return known
        if self.verb in OVERRIDABLE and any(self.answers()):
            return f"; the model is already trained, so only {all_of(OVERRIDABLE[self.verb])} can be set{known}"
        key = self.suggestions.nearest_name(self.name)
        if key:
            self.name = key
            return self.key_text() or known
        return f"; the options of an experiment are written as in optimizer.lr=3e-4{known}"


def all_of(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def own_value(key: str, value: str) -> str:
    """A value as the option `key` takes it: of `--compile` "default", of `--bias False` "false"; else as it is."""
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.core.lookup import FoundOption, find_key
    from nanogpt_kit.core.option_schema import option_schemas
    from nanogpt_kit.core.value_remedies import boolean_word, nearest_value

    found = next(find_key(tuple(key.split(".")), Experiment), None)
    schema = option_schemas(found.owner)[found.option.name] if isinstance(found, FoundOption) else {}
    word = value or "true"
    if schema.get("type") == "boolean":
        return boolean_word(word) or value
    return (nearest_value(word, schema["enum"]) if "enum" in schema else "") or value or "VALUE"


def experiment_values(word: str) -> dict[str, Any] | None:
    """The values of an experiment as written; None where the word does not name one, or its file has faults."""
    from nanogpt_kit.core.layers import Layers

    try:
        return Layers.load(Path(word)).values
    except KitError:
        return None


def suggestions_for(values: dict[str, Any]) -> KeySuggestions:
    """For an experiment with these values; of others the defaults are known, and what is installed."""
    from nanogpt_kit.core.experiment import Experiment
    from nanogpt_kit.core.registry import Registry
    from nanogpt_kit.core.suggestions import KeySuggestions

    return KeySuggestions(Experiment, values, Registry.installed())


def answers_within(sections: Sequence[str], answers: Sequence[Answer]) -> list[Answer]:
    """The answers whose key is in one of the sections, and those without a key."""
    inside = tuple(f"{section}." for section in sections)
    return [answer for answer in answers if not answer[0] or f"{answer[0]}.".startswith(inside)]


def trained_model_remedy(key: str, sections: Sequence[str]) -> str:
    """What to write instead of a key that cannot be set for a trained model; empty where nothing is near."""
    name = plain(key.rpartition(".")[2])
    answer, suggestions = foreign_option(name), suggestions_for({})
    known = (suggestions.chosen, suggestions.available)
    answers = [*([answer] if answer else []), *(found for names in known for found in names.get(name, []))]
    keys = [found for found, _ in answers_within(sections, answers) if found]
    return f"did you mean {keys[0]}?" if keys else ""


def find_option(option: str, words: list[str]) -> tuple[str, str]:
    """(name, value) of an option that click did not recognize: of -lr=1 it reports -l."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        written, equals, value = word.partition("=")
        is_short = len(option) == 2 and option[1] in written and written[:1] == "-" != written[1:2]
        if written == option or is_short:
            is_value = not following.startswith("--") and "=" not in following
            return plain(written), value if equals or not is_value else following
    return plain(option), ""


def long_options(command: click.Command) -> dict[str, str]:
    """The long options of a command, or of all commands of a group: {"num_samples": "--num-samples"}."""
    commands = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    options = [option for one in commands for parameter in one.params for option in parameter.opts]
    return {plain(option): option for option in options if option.startswith("--")}
