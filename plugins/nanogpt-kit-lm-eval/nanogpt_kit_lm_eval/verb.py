"""`nanogpt-kit lm-eval RUN --tasks arc_easy,lambada_openai`: the harness's own table of a run."""

from __future__ import annotations

import click

from nanogpt_kit.api import KitError


@click.command()
@click.argument("run")
@click.option("--tasks", required=True, metavar="NAME,...", help="Tasks, groups and tags of lm-evaluation-harness.")
@click.option("--include-path", default="", metavar="FOLDER", help="Folder with YAML files of other tasks.")
@click.option("--num-fewshot", type=click.IntRange(min=0), help="Examples before each question.")
@click.option("--limit", type=click.IntRange(min=1), help="Documents of each task, from its first.")
@click.option("--max-gen-toks", type=click.IntRange(min=1), help="Longest generated text, in tokens.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Texts in a batch.")
@click.option("--device", help="Device of the model, such as cpu or cuda:1; default: a GPU where there is one.")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True, help="Precision."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object with the metrics.")
def lm_eval(
    run: str,
    tasks: str,
    include_path: str,
    num_fewshot: int | None,
    limit: int | None,
    max_gen_toks: int | None,
    batch_size: int,
    device: str | None,
    precision: str,
    as_json: bool,
) -> None:
    """Evaluate RUN on tasks of lm-evaluation-harness, and print its table with standard errors."""
    import json

    from lm_eval.utils import make_table

    from nanogpt_kit_lm_eval.run_model import RunModel
    from nanogpt_kit_lm_eval.task_set import TaskSet, metrics_of

    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    if not names:
        raise KitError("--tasks names no task; write names with commas between, as `lm_eval ls tasks` lists them")
    model = RunModel(run, device, batch_size, precision)
    found = TaskSet(names, include_path, num_fewshot, limit, max_gen_toks).evaluate(model)
    if as_json:
        click.echo(json.dumps(metrics_of(found), indent=2))
        return
    click.echo(make_table(found))
    if found.get("groups"):
        click.echo(make_table(found, "groups"))
