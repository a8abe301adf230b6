"""What may go wrong while a run is at work: each ends in a loadable run or in one sentence."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nanogpt_kit.api import KitError
from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepare import data_root
from nanogpt_kit.runs import folder as runs
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import memory, session, trainer
from nanogpt_kit.train.precision import Precision

pytestmark = pytest.mark.usefixtures("with_dropout")
QUIET = ("callback=[]", "sample.num_samples=0")


def run(tiny: Path, *overrides: str, resume: str | None = None) -> RunFolder:
    return session.run(Experiment.load(tiny, [*QUIET, *overrides]), resume)


def losses(folder: RunFolder) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder.metrics) if "train/loss" in line]


def newest(tiny: Path) -> RunFolder:
    return runs.runs_of_experiment(tiny.parent / "runs" / "tiny")[-1]


# --- memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), None])
def test_too_little_memory_names_the_micro_batch_and_what_would_halve_it(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    def too_much(*_: Any, **__: Any) -> Any:
        if error is not None:
            raise error
        return torch.empty(2**58)  # as the CPU's allocator says it

    monkeypatch.setattr(nn.functional, "cross_entropy", too_much)
    with pytest.raises(RunFailed) as caught:
        run(tiny, "evaluate.every_steps=99")
    told = "step 1: out of memory with micro-batches of 2 windows; train.micro_batch_size = 1 halves what the activ"
    assert str(caught.value).startswith(told)
    assert newest(tiny).status().state == "failed"


def test_other_errors_are_not_taken_for_too_little_memory() -> None:
    assert not memory.is_out_of_memory(RuntimeError("shapes differ"))
    assert memory.out_of_memory_hint(1, is_auto=False).endswith(
        "half the model.block_size halves what the activations take"
    )


@pytest.mark.parametrize(
    ("windows_that_fit", "expected"),
    [pytest.param(1.4, 1, marks=pytest.mark.slow), (3.2, 3), pytest.param(100, 5, marks=pytest.mark.slow)],
)
def test_auto_takes_the_largest_micro_batch_that_fits(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, windows_that_fit: float, expected: int
) -> None:
    sizes = []
    update = trainer.Trainer.update

    def watched(self: trainer.Trainer, batch: Any) -> Any:
        sizes.append(self.progress.micro_batch_size)
        return update(self, batch)

    monkeypatch.setattr(trainer.Trainer, "update", watched)
    options = ["train.micro_batch_size=auto", "train.steps=3", "checkpoint.every_steps=2", "model.dropout=0.0"]
    monkeypatch.setattr(
        memory, "free_bytes", lambda device: 2 * windows_that_fit * (kept_of(tiny, 2) - kept_of(tiny, 1))
    )
    folder = run(tiny, *options)
    assert sizes == [expected] * 3
    assert losses(folder) == pytest.approx(losses(run(tiny, *options, "train.micro_batch_size=2")), abs=1e-5)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**12)
    other = run(tiny, *options, "train.steps=3", "schedule=constant", "name=other")
    run(tiny, *options, "train.steps=4", "schedule=constant", "name=other", resume=str(other))
    assert store.load_training(store.newest_whole_checkpoint(folder.checkpoints))["micro_batch_size"] == expected


def kept_of(tiny: Path, windows: int) -> int:
    """By hand: all storages that the graph of a loss saves."""
    from nanogpt_kit.api import ModelContext

    experiment = Experiment.load(tiny, ["model.dropout=0.0"])
    model = experiment.model.build(ModelContext(vocab_size=257))
    ids = torch.zeros(windows, 16, dtype=torch.int64)
    return memory.saved_bytes(lambda size: model(ids[:size], ids[:size]), windows)


def test_storages_saved_for_the_backward_pass_are_counted_once() -> None:
    weight = torch.randn(100, 100, requires_grad=True)

    def loss(windows: int) -> torch.Tensor:
        x = torch.randn(windows, 100)
        y = x @ weight  # keeps x and weight
        return (y.exp() + y.exp()).sum()  # keeps two results

    one, two = memory.saved_bytes(loss, 1), memory.saved_bytes(loss, 2)
    assert two - one == 4 * 100 * 3


# --- disks and files --------------------------------------------------------------------------------------------


def test_a_checkpoint_is_not_started_without_disk_space_for_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tiny.parent)
    written = []
    monkeypatch.setattr(store, "save_weights", lambda *_: written.append(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000))
    prepared = "the checkpoint of step 10 cannot be written: "
    experiment = Experiment.load(tiny, QUIET)
    with monkeypatch.context() as patch:
        patch.setattr("nanogpt_kit.data.writer.check_free_space", lambda *_: None)
        patch.setattr("nanogpt_kit.data.build.check_free_space", lambda *_: None)
        with pytest.raises(RunFailed, match=rf"{prepared}.* it takes \d+,\d+ bytes \(50,000 bytes are free there\)"):
            session.run(experiment)
    assert not written
    assert newest(tiny).status().state == "failed"


def test_data_that_vanishes_under_a_run_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = trainer.Trainer.update

    def vanishing(self: trainer.Trainer, batch: Any) -> Any:
        if self.step == 12:
            shutil.rmtree(self.data.path)
        return update(self, batch)

    monkeypatch.setattr(trainer.Trainer, "update", vanishing)
    with pytest.raises(RunFailed, match=r"cannot continue: .*No such file or directory: '.*val\.bin'"):
        run(tiny)
    monkeypatch.undo()
    os.environ |= {"NANOGPT_KIT_RUNS": str(tiny.parent / "runs"), "NANOGPT_KIT_DATA": str(tiny.parent / "data")}
    resumed = run(tiny, resume="")  # which prepares it again
    assert losses(resumed) == losses(run(tiny))


def test_text_that_was_lost_is_named_on_a_resume(tiny: Path, text_file: Path) -> None:
    folder = run(tiny, "schedule=constant")
    text_file.unlink()
    with pytest.raises(KitError, match=r"dataset\.source: '.*text\.txt' matches no file or folder"):
        run(tiny, "schedule=constant", "train.steps=30", resume=str(folder))


def test_clocks_that_jump_do_no_harm(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day goes back by years between two runs, and while they run."""
    first = run(tiny)
    monkeypatch.setattr(time, "time", lambda: 1e8)
    monkeypatch.setattr(time, "time_ns", lambda: 10**17)
    second = run(tiny)
    assert losses(second) == losses(first)
    assert second.status().seconds > 0
    with pytest.raises(KitError, match="no unfinished run"):
        run(tiny, resume="")


