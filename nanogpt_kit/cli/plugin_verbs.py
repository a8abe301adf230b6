"""Verbs of plugins: listed by their metadata, imported when they are called.

A name means the built-in verb if there is one, else that of the one distribution that offers it. Those of others are
called as distribution/verb.
"""

from __future__ import annotations

from typing import Any

import click

from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.errors import KitError, printable
from nanogpt_kit.core.registry import Registry


class PluginVerb(click.Command):
    """Takes the place of the commands that a name may mean until one is called."""

    def __init__(self, name: str, entries: list[Entry]) -> None:
        origin = " or ".join(f"{entry.distribution} {entry.version}" for entry in entries)
        super().__init__(name, short_help=printable(f"from {origin}"), add_help_option=False)
        self.entries = entries

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the command itself, which is imported."""
        return self.load().make_context(info_name, args, parent, **extra)

    def load(self) -> click.Command:
        """Raises KitError with the distribution and the cause, or with the names to choose from."""
        if len(self.entries) > 1:
            choices = " or ".join(f"nanogpt-kit {entry.qualified}" for entry in self.entries)
            raise KitError(f"several distributions offer the verb {self.name!r}; write {choices}")
        (entry,) = self.entries
        loaded = entry.import_target()
        if not isinstance(loaded, click.Command):
            got = f"expected a click command, got {type(loaded).__name__}"
            raise KitError(f"{entry.origin} is not a verb: {got}{entry.remedy}")
        return loaded


class PluginVerbs(click.Group):
    """Adds the verbs of installed plugins to its own."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        entries = [entry for entry in Registry.installed().verbs if cmd_name in (entry.name, entry.qualified)]
        return PluginVerb(cmd_name, entries) if entries else None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self.plugin_names()]

    def plugin_names(self) -> list[str]:
        """The shortest name by which each verb of a plugin can be called."""
        verbs = Registry.installed().verbs
        taken = [*self.commands, *(entry.name for entry in verbs)]
        is_plain = {name: taken.count(name) == 1 and not name.startswith("-") for name in taken}  # "-x" is an option
        return [entry.name if is_plain[entry.name] else entry.qualified for entry in verbs]

    def format_plugin_verbs(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section of the help; nothing where no plugin has a verb."""
        found = [(name, self.get_command(ctx, name)) for name in self.plugin_names()]
        rows = [(printable(name), verb.get_short_help_str(limit=1000)) for name, verb in found if verb]
        if rows:
            with formatter.section("Plugins"):
                formatter.write_dl(rows)
