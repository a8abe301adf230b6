"""`nanogpt-kit explain`, `nanogpt-kit schema`, and the options that `check --explain` prints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.core.lookup import all_options
from nanogpt_kit.core.schema import experiment_schema

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")


def explained(command: Command, *words: object) -> str:
    answer = command("explain", *words)
    assert answer.code == 0, answer.err
    return str(answer.out)


def test_an_option_is_explained_with_all_that_is_known_of_it(command: Command) -> None:
    assert explained(command, "optimizer.betas").splitlines() == [
        "optimizer.betas of optimizer adamw: decay rates of the running mean and mean square",
        "  type     list of 2 numbers (each at least 0 and below 1)",
        "  default  [0.9, 0.95]",
        "  resume   cannot change when a run is resumed",
        "  source   Loshchilov & Hutter 2017, arXiv:1711.05101.",
    ]
    assert explained(command, "train.max_seconds").splitlines()[-4:] == [
        "  type     number, above 0",
        "  unit     seconds",
        "  default  not set",
        "  resume   may change when a run is resumed",
    ]
    assert "  default  none; it is required" in explained(command, "batch_tokens").splitlines()


def test_an_option_of_a_format_is_explained_though_no_experiment_has_it(command: Command) -> None:
    assert explained(command, "format.meta").splitlines() == [
        "format.meta of format nanogpt: meta.pkl of a character-level model; omitted: the one beside ckpt.pt, or that",
        "  of the dataset",
        "  type     string, not empty",
        "  default  not set",
    ]


def test_a_section_is_explained_with_every_option(command: Command) -> None:
    lines = explained(command, "train").splitlines()
    assert lines[0] == "[train]: the length of the run, its batches, and how the machine computes them."
    assert "  steps   (whole number, 0 to 10^12, required, may change on resume)" in lines
    assert '  device = "auto"   ("auto", "cpu", "cuda" or "mps")' in lines


def test_a_component_is_explained_as_by_plugins_show(command: Command) -> None:
    assert explained(command, "norm:rmsnorm") == command("plugins", "show", "norm:rmsnorm").out


def test_a_kind_and_its_slot_are_explained_with_what_can_be_chosen(command: Command) -> None:
    for name in ("attention", "model.attention"):
        lines = explained(command, name).splitlines()
        start = lines.index("  components of kind attention:")
        assert [line.split()[0] for line in lines[start + 1 :] if line[:4] == "    " != line[4:8]][:3] == [
            *("flex", "naive", "sdpa"),
        ]
    assert "  set by   model.attention of model gpt" in explained(command, "attention").splitlines()


def test_a_leaf_name_is_explained_wherever_it_occurs(command: Command) -> None:
    lines = explained(command, "lr").splitlines()
    for optimizer in ("adamw", "muon", "sgd"):
        assert any(line.startswith(f"optimizer.lr of optimizer {optimizer}: ") for line in lines)


def test_an_option_of_a_component_in_a_list_has_the_key_that_sets_it(command: Command, tiny: Path) -> None:
    for key in ("callback.ema.decay", "callback.decay", "decay"):
        assert explained(command, key).startswith("callback.ema.decay of callback ema: ")
    (record,) = json.loads(explained(command, "ema.decay", "--json"))
    assert command("check", tiny, f"{record['key']}=0.5").code == 0


def test_what_another_program_means_by_a_name_is_noted(command: Command) -> None:
    answer = command("explain", "batch_size")
    assert answer.out.startswith("evaluate.batch_size: ")
    assert answer.err.startswith("note: another program's batch_size is train.batch_tokens (batch_size x ")
    for own in ("dropout", "seed", "top_k", "train", "early_stopping"):
        assert command("explain", own).err == ""


def test_a_value_and_brackets_around_a_key_are_ignored(command: Command) -> None:
    assert explained(command, "train.steps=3") == explained(command, "train.steps")
    assert explained(command, "[train]") == explained(command, "train")


def test_no_explanation_has_words_of_the_implementation(command: Command) -> None:
    internal = re.compile(
        r"Annotated|NoneType|FieldInfo|[Pp]ydantic|Literal|typing|<class|\bNone\b|\btuple\b|anyOf|\$ref"
    )
    for name in {option.written_key for option in all_options()} | KINDS.keys():
        text = explained(command, name)
        assert not internal.search(text), name


def test_without_a_key_sections_and_kinds_are_listed(command: Command) -> None:
    words = explained(command).split()
    assert {"train", "evaluate", "checkpoint", "sample", "sweep", *KINDS} <= set(words)
    record = json.loads(explained(command, "--json"))
    assert {"kind": "norm", "name": "rmsnorm"}.items() <= record["kinds"]["norm"][-1].items()
    assert [option["name"] for option in record["options"]] == list(Experiment.model_fields)


def test_programs_read_what_was_found(command: Command) -> None:
    (option,) = json.loads(explained(command, "optimizer.betas", "--json"))
    assert option["what"] == "option"
    assert (option["key"], option["default"], option["may_change_on_resume"]) == ("optimizer.betas", [0.9, 0.95], False)
    assert option["component"]["name"] == "adamw"
    (section,) = json.loads(explained(command, "checkpoint", "--json"))
    assert (section["what"], [one["name"] for one in section["options"]][:2]) == (
        "section",
        ["every_steps", "keep_last"],
    )
    (kind,) = json.loads(explained(command, "mlp", "--json"))
    assert (kind["what"], kind["slots"]) == ("kind", ["model.mlp"])
    assert {component["name"] for component in kind["components"]} >= {"gelu", "relu2", "swiglu"}


def test_an_unknown_key_is_refused_with_the_nearest(command: Command) -> None:
    answer = command("explain", "train.setps")
    assert answer.code == 2
    assert answer.err.startswith("error: no section, option, kind or component is named 'train.setps'; did you mean ")
    assert "'train.steps'" in answer.err


def test_sections_and_kinds_are_listed_without_torch() -> None:
    code = """
