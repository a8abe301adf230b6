"""`run --resume`: an option that takes a run or nothing."""

from __future__ import annotations

import os
from itertools import pairwise

import click


class RunCommand(click.Command):
    """`--resume` takes a run or nothing: in `--resume optimizer.lr=1` and `--resume mine.toml` it has no value.

    The next word is a run unless it has a "=" or is a file; it then keeps its place among the arguments. Without an
    experiment, `--resume RUN` is the same as `RUN --resume`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for index, (word, following) in enumerate(pairwise(args)):
            # os.path.exists, unlike Path.exists, accepts an override that is longer than a file's name can be
            is_run = os.path.exists(following) if "=" in following else not os.path.isfile(following)
            if word == "--resume" and not is_run:
                args[index] = "--resume="
        return super().parse_args(ctx, self.with_experiment(ctx, args))

    def with_experiment(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, with the run that --resume names as the first one where there is no experiment."""
        try:
            given = self.make_parser(ctx).parse_args(list(args))[0]
        except click.UsageError:  # reported by the parser that follows
            return args
        first, run = given.get("experiment"), given.get("resume")
        is_override = isinstance(first, str) and "=" in first and not os.path.exists(first)
        if not isinstance(run, str) or not run or (isinstance(first, str) and not is_override):
            return args
        index = args.index(f"--resume={run}") if f"--resume={run}" in args else args.index("--resume")
        length = 1 if args[index] != "--resume" else 2
        return [run, *args[:index], "--resume=", *args[index + length :]]
