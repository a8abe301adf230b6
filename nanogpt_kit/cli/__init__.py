"""`nanogpt-kit`: one small file per verb. Heavy packages are imported only by verbs that need them."""

from __future__ import annotations

import click

from nanogpt_kit import __version__
from nanogpt_kit.cli.ablate import ablate
from nanogpt_kit.cli.bench import bench
from nanogpt_kit.cli.check import check
from nanogpt_kit.cli.compare import compare
from nanogpt_kit.cli.completion import completion
from nanogpt_kit.cli.corrections import VerbGroup
from nanogpt_kit.cli.doctor import doctor
from nanogpt_kit.cli.evaluate import evaluate
from nanogpt_kit.cli.experiment import ask_to_execute
from nanogpt_kit.cli.experiments import experiments
from nanogpt_kit.cli.explain import explain
from nanogpt_kit.cli.export import export
from nanogpt_kit.cli.import_model import import_model
from nanogpt_kit.cli.mup_check import mup_check
from nanogpt_kit.cli.new import new
from nanogpt_kit.cli.plugin_verbs import PluginVerbs
from nanogpt_kit.cli.plugins import plugins
from nanogpt_kit.cli.prepare import prepare
from nanogpt_kit.cli.report import report
from nanogpt_kit.cli.run import run
from nanogpt_kit.cli.runs import runs
from nanogpt_kit.cli.sample import sample
from nanogpt_kit.cli.schema import schema
from nanogpt_kit.cli.sweep import sweep
from nanogpt_kit.cli.top_help import TopHelp
from nanogpt_kit.core import trust


class Main(VerbGroup, TopHelp, PluginVerbs):
    """The verbs: their help in sections, and remedies for mistakes in their words."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_commands(ctx, formatter)
        self.format_plugin_verbs(ctx, formatter)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="nanogpt-kit")
def main() -> None:
    """Experiments with GPT-sized language models: an idea is one file, an experiment is one TOML file."""
    click.get_current_context().with_resource(trust.consent_question(ask_to_execute))


for verb in (
    *(
        new,
        experiments,
        check,
        run,
        sample,
        evaluate,
        compare,
        ablate,
        sweep,
        report,
        mup_check,
        runs,
        prepare,
        import_model,
        export,
    ),
    *(explain, schema, plugins, bench, doctor, completion),
):
    main.add_command(verb)
