"""Compiled or recomputed, a run is the same run; where compiling fails it goes on without."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor import list_mode_options

from nanogpt_kit.checkpoint import store
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.conformance import ignore_torch_warnings
from nanogpt_kit.train import compile as compiling
from nanogpt_kit.train import session
from nanogpt_kit.train.compile import CompileChoice
from nanogpt_kit.train.determinism import restored_determinism
from nanogpt_kit.train.recomputation import checkpoint_activations
from nanogpt_kit.train.trainer import Trainer

pytestmark = [ignore_torch_warnings, pytest.mark.usefixtures("with_dropout")]

CPU = RunContext(device="cpu", precision="bf16", world_size=1, splits=("train", "val"), block_size=16)


def run(tiny: Path, *overrides: str) -> RunFolder:
    return session.run(Experiment.load(tiny, ["callback=[]", "model.dropout=0.0", "train.steps=6", *overrides]))


def losses(folder: RunFolder) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder.metrics) if "train/loss" in line]


def weights(folder: RunFolder) -> Any:
    newest = store.newest_whole_checkpoint(folder.checkpoints)
    assert newest is not None
    return store.read_weights(newest)


@pytest.mark.slow
def test_a_compiled_run_whose_batches_grow_compiles_nothing_after_its_warm_up(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, forbidden = CompileChoice.warm_up, ExitStack()

    def warm_up_then_forbid(*args: Any) -> CompileChoice:
        compiled = real(*args)
        forbidden.enter_context(torch._dynamo.config.patch(error_on_recompile=True))
        return compiled

    monkeypatch.setattr(CompileChoice, "warm_up", warm_up_then_forbid)
    targets = {"train.batch_tokens": 5, "model.block_size": 2}  # 3, 6, 10, 13, 16, 20 windows, the last four not cut
    grown = ", ".join(f'{{use="constant", warmup_steps={n}, target="{target}"}}' for target, n in targets.items())
    options = (f'schedule=[{{use="constant"}}, {grown}]', "train.batch_tokens=320", "train.micro_batch_size=4")
    with forbidden:
        compiled = run(tiny, "train.compile=default", *options)
    assert compiled.status().compile == "default"
    assert losses(compiled) == pytest.approx(losses(run(tiny, "train.compile=off", *options)), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])  # 2 share the windows
def test_a_compiled_run_has_the_same_losses_and_compiles_nothing_after_its_warm_up(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, threads: int
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("nanogpt_kit.train.cores.MIN_SECONDS_PER_CHUNK", 1e-12)
    real = CompileChoice.warm_up

    forbidden = ExitStack()

    def warm_up_then_forbid(*args: Any) -> CompileChoice:
        compiled = real(*args)
        forbidden.enter_context(torch._dynamo.config.patch(error_on_recompile=True))
        return compiled

    monkeypatch.setattr(CompileChoice, "warm_up", warm_up_then_forbid)
    options = ("evaluate.every_steps=3", "checkpoint.every_steps=4", 'train.watch=["activations", "attention"]')
    options = (*options, "train.log_every_steps=2", "train.batch_tokens=80", "train.micro_batch_size=2")  # 2, 2 and 1
    options = (*options, f"train.threads={threads}")
    with forbidden:
        compiled = run(tiny, "train.compile=default", *options)
    assert "compiled in" in caplog.text
    assert "compiling failed" not in caplog.text
    plain = run(tiny, "train.compile=off", *options)
    assert [folder.status().compile for folder in (compiled, plain)] == ["default", "off"]
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-4)
    assert weights(compiled).keys() == weights(plain).keys()
    load_run(compiled.path).generate(["1"], max_new_tokens=3)


@pytest.mark.slow
def test_a_compiled_run_resumes_exactly_and_continues_uncompiled(tiny: Path, assert_same: Callable[..., None]) -> None:
    options = ("train.compile=default", "schedule=constant", "model.dropout=0.1")
    whole = run(tiny, *options, "train.steps=8")
    parts = run(tiny, *options, "train.steps=4")
    longer = ["callback=[]", "train.steps=8", *options]
    session.run(Experiment.load(tiny, longer), resume=str(parts))
    assert_same(weights(parts), weights(whole))
    eager = Experiment.load(tiny, ["callback=[]", "train.steps=9", *options, "train.compile=off"])
    assert session.run(eager, resume=str(parts)).status().step == 9


BROKEN = """\
from torch import nn