# --- signals ----------------------------------------------------------------------------------------------------

SLOW = """
import os, time, sys
from nanogpt_kit import __main__ as program
from nanogpt_kit.checkpoint import store
from nanogpt_kit.train import session, trainer

phase, marker = sys.argv.pop(1), sys.argv.pop(1)

def slow(function):
    def inner(*args, **kwargs):
        open(marker, "w").close()
        time.sleep(0.7)
        return function(*args, **kwargs)
    return inner

if phase == "saving":
    store.write_files = slow(store.write_files)
elif phase == "evaluating":
    trainer.run_evaluators = slow(trainer.run_evaluators)
elif phase == "building":
    trainer.parameter_groups = slow(trainer.parameter_groups)
elif phase == "sampling":
    session.write_samples = slow(session.write_samples)
elif phase == "a step":
    trainer.Trainer.update = slow(trainer.Trainer.update)
program.main()
"""


@pytest.mark.parametrize(
    ("phase", "name"),
    [
        ("saving", "SIGTERM"),
        ("evaluating", "SIGINT"),
        *(
            pytest.param(phase, name, marks=pytest.mark.slow)
            for phase in ("building", "a step", "evaluating", "saving", "sampling")
            for name in ("SIGINT", "SIGTERM")
        ),
    ],
)
def test_a_run_resumes_after_a_signal_in_any_phase(tiny: Path, tmp_path: Path, phase: str, name: str) -> None:
    marker = tmp_path / "marker"
    options = ["train.steps=6", "checkpoint.every_steps=2", "evaluate.every_steps=3", "callback=[]"]
    command = [sys.executable, "-Pc", SLOW, phase, str(marker), "run", str(tiny), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not marker.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert "Traceback" not in told
    folder = newest(tiny)
    assert told.splitlines()[-1].endswith(f"with: nanogpt-kit run {folder}")
    assert folder.status().state == "interrupted"
    whole = session.run(Experiment.load(tiny, [*options, "name=whole"]))
    resumed = session.run(Experiment.load(tiny, options), resume="")
    assert losses(resumed) == losses(whole)
    assert resumed.samples.read_text() == whole.samples.read_text()


# --- arithmetic -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "native", "expected"),
    [
        ("cpu", True, ("bf16", "native on this CPU")),
        ("cpu", False, ("fp32", "bf16 is not faster on this device")),
        ("mps", False, ("fp32", "bf16 is not faster on this device")),
        ("cuda", True, ("bf16", "native on this GPU")),
        ("cuda", False, ("fp16", "this GPU has no bf16")),
    ],
)
def test_auto_precision_is_what_the_device_computes_natively(
    device: str, native: bool, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"avx512_bf16": native}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    found, why = Precision.choose("auto", device)
    assert (found.name, why) == expected
    assert Precision.choose("fp16", device) == (Precision("fp16", device), "set by the experiment")


