"""`check` refuses what `run` refuses before it reads the text, with the same message, and starts nothing."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.cli import slow_note
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.corpus import text_files as corpus_files
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train import before_data, memory, session, setup, warm_start

Command = Callable[..., Any]
QUICK = ("callback=[]", "sample.num_samples=0", "train.steps=1")


@pytest.fixture
def trained(tiny: Path) -> RunFolder:
    """A run named tiny, whose bpe was learnt from the text of `tiny`."""
    return session.run(Experiment.load(tiny, [*QUICK, "tokenizer=bpe", "tokenizer.vocab_size=300"]))


@pytest.fixture
def other_text(tmp_path: Path) -> Path:
    path = tmp_path / "other.txt"
    path.write_text("Quite another text, of quite other words. " * 40, encoding="utf-8")
    return path


BPE = ("name=tuned", "tokenizer=bpe", "tokenizer.vocab_size=300", *QUICK)
REFUSED = {
    "no text": (["dataset.source=nowhere/*.md"], ["dataset.source: 'nowhere/*.md' matches no file or folder"]),
    "no run to start from": (["model.init_from=tinny"], ["model.init_from: no run 'tinny'"]),
    "no run with the tokenizer": (["tokenizer.from_run=tinny"], ["tokenizer.from_run: no run 'tinny'"]),
    "no file of a tokenizer": (
        ["tokenizer=gpt2", "tokenizer.file=nowhere/r50k_base.tiktoken"],
        ["tokenizer.file: 'nowhere/r50k_base.tiktoken' does not exist, relative to /"],
    ),
    "a list without texts": (["dataset.source=[]"], ["dataset.source: should name a text file, a folder or a glob"]),
    "a text without a name": (["dataset.source=['a.txt', '']"], ["dataset.source: should name a text file"]),
    "no such device": (["train.device=cuda"], ["train.device: is 'cuda'"]),
    "a prompt": (["sample.num_samples=1", "sample.prompt=", "tokenizer=char"], ["sample.prompt: "]),
    "a metric": (["checkpoint.keep_best=val/los"], ["checkpoint.keep_best: ", "did you mean 'val/loss'?"]),
    "two metrics of one name": (
        ["evaluator=['loss', 'bits_per_byte', 'loss']"],
        ["evaluator.2: reports 'val/loss', as evaluator.0 does"],
    ),
    "a component that cannot run here": (["parallel=fsdp"], ["parallel: fsdp requires several processes"]),
    "a missing package": (
        ["components=['needs.py']", "model.mlp=needs"],
        ["needs.py", "No module named 'absent_package'"],
    ),
    "too large a batch": (["train.batch_tokens=16_000_000_000_000"], ["train.batch_tokens: "]),
    "several at once": (
        ["dataset.source=nowhere", "tokenizer.from_run=tinny", "checkpoint.keep_best=val/los"],
        ["3 errors", "dataset.source: ", "tokenizer.from_run: ", "checkpoint.keep_best: "],
    ),
}


@pytest.mark.parametrize(("overrides", "expected"), REFUSED.values(), ids=REFUSED)
def test_check_and_run_refuse_alike(
    tiny: Path, command: Command, monkeypatch: pytest.MonkeyPatch, overrides: list[str], expected: list[str]
) -> None:
    tiny.with_name("needs.py").write_text("import absent_package\n")
    monkeypatch.setattr(setup, "prepare", lambda *args, **options: pytest.fail("the data is prepared"))
    checked, run = (command(verb, tiny, *QUICK, *overrides) for verb in ("check", "run"))
    assert (checked.code, checked.out) == (2, "")
    assert checked.err == run.err
    assert "command line: " in checked.err
    assert not [part for part in expected if part not in checked.err], checked.err


def test_the_text_that_a_file_names_is_missing_at_its_line(tiny: Path, text_file: Path, command: Command) -> None:
    text_file.unlink()
    line = next(n for n, line in enumerate(tiny.read_text().splitlines(), 1) if line.startswith("source"))
    assert f"{tiny}:{line}: dataset.source: " in command("check", tiny).err


def test_run_and_check_call_one_function(tiny: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for module in (setup, before_data):
        original = module.check_before_data
        monkeypatch.setattr(
            module,
            "check_before_data",
            lambda *a, _f=original, _n=module.__name__, **k: calls.append(_n) or _f(*a, **k),
        )
    assert command("check", tiny).code == 0
    assert command("run", tiny, *QUICK).code == 0
    assert calls == [before_data.__name__, setup.__name__]


def test_check_reads_no_text(tiny: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object) -> None:
        pytest.fail(f"{file} is read")

    monkeypatch.setattr(corpus_files.TextFile, "documents", refuse)
    assert command("check", tiny).out == f"{tiny} is valid\n"
    assert not (tiny.parent / "runs").exists()
    assert not (tiny.parent / "data").exists()


def test_check_reports_what_a_folder_holds(
    tiny: Path, command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("text")
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    with caplog.at_level(logging.INFO, logger="nanogpt_kit"):
        assert command("check", tiny, f"dataset.source={folder}").code == 0
    assert caplog.messages == [f"{folder}: 1 file, 4 bytes: .md 1; left out: 1 binary"]


def test_a_tokenizer_that_differs_is_refused_before_the_text_is_read(
    tiny: Path, command: Command, trained: RunFolder, other_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "prepare", lambda *args, **options: pytest.fail("the data is prepared"))
    options = [*BPE, "model.init_from=tiny", f"dataset.source={other_text}"]
    checked, run = (command(verb, tiny, *options) for verb in ("check", "run"))
    assert checked.err == run.err
    assert "command line: tokenizer: " in checked.err
    assert "bpe of 300 tokens, here bpe that is newly learnt from other text" in checked.err
    assert checked.err.endswith('to use its tokenizer, set tokenizer.from_run = "tiny"\n')
    assert command("check", tiny, *options, "tokenizer.from_run=tiny").code == 0


def test_another_kind_of_tokenizer_is_refused_with_both_options(
    tiny: Path, command: Command, trained: RunFolder
) -> None:
    answer = command("check", tiny, "model.init_from=tiny", *QUICK)
    assert "here byte of 257 tokens; " in answer.err
    assert 'set tokenizer.use = "bpe" and tokenizer.from_run = "tiny"' in answer.err


def test_the_same_text_needs_no_other_tokenizer(tiny: Path, command: Command, trained: RunFolder) -> None:
    for verb in ("check", "run"):
        assert command(verb, tiny, *BPE, "model.init_from=tiny").code == 0


def test_the_same_options_over_changed_text_are_refused_once_it_is_learnt(
    tiny: Path, command: Command, trained: RunFolder, text_file: Path
) -> None:
    text_file.write_text("Quite another text, of quite other words. " * 40, encoding="utf-8")
    answer = command("run", tiny, *BPE, "model.init_from=tiny")
    assert answer.code == 2
    assert 'to use its tokenizer, set tokenizer.from_run = "tiny"' in answer.err


def test_the_tokenizer_of_a_third_run_is_refused(
    tiny: Path, command: Command, trained: RunFolder, other_text: Path
) -> None:
    session.run(Experiment.load(tiny, [*BPE, "name=third", f"dataset.source={other_text}"]))
    answer = command("check", tiny, *BPE, "model.init_from=tiny", "tokenizer.from_run=third")
    assert "here the bpe of 'third'; " in answer.err


def test_published_weights_are_not_downloaded(tiny: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_start, "import_run", lambda name: pytest.fail(f"{name} is downloaded"))
    assert command("check", tiny, "model.init_from=gpt2", "tokenizer=gpt2").code == 0


def test_of_published_weights_the_tokenizer_is_known_before_they_are_downloaded(
    tiny: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_start, "import_run", lambda name: pytest.fail(f"{name} is downloaded"))
    for verb in ("check", "run"):
        answer = command(verb, tiny, *QUICK, "model.init_from=gpt2", "tokenizer=byte")
        assert answer.code == 2
        assert (
            "command line: tokenizer: gpt2 was trained on other tokens: gpt2 of 50,257 tokens, here byte" in answer.err
        )
        assert 'set tokenizer.use = "gpt2"' in answer.err


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [("adamw", 4), ("muon", 3), ('{use="muon", others="sgd"}', 3), ("sgd", 3), ('{use="sgd", momentum=0.0}', 2)],
)
def test_the_state_of_the_optimizer_counts(
    tiny: Path, command: Command, monkeypatch: pytest.MonkeyPatch, optimizer: str, copies: int
) -> None:
    weights = 2 * (4 * 24 * 24 + 8 * 24 * 24) + 5 * 24 + 320 * 24 + 16 * 24  # 257 tokens are padded to 320
    monkeypatch.setattr(memory, "machine_memory_bytes", lambda: 4 * weights * copies)
    assert command("check", tiny, f"optimizer={optimizer}", "train.device=cpu").code == 0
    monkeypatch.setattr(memory, "machine_memory_bytes", lambda: 4 * weights * copies - 1)
    assert f"{4 * weights * copies:,} bytes" in command("check", tiny, f"optimizer={optimizer}", "train.device=cpu").err


def test_a_warmup_that_does_not_end_is_noted_and_allowed(tiny: Path, command: Command) -> None:
    for verb in ("check", "run"):
        answer = command(verb, tiny, *QUICK, "train.steps=5")
        assert answer.code == 0
        assert "note: schedule: warmup_steps = 5 is not less than the 5 steps" in answer.err
    for allowed in ("train.steps=6", "train.steps=0"):
        assert "warmup" not in command("check", tiny, *QUICK, allowed).err
    assert "the 5 steps" in command("check", tiny, "train.max_tokens=400").err


def test_a_sweep_is_checked_like_a_run(tiny: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tiny.read_text(encoding="utf-8")
    tiny.write_text(
        f'{text}[sweep]\ntrials = 2\n[sweep.space]\n"model.n_layer" = {{ int = [1, 3] }}\n', encoding="utf-8"
    )
    for verb in ("check", "sweep"):
        answer = command(verb, tiny, "dataset.source=nowhere")
        assert (answer.code, "dataset.source: 'nowhere' matches no file" in answer.err) == (2, True)
        assert not (tiny.parent / "runs").exists()
    assert command("check", tiny).code == 0
    monkeypatch.setattr(memory, "machine_memory_bytes", lambda: 400_000)  # enough for 2 layers, not for 3
    answer = command("check", tiny)
    assert (answer.code, "n_layer = 3" in answer.err) == (2, True)


def test_check_says_on_a_terminal_what_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        with slow_note.note_if_slow("quick", 60):
            pass
        with slow_note.note_if_slow("still at work", 0.01):
            time.sleep(0.2)
        assert capsys.readouterr().err == ("still at work\n" if is_terminal else "")


def test_no_built_in_part_imports_the_compiler_when_a_model_is_checked(tiny: Path) -> None:
    code = f"""