from nanogpt_kit.api import MLP


class Broken(MLP):
    def build(self, ctx):
        return Backwards()


class Backwards(nn.Module):
    def forward(self, x):
        import torch

        if torch.compiler.is_compiling():
            raise ValueError("not for compilers")
        return x * 0.5
"""


@pytest.mark.slow
def test_what_cannot_be_compiled_runs_uncompiled(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tiny.parent / "broken.py").write_text(BROKEN, encoding="utf-8")
    folder = run(tiny, "components=['broken.py']", "model.mlp=broken", "train.compile=default")
    assert (folder.status().state, folder.status().compile) == ("finished", "off")
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "compiling failed, and the run continues uncompiled: " in warning.message


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_run_that_compiles_at_once(tiny: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    options = ["callback=['ema']", "train.compile=default", "train.steps=3"]
    monkeypatch.setattr(compiling, "compiler_obstacle", lambda device: None)
    monkeypatch.setattr(CompileChoice, "apply", lambda choice, *_, **__: choice)
    began = time.monotonic()
    accumulate = Trainer.accumulate
    monkeypatch.setattr(Trainer, "accumulate", lambda *_: (os.kill(os.getpid(), getattr(signal, name)), time.sleep(30)))
    with pytest.raises(KeyboardInterrupt, match=name):
        session.run(Experiment.load(tiny, options))
    monkeypatch.setattr(Trainer, "accumulate", accumulate)
    assert time.monotonic() - began < 10
    folder = find_run("tiny").folder
    status = folder.status()
    assert (status.state, status.reason, status.step) == ("interrupted", name, 0)
    assert not folder.checkpoints.exists()
    resumed = session.run(Experiment.load(tiny, options), resume="")
    assert losses(resumed) == losses(session.run(Experiment.load(tiny, [*options, "train.compile=off"])))


def test_a_signal_before_it_compiles_saves_and_compiles_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "compiler_obstacle", lambda device: None)
    monkeypatch.setattr(CompileChoice, "apply", lambda choice, *_: (os.kill(os.getpid(), signal.SIGTERM), choice)[1])
    monkeypatch.setattr(CompileChoice, "warm_up", lambda *_: pytest.fail("it compiles"))
    with pytest.raises(KeyboardInterrupt):
        run(tiny, "train.compile=default")
    assert find_run("tiny").folder.status().state == "interrupted"


def test_without_a_compiler_there_is_one_warning(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    folder = run(tiny, "train.compile=max-autotune")
    assert (folder.status().state, folder.status().compile) == ("finished", "off")
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "no-such-compiler" in warning.message


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it was not measured")
@pytest.mark.parametrize("mode", ["default", "max-autotune"])
def test_on_a_cpu_kernels_are_called_without_pythons_lock(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(compiling, "all_instructions_work", lambda: False)
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: asked.append(options["options"]))
    with restored_determinism():
        CompileChoice(mode, "").apply(nn.Linear(2, 2), CPU, micro_steps=1, equal_steps=True, options_change=False)
    assert asked == [{**list_mode_options(mode), "cpp_wrapper": True}]


def test_recomputed_activations_change_no_weight(tiny: Path, assert_same: Callable[..., None]) -> None:
    plain, recomputed = (run(tiny, "model.dropout=0.1", f"train.activation_checkpointing={told}") for told in
                         ("false", "true"))  # fmt: skip
    assert_same(weights(recomputed), weights(plain))


def test_recomputed_blocks_keep_their_inputs_only(tiny: Path) -> None:
    kept = {}
    for told in ("false", "true"):
        options = ["train.micro_batch_size=auto", f"train.activation_checkpointing={told}", "callback=[]"]
        experiment = Experiment.load(tiny, options)
        model = experiment.model.build(compiling_context())
        if experiment.train.activation_checkpointing:
            checkpoint_activations(model)
        ids = torch.zeros(2, 16, dtype=torch.int64)
        seen: dict[int, int] = {}

        def pack(tensor: torch.Tensor, seen: dict[int, int] = seen) -> torch.Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(ids, ids)
        kept[told] = sum(seen.values())
        loss.backward()
    assert kept["true"] < 0.7 * kept["false"]


def compiling_context() -> Any:
    from nanogpt_kit.core.kinds import ModelContext

    return ModelContext(vocab_size=257)
