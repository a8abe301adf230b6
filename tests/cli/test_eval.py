"""`nanogpt-kit eval`: what was measured in a run is measured again, and other things, too."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics

Command = Callable[..., Any]
OWN = ("val/loss", "val/bits_per_byte")


def found(answer: Any) -> dict[str, dict[str, float]]:
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def refusal(answer: Any) -> str:
    assert (answer.code, answer.out) == (2, "")
    assert "Traceback" not in answer.err
    return str(answer.err)


def in_metrics(run: RunFolder) -> dict[int, dict[str, float]]:
    return {line["step"]: {key: line[key] for key in OWN} for line in read_metrics(run.metrics) if "val/loss" in line}


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[RunFolder, Path], Path]:
    """A run whose experiment names another text."""

    def copy(run: RunFolder, text: Path) -> Path:
        folder = tmp_path / "copied"
        shutil.copytree(run.path, folder)
        toml = (folder / "experiment.toml").read_text(encoding="utf-8")
        toml = re.sub(r'^source = ".*"$', f'source = "{text}"', toml, count=1, flags=re.MULTILINE)
        (folder / "experiment.toml").write_text(toml, encoding="utf-8")
        return folder

    return copy


def test_a_runs_own_evaluators_find_what_its_metrics_say(run: RunFolder, command: Command) -> None:
    told = in_metrics(run)
    assert set(told) == {100, 200}
    assert found(command("eval", run, "--json")) == {str(run): pytest.approx(told[200], rel=1e-6)}
    assert found(command("eval", run, "--step", 100, "--json")) == {str(run): pytest.approx(told[100], rel=1e-6)}
    answer = command("eval", run)
    assert [line.split() for line in answer.out.splitlines()] == [[name, f"{told[200][name]:.4f}"] for name in OWN]
    by_one = found(command("eval", run, "--json", "evaluate.batch_size=1"))[str(run)]
    assert by_one == pytest.approx(told[200], rel=1e-6)


def test_other_evaluators_take_the_place_of_its_own(run: RunFolder, tmp_path: Path, command: Command) -> None:
    assert found(command("eval", run, "--evaluator", "loss", "--json"))[str(run)].keys() == {"val/loss"}
    text = tmp_path / "poem.txt"
    text.write_text("12 times 19 is 228, as everybody knows.\n" * 3, encoding="utf-8")
    table = f'{{use="perplexity", file="{text}"}}'
    words = ("eval", run, "--evaluator", table, "--json")
    wide = found(command(*words))[str(run)]
    assert "poem/perplexity" in wide
    assert found(command(*words, "--evaluator", "loss"))[str(run)].keys() == {*wide, "val/loss"}
    close = found(command(*words, "evaluator.0.stride=1", "evaluator.perplexity.name=verse"))[str(run)]
    assert close.keys() == {name.replace("poem", "verse") for name in wide}
    assert close["verse/perplexity"] != wide["poem/perplexity"]
    again = found(command("eval", run, "--json", f"evaluator=[{table}]"))[str(run)]
    assert again == wide
    beside = command("eval", run, "--json", f"evaluator.perplexity.file={text}")
    assert found(beside)[str(run)].keys() == {"val/loss", "val/bits_per_byte", *wide}
    assert "evaluator: perplexity (command line) appended; the list is now loss, bits_per_byte, " in beside.err


def test_several_runs_are_measured_one_after_the_other(
    run: RunFolder, char_run: RunFolder, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOGPT_KIT_RUNS", str(run.path.parents[1]))
    both = found(command("eval", "tiny", char_run, "--json"))
    assert both == {
        "tiny": pytest.approx(in_metrics(run)[200], rel=1e-6),
        str(char_run): pytest.approx(in_metrics(char_run)[3], rel=1e-6),
    }
    shown = command("eval", "tiny", char_run, "--evaluator", "loss").out
    assert re.fullmatch(rf"tiny:\nval/loss  \d\.\d{{4}}\n{char_run}:\nval/loss  \d\.\d{{4}}\n", shown)


def test_an_exported_model_is_measured_as_its_run_is(run: RunFolder, tmp_path: Path, command: Command) -> None:
    text = tmp_path / "poem.txt"
    text.write_text("12 times 19 is 228, as everybody knows.\n" * 3, encoding="utf-8")
    words = ("--evaluator", f'{{use="perplexity", file="{text}"}}', "--json", "train.precision=fp32")
    expected = found(command("eval", run, *words))[str(run)]
    for form, *more in (["huggingface", "tokenizer=byte"], ["nanogpt", "tokenizer=byte"], ["safetensors"]):
        assert command("export", run, tmp_path / form, "--format", form).code == 0
        answer = command("eval", tmp_path / form, *words, *more)
        assert found(answer)[str(tmp_path / form)] == pytest.approx(expected, rel=1e-5)
    told = refusal(command("eval", tmp_path / "nanogpt", run, *words, "tokenizer=byte"))
    assert "'tokenizer=byte'" in told


def test_texts_are_shown_and_keep_out_of_the_json(run: RunFolder, command: Command) -> None:
    prompts = ["7 times", "12 times " + "19" * 200]  # longer than a file's name may be
    table = f'{{use="samples", prompts={json.dumps(prompts)}, max_new_tokens=5}}'
    shown = command("eval", run, "--evaluator", table, "--evaluator", "loss")
    assert shown.code == 0, shown.err
    one, two = shown.out.split(f"\n{'-' * 80}\n")
    assert one.startswith(prompts[0])
    assert two.startswith(prompts[1])
    assert two.splitlines()[-1].startswith("val/loss  ")
    answer = command("eval", run, f"evaluator=[{table}]", "--json")
    assert (found(answer), answer.err) == ({str(run): {}}, shown.err + shown.out.rpartition("val/loss")[0])


def test_mistakes_are_told_before_anything_is_measured(run: RunFolder, char_run: RunFolder, command: Command) -> None:
    for words, told in (
        (["--evaluator", "los"], "evaluator.0: unknown evaluator 'los'; did you mean 'loss'?"),
        (["--evaluator", '{use="loss", spilt="val"}'], "evaluator.0.spilt: unknown key; did you mean 'split'?"),
        (["--evaluator", '{use="loss", split="test"}'], "the dataset has no split 'test'"),
        (["--evaluator", "perplexity"], "evaluator.0.file"),
        (["--evaluator", '{use="perplexity", file="none.txt"}'], "evaluator.0: no file 'none.txt'"),
        (["--evaluator", '{use="loss"'], "evaluator: not a TOML value: Unclosed inline table"),
        (["evaluator.0.spilt=val"], "evaluator.0.spilt: unknown key"),
        (["evaluator.7.split=val"], "should be an index from 0 to 1 or a component's name, got '7'"),
        (["evaluate.batch_size=0"], "evaluate.batch_size: should be greater than or equal to 1"),
        (["model.n_layer=1"], "'model.n_layer=1': the model is already trained; only evaluate, evaluator, sample"),
        (["train.seed=5"], "'train.seed=5': the model is already trained"),
        (["tokenizer=char"], "'tokenizer=char': the model is already trained"),
        (["nobody"], "no run 'nobody'"),
        (["--step", "7"], "has no checkpoint of step 7; there are: 100, 200"),
    ):
        assert told in refusal(command("eval", run, *words)), words
    table = '{use="samples", prompts=["Q"]}'
    assert "not in the vocabulary" in refusal(command("eval", char_run, "--evaluator", table))
    assert "eval: expected a run" in refusal(command("eval", "evaluate.batch_size=1"))
    assert "missing argument 'RUN" in refusal(command("eval"))


def test_data_that_is_gone_is_told(run: RunFolder, copied: Any, tmp_path: Path, command: Command) -> None:
    told = refusal(command("eval", copied(run, tmp_path / "gone.txt")))
    assert f"'{tmp_path / 'gone.txt'}' matches no file or folder" in told


def test_a_vocabulary_of_other_text_is_refused(
    char_run: RunFolder, text_file: Path, copied: Any, command: Command
) -> None:
    folder = copied(char_run, text_file)
    assert found(command("eval", folder, "--json"))[str(folder)] == pytest.approx(in_metrics(char_run)[3], rel=1e-6)
    text_file.write_text(text_file.read_text(encoding="utf-8") + "What?", encoding="utf-8")
    assert "text has changed since the run, and with it its vocabulary" in refusal(command("eval", folder))


def test_what_was_found_before_a_fault_is_told(run: RunFolder, command: Callable[..., Any], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run.path, other)
    for checkpoint in (other / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    answer = command("eval", run.path, other, "--json")
    assert (answer.code, "no checkpoint yet" in answer.err) == (2, True)
    assert "val/loss" in json.loads(answer.out)[str(run.path)]