def test_choices_and_their_reasons_are_logged_and_recorded(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    from nanogpt_kit.system.json_files import read_json

    caplog.set_level("DEBUG", logger="nanogpt_kit")
    folder = run(tiny, "train.precision=auto", "train.steps=1")
    machine = read_json(folder.path / "provenance.json")["machine"]
    assert f"precision {machine['precision']}: {machine['precision_since']}" in caplog.text


def test_tf32_is_refused_where_there_is_none(tiny: Path) -> None:
    with pytest.raises(KitError, match=r"command line: train\.precision: 'tf32' requires a CUDA device"):
        run(tiny, "train.precision=tf32", "train.device=cpu")


@pytest.mark.parametrize(("name", "setting"), [("fp32", "highest"), ("tf32", "high"), ("bf16", "high")])
def test_products_of_fp32_are_exact_in_fp32_alone(name: str, setting: str) -> None:
    before = torch.get_float32_matmul_precision()
    with Precision(name, "cuda").matmul_precision():
        assert torch.get_float32_matmul_precision() == setting
    assert torch.get_float32_matmul_precision() == before


# --- what can be asked ------------------------------------------------------------------------------------------


def test_diagnostics_are_in_the_metrics_and_change_nothing(tiny: Path) -> None:
    folder = run(tiny, 'train.watch=["updates", "activations", "attention"]', "train.log_every_steps=5")
    lines = [line for line in read_metrics(folder.metrics) if "train/loss" in line]
    for line in lines:
        for name in ("updates/matrix", "updates/embedding", "updates/vector", "activations/max_0", "activations/max_1"):
            assert line[name] > 0
        assert line["attention/max_logit_0"] > 0
        assert 0 <= line["optim/clip_fraction"] <= 1
        assert line["updates/matrix"] < 0.2
    assert losses(folder) == losses(run(tiny, "train.log_every_steps=5"))
    assert not any(name.startswith(("updates", "activations")) for name in lines[0] if not lines)


def test_the_fraction_of_clipped_steps_follows_the_norms(tiny: Path) -> None:
    every = [
        line["optim/grad_norm"] for line in read_metrics(run(tiny, "train.grad_clip=0").metrics) if "train/loss" in line
    ]
    limit = sorted(every)[len(every) // 2]
    folder = run(tiny, f"train.grad_clip={limit}", "train.log_every_steps=5")
    lines = {line["step"]: line for line in read_metrics(folder.metrics) if "train/loss" in line}
    assert 0 < sum(line["optim/clip_fraction"] for line in lines.values()) < len(lines)
    first = run(tiny, f"train.grad_clip={limit}")
    norms = [line["optim/grad_norm"] for line in read_metrics(first.metrics) if "train/loss" in line]
    for begin, end in ((0, 1), (1, 5), (5, 10), (10, 15), (15, 20)):
        share = sum(norm > limit for norm in norms[begin:end]) / (end - begin)
        assert lines[end]["optim/clip_fraction"] == pytest.approx(share)


def test_the_scale_of_fp16_is_in_the_metrics(tiny: Path) -> None:
    lines = [line for line in read_metrics(run(tiny, "train.precision=fp16").metrics) if "train/loss" in line]
    assert {line["optim/loss_scale"] for line in lines} <= {2.0**power for power in range(17)}


def test_a_module_may_offer_metrics(tiny: Path, command: Callable[..., Any]) -> None:
    (tiny.parent / "telling.py").write_text(
        "import torch\nfrom torch import nn\nfrom nanogpt_kit.api import Norm\n\nclass Telling(Norm):\n"
        "    def build(self, ctx):\n        return Scale(ctx.n_embd)\n\nclass Scale(nn.Module):\n"
        "    def __init__(self, n):\n        super().__init__()\n        self.weight = nn.Parameter(torch.ones(n))\n\n"
        "    def forward(self, x):\n        return x * self.weight\n\n"
        "    def logged_metrics(self):\n        return {'gain': self.weight.mean()}\n"
    )
    folder = run(tiny, 'components=["telling.py"]', "model.norm=telling", "train.steps=3")
    lines = [line for line in read_metrics(folder.metrics) if "train/loss" in line]
    assert lines[0]["ln_f/gain"] == pytest.approx(1.0, abs=0.01)
    assert data_root().exists()