import sys
from nanogpt_kit.cli import main
for words in ([], ["train"], ["train.steps"], ["sweep", "--json"]):
    main(["explain", *words], standalone_mode=False)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_lines_fit_a_narrow_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for name in ("train", "optimizer.betas", "gpt", "attention"):
        assert [line for line in explained(command, name).splitlines() if len(line) > 60] == []


def test_the_schema_is_printed_or_written(command: Command, tmp_path: Path) -> None:
    expected = experiment_schema()
    assert json.loads(command("schema").out) == expected
    answer = command("schema", "--output", tmp_path / "s.json")
    assert (answer.code, answer.out, answer.err) == (0, "", f"wrote {tmp_path / 's.json'}\n")
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == expected
    refused = command("schema", "--output", tmp_path / "no" / "s.json")
    assert (refused.code, refused.err) == (
        *(2, f"error: {tmp_path / 'no' / 's.json'} cannot be written: No such file or directory\n"),
    )


# check --explain


def explanation(command: Command, *words: object) -> dict[str, str]:
    """The comment of each line that sets an option."""
    answer = command("check", *words, "--explain")
    assert answer.code == 0, answer.err
    lines = [line for line in answer.out.partition("\n\n")[0].splitlines() if not line.startswith("#")]
    return {key.strip(): comment for key, _, comment in (line.partition("  # ") for line in lines)}


def test_options_that_are_not_set_are_printed_as_comments(tiny: Path, command: Command) -> None:
    lines = command("check", tiny, "--explain").out.splitlines()
    assert any(
        line.startswith("# model.n_kv_head is not set (whole number, at least 1): key and value heads")
        for line in lines
    )
    assert any(line.startswith("# train.max_seconds is not set (number, above 0): ") for line in lines)
    assert sum(line.startswith("# sweep") for line in lines) == 1


def test_a_value_is_printed_with_the_default_that_it_differs_from(tiny: Path, command: Command) -> None:
    lines = explanation(command, tiny, "optimizer.betas=[0.9, 0.99]", "model.norm=rmsnorm", "train.threads=1")
    assert lines["optimizer.betas.0 = 0.9"] == "command line"
    assert lines["optimizer.betas.1 = 0.99"] == "command line; default: 0.95"
    assert lines['model.norm.use = "rmsnorm"'] == 'command line; default: "layernorm"'
    assert lines["model.norm.eps = 1e-05"] == "default"
    assert lines["train.threads = 1"] == "command line; default: not set"
    assert lines['optimizer.use = "adamw"'] == f"{tiny}:20"  # it has no default


def test_a_list_of_another_length_is_printed_with_the_whole_default(tiny: Path, command: Command) -> None:
    lines = explanation(command, tiny, "callback=[]", 'evaluator=["loss"]', 'train.watch=["updates", "attention"]')
    assert lines["callback = []"] == 'command line; default: ["console", "tensorboard", "divergence"]'
    assert lines['evaluator.0.use = "loss"'] == 'command line; default: ["loss", "bits_per_byte"]'
    assert lines['train.watch.0 = "updates"'] == "command line; default: []"
    assert lines['train.watch.1 = "attention"'] == "command line"


def test_the_file_of_a_run_shows_what_the_run_changed(tiny: Path, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text(Experiment.load(tiny, ["optimizer.lr=2e-3"]).to_toml(), encoding="utf-8")
    lines = explanation(command, path)
    differing = [key for key, comment in lines.items() if "; default: " in comment]
    assert "optimizer.lr = 0.002" in differing
    assert "optimizer.eps = 1e-08" not in differing
    assert lines["optimizer.eps = 1e-08"].startswith(f"{path}:")


def test_programs_read_value_origin_and_default(tiny: Path, command: Command) -> None:
    whole = json.loads(command("check", tiny, "--explain", "--json").out)
    assert json.loads(command("check", tiny, "--json").out) == whole
    options = whole["options"]
    assert options["model.n_kv_head"] == {"value": None, "from": "default", "default": None}
    assert options["train.log_every_steps"]["default"] == 10
    assert "default" not in options["train.batch_tokens"]
