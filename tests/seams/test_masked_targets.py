"""Targets that do not count, with conversations whose answers are learnt: means, gradients, ranks, evaluation."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import KitError, MarkedText
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import OrderContext
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.data.batches import Batches
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.testing.dataset import DatasetConformance
from nanogpt_kit.train import session
from nanogpt_kit.train.cores import CoreAllocation
from nanogpt_kit.train.data_record import check_same_data
from nanogpt_kit.train.setup import Placement, Setup
from nanogpt_kit.train.stop import StopSignals
from nanogpt_kit.train.trainer import Trainer
from nanogpt_kit.train.world import World

CONVERSATIONS = Path(__file__).with_name("components") / "conversations.py"
RANKS = Path(__file__).parents[1] / "train" / "ranks.py"
QUIET = ("sample.num_samples=0", "model.dropout=0.0", "tokenizer=byte", "train.log_every_steps=1")
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def conversation(n: int) -> list[dict[str, str]]:
    """A question, its answer of 1 to 10 words, and a last question without an answer."""
    word, count = WORDS[n % 10], n // 10 % 10 + 1
    asked = {"role": "user", "content": f"Say {word} {count} times."}
    answer = {"role": "assistant", "content": " ".join([word] * count)}
    return [asked, answer, {"role": "user", "content": "Thanks" + "!" * (n % 4)}]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": conversation(n)}) + "\n" for n in range(120)), encoding="utf-8")
    return path


def options(source: Path, *more: str) -> list[str]:
    return [*QUIET, f"components=['{CONVERSATIONS}']", "dataset.use=conversations", f"dataset.source={source}", *more]


def experiment(tiny: Path, source: Path, *more: str) -> Experiment:
    return Experiment.load(tiny, options(source, "callback=[]", *more))


def run(tiny: Path, source: Path, *more: str, resume: str | None = None) -> RunFolder:
    return session.run(experiment(tiny, source, *more), resume=resume)


def logged(folder: RunFolder, metric: str) -> list[float]:
    return [line[metric] for line in read_metrics(folder.metrics) if metric in line]


def trainer(tiny: Path, source: Path, *more: str, chunks: int = 1) -> Trainer:
    one = experiment(tiny, source, "train.grad_clip=0", *more)
    (tiny.parent / "by-hand").mkdir(exist_ok=True)
    ctx = RunContext(device="cpu", precision="fp32", world_size=1, splits=("train", "val"), block_size=16)
    setup = Setup(one, Placement(World(), ctx, ""), prepare(one), CoreAllocation(chunks, 1, 1))
    made = Trainer(setup, RunFolder(tiny.parent / "by-hand"), StopSignals())
    made.model.train()
    return made


def answered(tokens: np.ndarray) -> list[bool]:
    """From the bytes alone: a token counts from behind "assistant:" to the end of that line."""
    text = bytes(np.where(tokens < 256, tokens, 0).astype(np.uint8))
    flags = [False] * len(text)
    at = text.find(b"assistant:")
    while at >= 0:
        first = at + len(b"assistant:")
        end = text.index(b"\n", first) + 1
        flags[first:end] = [True] * (end - first)
        at = text.find(b"assistant:", end)
    return flags


def plain_loss(model: nn.Module, ids: Tensor, starts: np.ndarray, tokens: np.ndarray) -> tuple[Tensor, int]:
    """The sum over the counted tokens only, one by one, and their number."""
    flags, logs = answered(tokens), model(ids).log_softmax(-1)
    losses = [
        -logs[row, place, int(tokens[start + place + 1])]
        for row, start in enumerate(starts.tolist())
        for place in range(ids.shape[1])
        if flags[start + place + 1]
    ]
    return torch.stack(losses).sum(), len(losses)


# --- gradients --------------------------------------------------------------------------------------------------

WAYS: dict[str, tuple[int, tuple[str, ...]]] = {
    "all at once": (1, ("train.micro_batch_size=5",)),
    "micro-batches of 1": (1, ("train.micro_batch_size=1",)),
    "two threads": (2, ("train.micro_batch_size=5",)),
    "documents apart": (1, ("train.micro_batch_size=2", "model.document_mask=true")),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_that_of_a_sum_over_the_counted_tokens(tiny: Path, source: Path, way: str) -> None:
    chunks, more = WAYS[way]
    one = trainer(tiny, source, *more, chunks=chunks)
    batch, tokens = one.batches.at(0), one.data.tokens("train")
    segments = {} if batch.segments is None else {"segments": batch.segments}

    def model(ids: Tensor) -> Tensor:
        return one.model(ids, **segments)

    total, count = plain_loss(model, batch.ids, batch.starts, tokens)  # type: ignore[arg-type]
    assert 0 < count < batch.targets.numel()
    assert batch.all_tokens == count
    expected = torch.autograd.grad(total / count, list(one.model.parameters()), materialize_grads=True)
    for _ in range(2):  # the chunks of the second are computed in threads
        one.optimizer.zero_grad()
        means = one.accumulate(batch)
        assert means["train/loss"].item() == pytest.approx(total.item() / count, rel=1e-6)
        for parameter, gradient in zip(one.model.parameters(), expected, strict=True):
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(found, gradient, rtol=0, atol=1e-6)


def test_text_that_no_counted_token_sees_changes_nothing(tiny: Path, source: Path, tmp_path: Path) -> None:
    """What follows the last answer of a conversation, in windows that each begin with one."""
    other = tmp_path / "other.jsonl"
    other.write_text(source.read_text(encoding="utf-8").replace("Thanks", "Wrong!"), encoding="utf-8")
    more = ("model.block_size=96", "train.batch_tokens=480", "model.document_mask=true", "order=sequential")
    found = []
    for text in (source, other):
        one = trainer(tiny, text, *more, f"name={text.stem}")
        batch = one.batches.at(0)
        means = one.accumulate(batch)
        found.append((batch, means, [parameter.grad for parameter in one.model.parameters()]))
    (batch, means, gradients), (changed, other_means, other_gradients) = found
    assert not torch.equal(batch.ids, changed.ids)
    assert torch.equal(batch.targets, changed.targets)
    assert torch.equal(means["train/loss"], other_means["train/loss"])
    for one_gradient, other_gradient in zip(gradients, other_gradients, strict=True):
        assert one_gradient is not None
        assert torch.equal(one_gradient, other_gradient)


def test_a_step_in_which_nothing_counts_has_no_gradient_and_a_loss_of_zero(tiny: Path, long_questions: Path) -> None:
    path = long_questions
    more = ("order=sequential", "train.steps=6", "optimizer.weight_decay=0", "train.micro_batch_size=2")
    one = trainer(tiny, path, *more, "train.batch_tokens=80", "schedule=constant")
    steps = [one.batches.at(step) for step in range(6)]
    empty = [step for step, batch in enumerate(steps) if not batch.all_tokens]
    assert 1 <= len(empty) <= 5
    one.optimizer.zero_grad()
    assert one.accumulate(steps[empty[0]])["train/loss"].item() == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in one.model.parameters())
    folder = run(tiny, path, *more, "train.batch_tokens=80", "schedule=constant")
    losses, fractions = logged(folder, "train/loss"), logged(folder, "train/counted_fraction")
    assert [step for step, loss in enumerate(losses) if loss == 0] == empty
    assert fractions == [batch.all_tokens / 80 for batch in steps]
    assert [step for step, norm in enumerate(logged(folder, "optim/grad_norm")) if norm == 0] == empty
    assert all(math.isfinite(loss) for loss in losses)


@pytest.fixture
def long_questions(tmp_path: Path) -> Path:
    """Most windows are of a question only; that of the last conversation counts."""
    path = tmp_path / "long.jsonl"
    talk = [{"role": "user", "content": "word " * 60}, {"role": "assistant", "content": "yes"}]
    path.write_text((json.dumps({"messages": talk}) + "\n") * 9 + json.dumps({"messages": talk[::-1]}) + "\n")
    return path


def test_auxiliary_losses_are_those_of_all_windows_of_a_step_whatever_its_micro_batches(
    tiny: Path, long_questions: Path
) -> None:
    moe = CONVERSATIONS.with_name("moe.py")
    parts = ("model.mlp={use='moe', width=1.0, balance=0.0, z_loss=0.3}", "order=sequential", "train.batch_tokens=80")
    found = []
    for size in (1, 5):
        more = (*parts, f"components=['{CONVERSATIONS}', '{moe}']", f"train.micro_batch_size={size}")
        one = trainer(tiny, long_questions, *more)
        batches = [one.batches.at(step) for step in range(9)]
        partly = next(batch for batch in batches if 0 < (batch.targets >= 0).any(1).sum() < 5)
        found.append(one.accumulate(partly)["aux/router_z"].item())
        nothing = next(batch for batch in batches if not batch.all_tokens)
        assert not any(value.item() for value in one.accumulate(nothing).values())
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_callback_may_set_targets_where_no_token_counts(tiny: Path, long_questions: Path) -> None:
    (tiny.parent / "all.py").write_text(
        "from nanogpt_kit.api import Callback, hookimpl\n\nclass All(Callback):\n    def build(self, run):\n"
        "        return self.Hook()\n\n    class Hook:\n        @hookimpl\n        def batch_ready(self, batch):\n"
        "            batch.targets[:] = 7\n"
    )
    more = ("train.steps=2", "order=sequential", f"components=['{CONVERSATIONS}', 'all.py']", "callback=['all']")
    folder = session.run(Experiment.load(tiny, options(long_questions, *more)))
    assert logged(folder, "train/counted_fraction") == []
    assert all(logged(folder, "train/loss"))


# --- ranks and resuming -----------------------------------------------------------------------------------------


def batches_of(one: Experiment, rank: int = 0, size: int = 1) -> Batches:
    split = prepare(one).split("train")
    ctx = OrderContext(
        n_tokens=len(split.tokens),
        block_size=one.model.block_size,
        first_window=0,
        batch_windows=one.step_plan.at(0).n_windows,
        seed=1,
        documents=split.document_starts,
        has_eot=True,
    )
    return Batches(split, one.order, ctx, one.step_plan, rank=rank, world_size=size)


@pytest.mark.parametrize("order", ["shuffled", "documents"])
@pytest.mark.parametrize("n_windows", [5, 7])
def test_every_rank_knows_how_many_tokens_of_all_count(tiny: Path, source: Path, n_windows: int, order: str) -> None:
    one = experiment(tiny, source, f"train.batch_tokens={16 * n_windows}", f"order={order}")
    for size in (1, 2, 3, 4):
        batches = [batches_of(one, rank, size) for rank in range(size)]
        for step in range(9):
            here = [each.at(step) for each in batches]
            assert {batch.all_tokens for batch in here} == {sum(int((batch.targets >= 0).sum()) for batch in here)}


def test_documents_that_are_packed_count_in_part(tiny: Path, source: Path) -> None:
    """Each run of targets is an answer, wherever its conversation is in a window."""
    one = experiment(tiny, source, "model.block_size=128", "train.batch_tokens=640", "order=documents")
    answers = {f" {conversation(n)[1]['content']}\n".encode() for n in range(120)}
    found = set()
    for step in range(9):
        batch = batches_of(one).at(step)
        for row in batch.targets.tolist():
            runs = bytes(max(target, 0) for target in row).split(b"\0")
            found |= {run for run in runs if run}
    assert found <= answers
    assert len(found) > 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its ranks")
@pytest.mark.parametrize(
    "ways", [[(2, "ddp")], pytest.param([(3, "ddp"), (2, "fsdp")], marks=pytest.mark.slow)], ids=["two", "others"]
)
def test_any_number_of_ranks_trains_alike_on_uneven_counts(
    tiny: Path, source: Path, ways: list[tuple[int, str]]
) -> None:
    more = options(source, "train.steps=3", "train.grad_clip=0", "train.batch_tokens=80", "train.micro_batch_size=2")
    wanted = [
        {"file": str(tiny), "size": size, "gradients": True, "overrides": [*more, f"parallel={kind}", f"name=of{size}"]}
        for size, kind in [(1, "single"), *ways]
    ]
    command = [sys.executable, "-P", str(RANKS)]
    done = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    alone, *others = json.loads(done.stdout.splitlines()[-1])
    assert alone["codes"] == [0], alone["ranks"][0].get("told")
    whole = RunFolder(Path(alone["ranks"][0]["folder"]))
    for answer in others:
        folder = RunFolder(Path(answer["ranks"][0]["folder"]))
        assert logged(folder, "train/counted_fraction") == logged(whole, "train/counted_fraction")
        for metric in ("train/loss", "val/loss", "val/bits_per_byte"):
            assert logged(folder, metric) == pytest.approx(logged(whole, metric), rel=1e-6), metric
        for found, expected in zip(answer["ranks"][0]["gradients"], alone["ranks"][0]["gradients"], strict=True):
            assert found == pytest.approx(expected, abs=1e-6)


def test_a_run_that_was_stopped_resumes_exactly(tiny: Path, source: Path) -> None:
    more = ("schedule.use=constant", "train.threads=1", "model.dropout=0.1", "checkpoint.every_steps=3")
    whole, part = run(tiny, source, *more, "train.steps=9"), run(tiny, source, *more, "train.steps=5")
    resumed = run(tiny, source, *more, "train.steps=9", resume=str(part.path))
    assert resumed.path == part.path
    for metric in ("train/loss", "optim/grad_norm", "train/counted_fraction"):
        assert logged(resumed, metric) == logged(whole, metric)
        assert len(logged(whole, metric)) == 9
    assert logged(resumed, "val/loss")[-1] == logged(whole, "val/loss")[-1]


def test_a_run_does_not_continue_with_other_marks(tiny: Path, source: Path) -> None:
    """The tokens are the same, and so is what the run would resume from."""
    folder, data = run(tiny, source, "train.steps=0"), prepare(experiment(tiny, source))
    check_same_data(folder, data)
    record = data.splits["train"]
    assert record.counted is not None
    other = record.model_copy(update={"counted": record.counted.model_copy(update={"sha256": "0" * 64})})
    splits = {**data.manifest.splits, "train": other}
    changed = replace(data, manifest=data.manifest.model_copy(update={"splits": splits}))
    with pytest.raises(KitError, match=r"was trained on other marks than .*, and cannot continue with these"):
        check_same_data(folder, changed)


# --- mistakes, and the documentation ----------------------------------------------------------------------------


NO_CONVERSATIONS = [
    '{"text": "no messages"}',
    '{"messages": [{"role": "user"}]}',
    '{"messages": [{"role": "assistant", "content": null}]}',
    '{"messages": [{"role": "user", "content": [{"type": "text", "text": "a part"}]}]}',
    "[1, 2]",
]


@pytest.mark.parametrize("line", NO_CONVERSATIONS)
def test_a_line_that_is_no_conversation_is_named(tiny: Path, source: Path, line: str) -> None:
    source.write_text(f"{json.dumps({'messages': conversation(1)})}\n{line}\n", encoding="utf-8")
    with pytest.raises(KitError, match=f"{source}:2: a conversation should be ") as refused:
        prepare(experiment(tiny, source))
    assert '"messages": [{"role": "user", "content": "..."}, ...]' in str(refused.value)


def test_the_page_shows_the_component_and_what_it_makes_of_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (CONVERSATIONS.parents[3] / "docs" / "guide" / "masked-targets.md").read_text(encoding="utf-8")
    (code, _), (toml,), (line,), (text,) = (  # the second one in Python is quoted from the kit
        re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        for language in ("python", "toml", "jsonl", "text")
    )
    assert code == CONVERSATIONS.read_text(encoding="utf-8")
    (tmp_path / "conversations.py").write_text(code, encoding="utf-8")
    (tmp_path / "chats.jsonl").write_text(line * 2, encoding="utf-8")
    (tmp_path / "chats.toml").write_text(toml, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    dataset = Experiment.load("chats.toml", trust_code=True).dataset
    document = next(dataset.all_documents())  # type: ignore[attr-defined]
    assert isinstance(document, MarkedText)
    assert document.text == text
    assert [document.text[first:end] for first, end in document.counted] == [" 4\n"]
    assert document.counts_end


def test_the_component_passes_the_suite_of_datasets(tiny: Path, source: Path) -> None:
    dataset = experiment(tiny, source).dataset
    written = {"use": "conversations", **dataset.model_dump()}
    members = {"component": dataset, "written": lambda self: written}
    suite = type("Suite", (DatasetConformance,), members)()
    for name in vars(DatasetConformance):
        if name.startswith("test_") and "token" not in name and "vocabulary" not in name:
            getattr(suite, name)()


# --- evaluation -------------------------------------------------------------------------------------------------


def test_evaluation_measures_the_counted_tokens(tiny: Path, source: Path) -> None:
    folder = run(tiny, source, "train.steps=3", "evaluator=['loss', 'bits_per_byte']", "evaluate.batch_size=3")
    data, model = prepare(experiment(tiny, source)), load_run(folder).model
    tokens = data.tokens("val")
    flags, nats = answered(tokens), 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 16):
            ids = torch.from_numpy(tokens[start : start + 16].astype(np.int64))[None]
            logs = model(ids)[0].double().log_softmax(-1)
            for place, target in enumerate(tokens[start + 1 : start + 17].tolist()):
                nats -= logs[place, target].item() * flags[start + place + 1]
    assert logged(folder, "val/loss")[-1] == pytest.approx(nats / sum(flags), rel=1e-5)
    assert logged(folder, "val/bits_per_byte")[-1] == pytest.approx(nats / math.log(2) / sum(flags), rel=1e-5)


def test_answers_are_learnt_and_questions_are_not(tiny: Path, source: Path) -> None:
    """An answer repeats a word of its question; what is asked next cannot be learnt from answers alone."""
    size = ("model.block_size=64", "train.batch_tokens=512")
    folder = run(tiny, source, *size, "train.steps=40", "optimizer.lr=0.02", "schedule=constant")
    model, tokens = load_run(folder).model, prepare(experiment(tiny, source, *size)).tokens("val").astype(np.int64)
    n = (len(tokens) - 1) // 64 * 64
    with torch.no_grad():
        logs = model(torch.from_numpy(tokens[:n]).view(-1, 64)).log_softmax(-1).flatten(0, 1)
    losses, counts = -logs[range(n), tokens[1 : n + 1]], torch.tensor(answered(tokens)[1 : n + 1])
    assert losses[~counts].mean() > 2 * losses[counts].mean()