import sys
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.train.before_data import check_without_running
for kind in ("attention", "mlp", "norm", "position"):
    for name in (entry.name for entry in Registry.installed().of_kind(kind)):
        if name != "flex":
            check_without_running(Experiment.load({str(tiny)!r}, [f"model.{{kind}}={{name}}", "train.device=cpu"]), 1)
            assert "torch._dynamo" not in sys.modules, name  # it takes a second to import
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_json_counts_the_model_with_the_vocabulary_that_is_assumed(tiny: Path, command: Command) -> None:
    answer = command("check", tiny, "tokenizer=char", "--explain", "--json")
    assert json.loads(answer.out)["model"]["parameters"]["embedding"] == 256 * 24 + 16 * 24


GROUPS = r"""
[[optimizer.group]]
match = "wte"
lr = 1e-2
betas = [0.8, 0.9]

[[optimizer.group]]
match = 'h\.0\.'
freeze = true

[[optimizer.group]]
match = "ln_f"
"""


def test_the_groups_of_parameters_are_listed_with_their_counts(tiny: Path, command: Command) -> None:
    tiny.write_text(tiny.read_text(encoding="utf-8") + GROUPS, encoding="utf-8")
    shown = command("check", tiny, "--explain").out
    frozen = 12 * 24 * 24 + 2 * 24
    total = 320 * 24 + 16 * 24 + 2 * frozen + 24
    rest = total - 320 * 24 - frozen - 24
    assert f"{total:,} parameters: " in shown
    assert f"with a vocabulary of 257 tokens; {total - frozen:,} of them are trained" in shown
    tie = "wte.weight is tied to lm_head.weight"
    assert shown.splitlines()[-4:] == [
        f"optimizer.group.0 (wte): 1 tensor, 7,680 parameters; lr = 0.01, betas = [0.8, 0.9]; {tie}",
        f"optimizer.group.1 (h\\.0\\.): 6 tensors, {frozen:,} parameters; frozen",
        "optimizer.group.2 (ln_f): 1 tensor, 24 parameters",
        f"parameters of no group: 7 tensors, {rest:,} parameters",
    ]
    record = json.loads(command("check", tiny, "--json").out)
    assert record["model"]["trained"] == total - frozen
    counts = [(one["index"], one["tensors"], one["parameters"]) for one in record["groups"]]
    assert counts == [(0, 1, 7680), (1, 6, frozen), (2, 1, 24), (None, 7, rest)]
    assert record["groups"][0]["names"] == [["wte.weight", "lm_head.weight"]]


def test_without_groups_none_are_listed(tiny: Path, command: Command) -> None:
    assert "group" not in command("check", tiny, "--explain").out.rpartition("FLOPs")[2]
    assert json.loads(command("check", tiny, "--json").out)["groups"] == []
