"""The help of `nanogpt-kit` alone: a sentence for each verb, in sections, and an example of each."""

from __future__ import annotations

from dataclasses import dataclass

import click


@dataclass(frozen=True)
class VerbHelp:
    """What the help of the command, and the end of the verb's own help, say of a verb."""

    sentence: str
    example: str


SECTIONS = {  # a verb that is not installed is left out
    "Start here": {
        "new": VerbHelp("Write an experiment file to start from.", "new my.toml --from quickstart"),
        "experiments": VerbHelp("List the experiments that are ready to run.", "experiments list"),
        "check": VerbHelp("Validate an experiment without running it.", "check my.toml --explain"),
        "run": VerbHelp("Train a model, evaluate it, generate samples.", "run quickstart train.steps=300"),
        "sample": VerbHelp("Generate text with a trained model.", "sample quickstart --prompt 'def '"),
    },
    "Compare": {
        "compare": VerbHelp("Compare changes over the same seeds.", "compare old.toml new.toml --seeds 3"),
        "sweep": VerbHelp("Try many values of an experiment's options.", "sweep sweep_lr --preview"),
        "ablate": VerbHelp("Find which changes of an experiment help.", "ablate ablate_parts --preview"),
        "report": VerbHelp("Write runs, a comparison or a sweep as HTML.", "report quickstart"),
        "mup-check": VerbHelp("Check that a learning rate fits all widths.", "mup-check my.toml --widths 64,128,256"),
        "eval": VerbHelp("Evaluate trained models.", "eval quickstart my-text"),
        "runs": VerbHelp("List and look up what was run.", "runs list --sort val/loss"),
    },
    "Data and models": {
        "prepare": VerbHelp("Turn the text of an experiment into tokens.", "prepare my.toml --stats"),
        "import": VerbHelp("Make a run from GPT-2 or nanoGPT weights.", "import gpt2"),
        "export": VerbHelp("Write a model for other programs.", "export quickstart exported/"),
    },
    "Look up": {
        "explain": VerbHelp("Describe a section, option or component.", "explain optimizer.betas"),
        "plugins": VerbHelp("List, describe, write and test components.", "plugins show gpt"),
        "schema": VerbHelp("Write a JSON Schema of experiment files.", "schema --output schema.json"),
        "doctor": VerbHelp("Show what this machine can and cannot do.", "doctor"),
    },
    "Speed": {"bench": VerbHelp("Time the training or the generation of text.", "bench quickstart")},
    "Shell": {"completion": VerbHelp("Print the completion script of a shell.", "completion bash")},
}
OTHERS = "Others"  # verbs without a section
FIRST_COMMANDS = ("run quickstart", "sample quickstart")


class SubcommandHelp(click.Group):
    """Lists its commands with whole sentences, which click cuts off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, whole_sentence(self.commands[name])) for name in self.list_commands(ctx)])


class TopHelp(click.Group):
    """Lists the verbs in sections, and ends the help of each with an example."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        super().add_command(cmd, name)
        described = verb_help(name or cmd.name or "")
        if described:
            cmd.short_help = cmd.short_help or described.sentence
            cmd.epilog = cmd.epilog or f"Example: nanogpt-kit {described.example}"

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = [name for name in sorted(self.commands) if not self.commands[name].hidden]
        width = max(map(len, names), default=0)
        sections = {title: [name for name in verbs if name in names] for title, verbs in SECTIONS.items()}
        sections[OTHERS] = [name for name in names if verb_help(name) is None]
        for title, verbs in sections.items():
            if verbs:
                with formatter.section(title):
                    formatter.write_dl([(name.ljust(width), whole_sentence(self.commands[name])) for name in verbs])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            for command in FIRST_COMMANDS:
                formatter.write_text(f"nanogpt-kit {command}")


def verb_help(name: str) -> VerbHelp | None:
    return next((verbs[name] for verbs in SECTIONS.values() if name in verbs), None)


def whole_sentence(command: click.Command) -> str:
    return command.get_short_help_str(limit=1000)
