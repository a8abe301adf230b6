"""The command line does the whole job."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train import session


def test_run_trains_evaluates_samples_and_leaves_a_whole_run(tiny: Path) -> None:
    words = [sys.executable, "-m", "nanogpt_kit", "run", str(tiny)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    folder = find_run("tiny").folder
    names = {path.name for path in folder.path.iterdir()}
    assert names >= {
        *("experiment.toml", "provenance.json", "status.json", "metrics.jsonl"),
        *("checkpoints", "samples.txt"),
    }
    assert sum(name.startswith("events.out.tfevents.") for name in names) == 1
    assert folder.status().state == "finished"
    assert "evaluated at step 20:  val/loss" in done.stderr
    assert "gzip -9" in done.stderr
    assert f"{'=' * 60} step 20\n{done.stdout}" == folder.samples.read_text(encoding="utf-8")
    assert {path.name for path in (folder.checkpoints / "step-00000020").iterdir()} == {
        *("model.safetensors", "training.pt", "tokenizer.json", "manifest.json")
    }
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert lines[0].keys() == {
        *("step", "tokens", "seconds", "train/loss", "optim/lr", "optim/grad_norm"),
        *("optim/clip_fraction", "perf/tokens_per_second", "memory/peak_bytes"),
    }


def test_a_closed_pipe_does_not_end_a_run(tiny: Path) -> None:
    """As `2>&1 | head -1` does: the console is dropped, the training goes on."""
    words = [sys.executable, "-m", "nanogpt_kit", "run", str(tiny), "callback=[{use='console', every_seconds=0.0}]"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.wait(timeout=60)
    assert find_run("tiny").folder.status().state == "finished"


def test_sigterm_during_preparation_leaves_nothing(tiny: Path) -> None:
    tiny.with_name("slow.py").write_text(
        "import time\nfrom nanogpt_kit.api import Dataset\n"
        "class Slow(Dataset):\n"
        "    def documents(self, split):\n        print('begun', flush=True)\n"
        "        time.sleep(60)\n        yield ''\n"
        "    def fingerprint(self):\n        return 'slow'\n"
    )
    words = [sys.executable, "-m", "nanogpt_kit", "run", str(tiny), "components=['slow.py']", "dataset=slow"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    process.stdout.close()
    assert process.wait(timeout=60) == 130
    assert not (tiny.parent / "data").exists()
    assert not (tiny.parent / "runs").exists()


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_overrides_keep_their_order_wherever_resume_stands(
    tiny: Path, command: Callable[..., object], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    begun: list[Any] = []

    def begin(*words: Any) -> None:
        begun.extend(words)
        raise KitError("enough")

    monkeypatch.setattr(session, "run", begin)
    words = [str(tiny), "train.steps=4", "train.steps=5", f"sample.prompt={'long' * 100}"]
    words.insert(at, "--resume")
    assert command("run", *words).code == 2
    assert (begun[0].train.steps, begun[0].sample.prompt, begun[1]) == (5, "long" * 100, "")


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> list[Any]:
    """The arguments of each call of a class method, while it works as before."""
    calls: list[Any] = []
    original = getattr(owner, method).__func__
    monkeypatch.setattr(owner, method, classmethod(lambda cls, *words: calls.append(words) or original(cls, *words)))
    return calls


CHANGED = ["optimizer=sgd", "optimizer.lr=0.1", "train.steps=1", "callback=[]", "sample.num_samples=0"]


def test_an_experiment_is_read_once_and_its_notes_are_printed_once(
    tiny: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, experiments = count_calls(monkeypatch, Layers, "load"), count_calls(monkeypatch, Experiment, "of")
    answer = command("run", tiny, *CHANGED)
    assert (answer.code, len(files), len(experiments)) == (0, 1, 1)
    assert answer.err.count("note: optimizer: 'sgd'") == 1


def test_seeds_read_the_file_once_and_print_its_notes_once(
    tiny: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = count_calls(monkeypatch, Layers, "load")
    answer = command("run", tiny, *CHANGED, "train.seed=5", "--seeds", 2)
    assert (answer.code, len(files)) == (0, 1), answer.err
    assert answer.err.count("note: optimizer: 'sgd'") == 1
    runs = sorted((tiny.parent / "runs" / "tiny").iterdir())
    assert [RunFolder(path).seed() for path in runs] == [5, 6]
    assert "lr = 0.1\n" in (runs[1] / "experiment.toml").read_text(encoding="utf-8")


def test_processes_of_a_run_print_its_notes_once_and_use_ddp(tiny: Path) -> None:
    words = [sys.executable, "-m", "nanogpt_kit", "run", str(tiny), *CHANGED, "train.device=cpu", "--nproc", "2"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr.count("note: optimizer: 'sgd'") == 1
    assert '[parallel]\nuse = "ddp"\n' in find_run("tiny").folder.experiment.read_text(encoding="utf-8")


def test_several_processes_keep_the_parallel_component_that_is_given(tiny: Path) -> None:
    fsdp = Experiment.load(tiny, ["parallel=fsdp"], n_processes=2)
    assert fsdp.entry_of(fsdp.parallel).name == "fsdp"
    default = Experiment.load(tiny, n_processes=2)
    assert (default.entry_of(default.parallel).name, default.location(("parallel", "use"))) == ("ddp", "default")


def test_a_bare_resume_before_an_override_is_understood(tiny: Path, command: Callable[..., object]) -> None:
    assert command("run", tiny, "train.steps=4", "schedule=constant", "callback=[]").code == 0
    find_run("tiny").folder.set_status("interrupted", step=4, total_steps=4)
    answer = command("run", tiny, "schedule=constant", "callback=[]", "--resume", "train.steps=6")
    assert answer.code == 0, answer.err
    assert find_run("tiny").folder.status().step == 6


def test_prepare_then_run_prepares_once(
    tiny: Path, command: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nanogpt_kit")
    answer = command("prepare", tiny)
    assert answer.code == 0
    assert "xz -9 needs" in answer.out
    assert "prepared" in caplog.text
    caplog.clear()
    assert command("run", tiny, "train.steps=1", "callback=[]").code == 0
    assert "prepared" not in caplog.text


def test_sample_writes_from_a_run(tiny: Path, command: Callable[..., object]) -> None:
    command("run", tiny, "train.steps=1", "callback=[]")
    words = ("sample", "tiny", "--prompt", "7 times", "--num-samples", 2, "--max-new-tokens", 9, "--seed", 5)
    first = command(*words)
    assert first.code == 0
    one, two = first.out.split("-" * 80 + "\n")
    assert one.startswith("7 times")
    assert two.startswith("7 times")
    assert one != two
    assert command(*words).out == first.out
    cold = command(*words, "sampler.0.value=0.02")
    assert cold.out != first.out
    assert command(*words, "sampler.temperature=0.02").out == cold.out
    nucleus = command(*words, "sampler.top_p=0.3")
    assert nucleus.out not in ("", first.out)
    assert "note: sampler: top_p (command line) appended; the list is now temperature, top_k, top_p" in nucleus.err
    refused = command(*words, "model.n_layer=1")
    assert (refused.code, "only sample and sampler" in refused.err) == (2, True)


def test_check_explains_where_every_value_comes_from(tiny: Path, command: Callable[..., object]) -> None:
    answer = command("check", tiny, "optimizer.lr=1e-3", "--explain")
    options, _, size = answer.out.partition("\n\n")
    lines = dict(line.split("  # ") for line in options.splitlines() if not line.startswith("#"))
    lines = {key.strip(): place for key, place in lines.items()}
    assert lines["optimizer.lr = 0.001"] == "command line"
    assert lines["model.n_layer = 2"] == f"{tiny}:12; default: 12"
    assert lines['model.norm.use = "layernorm"'] == "default"
    told = json.loads(command("check", tiny, "--explain", "--json").out)
    assert told["options"]["model.n_layer"] == {"value": 2, "from": f"{tiny}:12", "default": 12}
    matrices, tokens = 2 * (4 * 24 * 24 + 8 * 24 * 24), 320 * 24  # 257 tokens are padded to 320
    assert told["model"]["parameters"] == {"embedding": tokens + 16 * 24, "vector": 5 * 24, "matrix": matrices}
    assert told["model"]["flops_per_token"] == 6 * (matrices + tokens) + 12 * 2 * 24 * 16  # PaLM, appendix B
    assert size.startswith(f"{tokens + 16 * 24 + 5 * 24 + matrices:,} parameters: embedding ")
    assert command("check", tiny).out == f"{tiny} is valid\n"


SWEPT = """
[sweep]
trials = 3
storage = "postgresql://me:secret@host/db"
[sweep.space."optimizer.use".choice.adamw]
"optimizer.lr" = { float = [1e-4, 1e-1], log = true }
[sweep.space."optimizer.use".choice.muon]
"model.norm" = "rmsnorm"
"""


def test_check_explains_a_sweep_and_hides_its_password(tiny: Path, command: Callable[..., Any]) -> None:
    before = len(tiny.read_text(encoding="utf-8").splitlines())
    tiny.write_text(tiny.read_text(encoding="utf-8") + SWEPT, encoding="utf-8")
    answer = command("check", tiny, "--explain")
    assert answer.code == 0, answer.err
    listed = answer.out.partition("\n\n")[0].splitlines()
    lines = dict(line.split("  # ") for line in listed if not line.startswith("#"))
    lines = {words.strip(): origin for words, origin in lines.items() if words.startswith("sweep.")}
    assert lines['sweep.metric = "val/loss"'] == "default"
    assert lines["sweep.trials = 3"] == f"{tiny}:{before + 3}; default: 20"
    assert lines['sweep.storage = "postgresql://me:***@host/db"'] == f'{tiny}:{before + 4}; default: "journal"'
    assert lines['sweep.space.optimizer.use: choice ["adamw", "muon"]'] == f"{tiny}:{before + 5}"
    rate = "sweep.space.optimizer.lr: float [0.0001, 0.1], log, where optimizer.use is adamw"
    assert lines[rate] == f"{tiny}:{before + 6}"
    setting = "sweep.space.model.norm, where optimizer.use is muon"
    assert lines[f"{setting}: = rmsnorm"] == f"{tiny}:{before + 8}"
    told = command("check", tiny, "--explain", "--json").out
    assert "secret" not in answer.out + told
    assert json.loads(told)["options"][setting] == {"value": "= rmsnorm", "from": f"{tiny}:{before + 8}"}


def test_check_refuses_a_sweep_that_would_be_refused(tiny: Path, command: Callable[..., Any]) -> None:
    text = tiny.read_text(encoding="utf-8")
    tiny.write_text(text + '[sweep.space]\n"model.attention" = { choice = ["sdpa", "felx"] }\n', encoding="utf-8")
    answer = command("check", tiny)
    assert (answer.code, answer.out) == (2, "")
    assert f"{tiny}:{len(text.splitlines()) + 2}: model.attention.use: " in answer.err
    assert "did you mean 'flex'?" in answer.err


def test_check_takes_the_processes_of_a_sweeps_trials(tiny: Path, command: Callable[..., Any]) -> None:
    text = tiny.read_text(encoding="utf-8") + '[sweep.space]\n"parallel" = { choice = ["ddp", "fsdp"] }\n'
    tiny.write_text(text, encoding="utf-8")
    answer = command("check", tiny, "parallel=ddp", "train.device=cpu")
    assert (answer.code, "fsdp requires several processes, and one was started" in answer.err) == (2, True)
    assert command("check", tiny, "--nproc", 2, "train.device=cpu").code == 0


def test_a_change_of_component_says_what_it_drops(tiny: Path, command: Callable[..., object]) -> None:
    answer = command("check", tiny, "schedule=constant")
    assert "schedule: 'constant' (command line) replaces 'cosine'" in answer.err
    assert "dropped its warmup_steps" in answer.err


@pytest.mark.parametrize("chosen", [None, "ACTIVE"])
def test_openmp_waits_without_spinning_unless_told_otherwise(chosen: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": chosen} if chosen else {}
    code = "import os, nanogpt_kit.__main__; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (chosen or "passive")


def test_a_text_with_bom_crlf_and_emoji_trains_and_writes(
    tiny: Path, text_file: Path, command: Callable[..., object]
) -> None:
    text_file.write_bytes(b"\xef\xbb\xbf" + ("a line\r\nsmile \U0001f600\r\n" * 60).encode())
    for tokenizer in ("byte", "char"):
        answer = command("run", tiny, f"tokenizer={tokenizer}", "train.steps=2", "callback=[]")
        assert answer.code == 0, answer.err
        answer = command("sample", "tiny", "--prompt", "\U0001f600\r\n", "--max-new-tokens", 0)
        assert answer.out == "\U0001f600\r\n\n"


def test_runs_with_several_seeds_print_what_they_have_in_common_once(tiny: Path, command: Callable[..., Any]) -> None:
    options = ("tokenizer=char", "schedule=constant", "train.steps=1", "callback=['console']", "sample.num_samples=0")
    answer = command("run", tiny, *options, "--seeds=2")
    assert answer.code == 0, answer.err
    lines = answer.err.splitlines()
    starts = [line.split()[0] for line in lines]
    assert starts.count("seed") == starts.count("folder") == starts.count("finished:") == 2
    assert starts.count("device") == starts.count("model") == starts.count("compile") == starts.count("more") == 1
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == len(set(notes)) > 0


def test_reasons_are_printed_where_they_are_asked_for(tiny: Path, command: Callable[..., Any]) -> None:
    logger = logging.getLogger("nanogpt_kit")
    level = logger.level
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        for words in ((), ("--verbose",)):
            messages.clear()
            command("run", tiny, "train.steps=1", "callback=[]", "sample.num_samples=0", *words)
            assert any(message.startswith("precision fp32: ") for message in messages) == bool(words)
            assert logger.level == level, "it lasts as long as the command"
    finally:
        logger.removeHandler(handler)


def test_all_seeds_compute_as_the_first(
    command: Callable[..., Any], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would measure another candidate as the fastest."""
    fastest = iter(("fp32", "bf16", "fp32", "bf16"))

    def measure(tasks: list[Any], budget: float) -> dict[str, dict[str, float]]:
        one = next(fastest)
        return {task.name: {name: 1.0 if name == one else 2.0 for name in task.candidates} for task in tasks}

    monkeypatch.delenv("NANOGPT_KIT_CALIBRATION")
    monkeypatch.setattr("nanogpt_kit.nn.measured_choices.measure", measure)
    monkeypatch.setattr("nanogpt_kit.nn.measured_choices.add_to_calibration", lambda *_: None)
    monkeypatch.setattr("nanogpt_kit.train.precision.multiplies_bf16", lambda device: True)
    answer = command("run", tiny, "--seeds", 3, "train.steps=1", "train.precision=auto", "sample.num_samples=0")
    assert answer.code == 0, answer.err
    folders = sorted((tiny.parent / "runs" / "tiny").iterdir())
    records = [json.loads((folder / "machine_choices.json").read_text(encoding="utf-8")) for folder in folders]
    assert len(records) == 3
    assert {record["choices"]["precision cpu"] for record in records} == {"fp32"}
    assert "NANOGPT_KIT_CALIBRATION" not in os.environ
