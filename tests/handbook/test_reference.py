"""The reference is complete: every kind, option, verb, hook, exit code, metric and name of the package is in it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click
import pytest

import nanogpt_kit
from nanogpt_kit import Experiment
from nanogpt_kit.cli import main as command_line
from nanogpt_kit.core import errors, kinds
from nanogpt_kit.core.describe import describe_options
from nanogpt_kit.core.hooks import RunHooks
from nanogpt_kit.core.options import Component, Options
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.runs.metrics import read_metrics

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
EXPERIMENT = """
name = "all-metrics"
dataset = { use = "text", source = "text.txt", val_fraction = 0.2 }
tokenizer = "byte"
model = { use = "gpt", n_layer = 2, n_head = 2, n_embd = 16, block_size = 16 }
optimizer = { use = "adamw", lr = 1e-3 }
evaluate = { every_steps = 2 }
sample = { num_samples = 0 }
train = { steps = 2, batch_tokens = 64, log_every_steps = 1, watch = ["updates", "activations", "attention"] }
"""


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def commands(group: click.Group = command_line, before: str = "") -> dict[str, click.Command]:
    """Every command that runs something, by its name: groups only where they do so themselves."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{before}{name} ")
        if not command.hidden and (not isinstance(command, click.Group) or command.invoke_without_command):
            found[f"{before}{name}"] = command
    return found


def test_every_verb_has_its_help_on_one_page() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (REFERENCE / "commands").glob("*.md")]
    for verb in commands():
        name = verb.replace("sweep run", "sweep")  # which is what `sweep EXPERIMENT` calls
        assert sum(f"<!-- help: {name} -->" in text for text in pages) == 1, name


def test_every_exit_code_is_listed() -> None:
    codes = re.findall(r"= (\d+(?:, \d+)+)$", inspect.getsource(errors), re.MULTILINE)[0].split(", ")
    assert all(f"| {code} |" in page("commands/index.md") for code in codes)


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
def test_every_built_in_of_a_kind_has_its_options(kind: str) -> None:
    text = page(f"options/{kind}.md")
    assert f"({kind}.md)" in page("options/index.md")
    assert f"({kind}.md)" in page("kinds/index.md")
    for entry in Registry.installed().of_kind(kind):
        if entry.distribution == KIT_DISTRIBUTION:
            section = re.split(r"^### ", text, flags=re.MULTILINE)
            (own,) = [part for part in section if part.startswith(f"{entry.name}\n")]
            component = Registry.installed().load(kinds.KINDS[kind], entry.name)
            assert all(f"| `{option.name}` |" in own for option in describe_options(component)), entry.name


def test_every_section_has_its_options() -> None:
    text = page("options/sections.md")
    for name, field in Experiment.model_fields.items():
        annotations = [field.annotation, *getattr(field.annotation, "__args__", ())]
        models = [part for part in annotations if inspect.isclass(part) and issubclass(part, Options)]
        assert f"| `{name}` |" in text.partition("\n## [train]")[0], name
        for model in models:
            if not issubclass(model, Component):
                own = text.partition(f"\n## [{name}]\n")[2].partition("\n## ")[0]
                assert all(f"| `{option.name}` |" in own for option in describe_options(model)), name


def test_every_hook_is_listed() -> None:
    assert all(f"| `{name}(" in page("hooks.md") for name in vars(RunHooks) if not name.startswith("_"))


def test_every_name_of_the_package_has_its_signature() -> None:
    for name in set(nanogpt_kit.__all__) - {"__version__"}:
        assert f"### {name}\n\n```\n" in page("python.md"), name


def test_every_metric_of_a_run_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question\n" * 40, encoding="utf-8")
    (tmp_path / "all_metrics.toml").write_text(EXPERIMENT, encoding="utf-8")
    schedules = "schedule=[{use='constant'},{use='linear',target='optimizer.weight_decay'}]"
    changes = [schedules, "model.loss={use='cross_entropy',z_loss=1e-4}"]
    run = Experiment.load("all_metrics.toml", changes).run()
    found = {key for record in read_metrics(run.path / "metrics.jsonl") for key in record}
    assert {"schedule/optimizer.weight_decay", "attention/max_logit_1", "updates/matrix", "val/loss"} <= found, found
    listed = re.findall(r"^\| ((?:`[^`|]+`(?:, )?)+) \|", page("metrics.md"), re.MULTILINE)
    names = [name for cell in listed for name in re.findall(r"`([^`]+)`", cell)]
    patterns = [re.sub(r"<\w+>", ".+", re.escape(name).replace(r"\<", "<").replace(r"\>", ">")) for name in names]
    patterns.remove(".+/.+")  # of modules, which would match everything
    assert not {key for key in found if not any(re.fullmatch(pattern, key) for pattern in patterns)}


def test_every_word_of_the_kit_is_in_the_glossary() -> None:
    contributing = (REFERENCE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Glossary\n")[2]
    words = [line.split(" | ")[0].strip("| ") for line in contributing.splitlines() if line.startswith("| ")][1:]
    glossary = (REFERENCE.parent / "maps" / "glossary.md").read_text(encoding="utf-8")
    assert len(words) > 60
    assert not [word for word in words if f"| **{word}** |" not in glossary]


def test_every_concept_has_its_place_in_the_index() -> None:
    index = (REFERENCE.parent / "maps" / "concept-index.md").read_text(encoding="utf-8")
    pages = {path.name for path in (REFERENCE.parent / "concepts").glob("*.md")} - {"index.md"}
    assert {name for name in pages if f"(../concepts/{name})" in index} == pages
