"""The experiment that a config file of nanoGPT becomes: it trains as nanoGPT does, by formulas written here."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.interop.nanogpt_text import experiment_of_nanogpt
from nanogpt_kit.nn.initial_weights import build_initialized
from nanogpt_kit.nn.optimizers import build_optimizer
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.train import session

Options = dict[str, Any]
Write = Callable[..., Path]
CHARACTERS = "\n abcdefghij"
SIZES = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 16, "batch_size": 5}
MACHINE = {"device": "cpu", "compile": False}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(n_layer=2)`: a config file that sets these options."""

    def written(**options: Any) -> Path:
        path = tmp_path / "config.py"
        path.write_text("".join(f"{name} = {value!r}\n" for name, value in options.items()), encoding="utf-8")
        return path

    return written


def experiment_of(path: Path, source: str | None = None) -> Experiment:
    Path("mine.toml").write_text(experiment_of_nanogpt(path, "mine", source).text, encoding="utf-8")
    return Experiment.load("mine.toml")


def values_of(path: Path, source: str | None = None) -> dict[str, Any]:
    """The keys that the file sets, as tables."""
    return tomli.loads(experiment_of_nanogpt(path, "mine", source).text)


def faults_of(path: Path) -> list[str]:
    with pytest.raises(KitError) as caught:
        experiment_of_nanogpt(path, "mine")
    return [str(fault).removeprefix(f"{path}:") for fault in caught.value.faults]


def rate_of_nanogpt(it: int, options: Options) -> float:
    """The learning rate of iteration `it`, as train.py sets it: a warmup, half a cosine, then the minimum."""
    peak, low = options["learning_rate"], options["min_lr"]
    warmup, end = options["warmup_iters"], options["lr_decay_iters"]
    if not options["decay_lr"]:
        return float(peak)
    if it < warmup:
        return float(peak * (it + 1) / (warmup + 1))
    if it > end:
        return float(low)
    angle = math.pi * (it - warmup) / (end - warmup)
    return float(low + 0.5 * (1.0 + math.cos(angle)) * (peak - low))


DEFAULTS = {"learning_rate": 6e-4, "min_lr": 6e-5, "warmup_iters": 2000, "lr_decay_iters": 600_000, "decay_lr": True}
SCHEDULES: list[Options] = [
    *({"warmup_iters": warmup, "lr_decay_iters": end} for warmup, end in product((0, 7), (20, 30, 45))),
    {"warmup_iters": 40, "lr_decay_iters": 60},
    {"warmup_iters": 9, "lr_decay_iters": 5},
    {"warmup_iters": 3, "lr_decay_iters": 30, "min_lr": 0.0},
    {"warmup_iters": 3, "lr_decay_iters": 30, "learning_rate": 6e-5},
    {"learning_rate": 3e-3},
    {"decay_lr": False, "learning_rate": 3e-5},
]


@pytest.mark.parametrize("options", SCHEDULES, ids=str)
def test_every_step_has_the_learning_rate_of_train_py(options: Options, write: Write) -> None:
    experiment = experiment_of(write(max_iters=30, **options))
    (schedule,) = experiment.schedules
    assert schedule.target == "optimizer.lr"
    expected = [rate_of_nanogpt(it, DEFAULTS | options) for it in range(30)]
    peak = values_of(write(max_iters=30, **options))["optimizer"]["lr"]
    found = [peak * schedule.multiplier(step, experiment.total_steps) for step in range(30)]
    assert found == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("accumulation", "expected"), [(1, 5 * 16), (7, 7 * 5 * 16)])
def test_a_step_has_the_tokens_of_an_iteration(accumulation: int, expected: int, write: Write) -> None:
    options = {**SIZES, "gradient_accumulation_steps": accumulation, "max_iters": 11}
    experiment = experiment_of(write(**options))
    assert (experiment.tokens(1), experiment.total_steps) == (expected, 11)
    assert experiment.train.micro_batch_size == (None if accumulation == 1 else 5)


def test_the_optimizer_has_nanogpts_betas_and_decays_what_has_two_dimensions(write: Write) -> None:
    options = {**SIZES, "beta1": 0.8, "beta2": 0.97, "weight_decay": 0.3, "learning_rate": 2e-3, "bias": True}
    experiment = experiment_of(write(**options))
    module, shapes = build_initialized(experiment, vocab_size=41)
    groups = build_optimizer(experiment, module, shapes).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert {name: decay[id(parameter)] for name, parameter in module.named_parameters()} == {
        name: 0.3 if parameter.dim() >= 2 else 0.0 for name, parameter in module.named_parameters()
    }
    assert {(tuple(group["betas"]), group["eps"]) for group in groups} == {((0.8, 0.97), 1e-8)}
    names = dict(module.named_parameters())
    assert "h.1.attn.c_attn.bias" in names or any(name.endswith(".bias") for name in names)


def test_a_file_that_sets_nothing_is_the_training_of_train_py(write: Write) -> None:
    assert values_of(write()) == {
        "name": "mine",
        "dataset": {"use": "openwebtext"},
        "tokenizer": {"use": "gpt2"},
        "order": {"use": "random"},
        "model": {"use": "gpt", "n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "bias": False},
        "optimizer": {"use": "adamw", "lr": 6e-4, "betas": [0.9, 0.95], "weight_decay": 0.1},
        "schedule": {"use": "cosine", "warmup_steps": 2000, "final_fraction": 0.1},
        "train": {"steps": 600_000, "batch_tokens": 491_520, "micro_batch_size": 12, "log_every_steps": 1},
        "evaluate": {"every_steps": 2000},
        "checkpoint": {"every_steps": 2000, "keep_last": 1},
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bias": True, "dropout": 0.2}, {"model.bias": None, "model.dropout": 0.2}),
        ({"grad_clip": 0}, {"train.grad_clip": 0.0}),
        ({"log_interval": 10}, {"train.log_every_steps": None}),
        ({"device": "cpu"}, {"train.device": "cpu", "train.precision": "fp32"}),
        ({"device": "cpu", "dtype": "float16"}, {"train.precision": "fp32"}),
        ({"device": "mps"}, {"train.device": "mps", "train.precision": "fp32"}),
        ({"device": "cuda:1"}, {"train.device": None, "train.precision": None}),
        ({"dtype": "float32"}, {"train.precision": "tf32"}),
        ({"dtype": "bfloat16"}, {"train.precision": "bf16"}),
        ({"dtype": "float16"}, {"train.precision": "fp16"}),
        ({"compile": True}, {"train.compile": None}),
        ({"compile": False}, {"train.compile": "off"}),
        ({"eval_interval": 50}, {"evaluate.every_steps": 50, "checkpoint.every_steps": 50}),
        (
            {"always_save_checkpoint": False, "max_iters": 70},
            {"checkpoint.every_steps": 70, "checkpoint.keep_best": "val/loss", "checkpoint.keep_last": 1},
        ),
        ({"eval_only": True}, {"train.steps": 0, "schedule.use": "constant", "sample.num_samples": 0}),
        ({"max_iters": 1e3}, {"train.steps": 1000, "schedule.decay_steps": 600_000}),
        ({"max_iters": 600_000}, {"schedule.decay_steps": None}),
    ],
    ids=str,
)
def test_an_option_becomes_the_key_with_its_meaning(options: Options, expected: Options, write: Write) -> None:
    values = values_of(write(**options))
    assert {key: values.get(table, {}).get(name) for key in expected for table, name in [key.split(".")]} == expected


@pytest.mark.parametrize(
    ("dataset", "use", "tokenizer"),
    [
        ("shakespeare_char", "shakespeare", "char"),
        ("shakespeare", "shakespeare", "gpt2"),
        ("openwebtext", None, "gpt2"),
    ],
)
def test_a_dataset_of_nanogpt_is_the_one_here(dataset: str, use: str | None, tokenizer: str, write: Write) -> None:
    path = write(dataset=dataset)
    values = values_of(path)
    assert (values["dataset"], values["tokenizer"]) == ({"use": use or dataset}, {"use": tokenizer})
    assert values_of(path, "local.txt")["dataset"] == {"use": use or dataset, "source": "local.txt"}


def test_any_other_folder_of_data_is_prepared_data(write: Write, tmp_path: Path) -> None:
    path = write(dataset="mine")
    assert values_of(path)["dataset"] == {"use": "token_files", "source": "data/mine"}
    assert values_of(path, "there")["dataset"] == {"use": "token_files", "source": "there"}
    assert values_of(path)["tokenizer"] == {"use": "gpt2"}
    write_data(tmp_path / "checkout" / "data" / "mine")
    config = tmp_path / "checkout" / "config" / "x.py"
    config.parent.mkdir()
    config.write_text("dataset = 'mine'")
    values = values_of(Path("checkout/config/x.py"))
    assert values["dataset"] == {"use": "token_files", "source": "checkout/data/mine"}
    assert values["tokenizer"] == {"use": "char"}
    assert experiment_of_nanogpt(config, "mine").token_folder == str(tmp_path / "checkout" / "data" / "mine")


def test_prepared_data_that_is_named_replaces_the_text(write: Write, tmp_path: Path) -> None:
    write_data(tmp_path / "tokens")
    assert values_of(write(dataset="openwebtext"), "tokens")["dataset"] == {"use": "token_files", "source": "tokens"}


@pytest.mark.parametrize(
    ("start", "sizes"),
    [
        ("gpt2", (12, 12, 768)),
        ("gpt2-medium", (24, 16, 1024)),
        ("gpt2-large", (36, 20, 1280)),
        ("gpt2-xl", (48, 25, 1600)),
    ],
)
def test_a_published_model_has_its_sizes_its_biases_and_its_gelu(
    start: str, sizes: tuple[int, int, int], write: Write
) -> None:
    path = write(init_from=start, n_layer=3, n_embd=99, bias=False, dropout=0.1, block_size=512)
    model = experiment_of(path).model
    assert (model.n_layer, model.n_head, model.n_embd) == sizes
    assert (model.init_from, model.bias, model.dropout, model.block_size) == (start, True, 0.1, 512)
    assert model.mlp.approximate == "tanh"
    assert "# - n_layer, n_embd, bias: those of the published model count" in Path("mine.toml").read_text()


def test_resuming_starts_from_the_imported_checkpoint(write: Write) -> None:
    found = experiment_of_nanogpt(write(init_from="resume", out_dir="/x/out here"), "mine")
    assert (found.checkpoint, found.imported_as) == ("/x/out here/ckpt.pt", "out-here")
    assert tomli.loads(found.text)["model"]["init_from"] == "out-here"
    assert "`nanogpt-kit import '/x/out here/ckpt.pt' out-here`" in found.text
    assert experiment_of_nanogpt(write(), "mine").checkpoint is None


def test_what_is_left_out_is_named_with_the_reason(write: Write) -> None:
    path = write(eval_iters=3, wandb_log=True, wandb_project="x", backend="gloo", out_dir="o", min_lr=1, decay_lr=False)
    comments = [line for line in experiment_of_nanogpt(path, "mine").text.splitlines() if line.startswith("# - ")]
    named = {line.removeprefix("# - ").partition(":")[0] for line in comments}
    assert named == {"eval_iters", "wandb_log, wandb_project", "backend", "out_dir", "min_lr"}


HOSTILE = "x\n[train]\nsteps = 1 # \x1b[31m\u202e\"'''"


def test_no_text_of_the_file_ends_a_comment_or_a_string(write: Write) -> None:
    path = write(out_dir=HOSTILE, wandb_project=HOSTILE, wandb_run_name=HOSTILE, max_iters=7)
    assert values_of(path) == values_of(write(max_iters=7))
    path = write(dataset='a"b\\c\u202e', max_iters=7)
    assert "\u202e" not in experiment_of_nanogpt(path, "mine").text  # it would reverse the line in an editor
    values = values_of(path)
    assert (values["dataset"]["source"], values["train"]["steps"]) == ('data/a"b\\c\u202e', 7)
    assert faults_of(write(out_dir=HOSTILE, init_from="resume"))[0].startswith("1: out_dir should be the folder of")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_lr": 1e-3}, "1: min_lr = 0.001: it is above learning_rate = 0.0006"),
        ({"learning_rate": 1e-5}, "1: min_lr = 6e-05: it is above learning_rate = 1e-05"),
        ({"init_from": "gpt3"}, "1: init_from = 'gpt3': no such start of the training; did you mean 'gpt2'?"),
        ({"init_from": "gpt2", "block_size": 2048}, "2: block_size = 2048: gpt2 has a context of 1024 tokens"),
        ({"device": "gpu"}, "1: device = 'gpu': no such device"),
        ({"dtype": "bf16"}, "1: dtype = 'bf16': no such type"),
        ({"dataset": ""}, "1: dataset = '': not a folder"),
        ({"dataset": "~/x"}, "1: dataset = '~/x': not a folder"),
        ({"dataset": "$HOME"}, "1: dataset = '$HOME': not a folder"),
        ({"dropout": 1.5}, "1: dropout (model.dropout): should be less than 1"),
        ({"bias": True, "n_embd": 385}, "2: n_embd (model.n_embd): n_embd (385) should be a multiple of n_head (12)"),
        ({"beta2": 2}, "1: beta1, beta2 (optimizer.betas.1): should be less than 1"),
        ({"learning_rate": 0, "min_lr": 0}, "1: learning_rate (optimizer.lr): should be greater than 0"),
        ({"max_iters": -1}, "1: max_iters (train.steps): should be greater than or equal to 0"),
        ({"log_interval": 0}, "1: log_interval (train.log_every_steps): should be greater than or equal to 1"),
        ({"grad_clip": -1}, "1: grad_clip (train.grad_clip): should be greater than or equal to 0"),
        ({"batch_size": 10**15}, "1: batch_size, gradient_accumulation_steps, block_size (train.batch_tokens): "),
    ],
    ids=str,
)
def test_a_value_that_no_experiment_has_is_reported_at_its_line(options: Options, said: str, write: Write) -> None:
    assert [fault[: len(said)] for fault in faults_of(write(**options))] == [said]


def test_faults_of_all_parts_are_reported_at_once(write: Write) -> None:
    assert len(faults_of(write(min_lr=1, init_from="gpt3", device="x", dataset=""))) == 4
    assert len(faults_of(write(dropout=2, beta1=2, max_iters=-1, grad_clip=-1))) == 4


# A run of each


def write_data(folder: Path) -> None:
    """train.bin, val.bin and meta.pkl as a prepare.py of nanoGPT writes them."""
    folder.mkdir(parents=True)
    tokens = np.random.default_rng(5).integers(0, len(CHARACTERS), 3_000).astype("<u2")
    tokens[:2_000].tofile(folder / "train.bin")
    tokens[2_000:].tofile(folder / "val.bin")
    names = dict(enumerate(CHARACTERS))
    meta = {"vocab_size": len(names), "itos": names, "stoi": {name: index for index, name in names.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


TINY = {**SIZES, **MACHINE, "gradient_accumulation_steps": 2, "max_iters": 13, "lr_decay_iters": 10, "warmup_iters": 4}
TINY |= {"learning_rate": 4e-3, "min_lr": 1e-3, "beta1": 0.85, "beta2": 0.97, "weight_decay": 0.2, "eval_interval": 5}


def run_of(path: Path) -> RunFolder:
    return session.run(experiment_of(path).with_("callback=[]", "sample.num_samples=0"))


def test_a_run_has_nanogpts_learning_rates_and_tokens(write: Write, tmp_path: Path) -> None:
    write_data(tmp_path / "data" / "mine")
    lines = (run_of(write(dataset="mine", **TINY)).path / "metrics.jsonl").read_text().splitlines()
    logged = [line for line in map(json.loads, lines) if "optim/lr" in line]
    assert [line["step"] for line in logged] == list(range(1, 14))
    expected = [rate_of_nanogpt(it, DEFAULTS | TINY) for it in range(13)]
    assert [line["optim/lr"] for line in logged] == pytest.approx(expected, rel=1e-11)
    assert [line["tokens"] for line in logged] == [step * 2 * 5 * 16 for step in range(1, 14)]


# train.py of a checkout as it is, which notes what its optimizer has in each step
DRIVER = """\
import json, runpy, sys
import torch
notes, step = [], torch.optim.AdamW.step
def noted(self, *rest, **more):
    groups = self.param_groups
    sizes = [sum(p.numel() for p in group["params"]) for group in groups]
    named = [[g["lr"], list(g["betas"]), g["weight_decay"], g["eps"], n] for g, n in zip(groups, sizes)]
    notes.append(named)
    return step(self, *rest, **more)
torch.optim.AdamW.step = noted
sys.argv = ["train.py", sys.argv[1]]
runpy.run_path("train.py", run_name="__main__")
print("NOTES", json.dumps(notes))
"""


@pytest.mark.slow
@pytest.mark.data
def test_train_py_itself_has_the_same_steps(write: Write, tmp_path: Path) -> None:
    checkout = os.environ.get("NANOGPT_KIT_TEST_NANOGPT")
    if not checkout:
        pytest.skip("NANOGPT_KIT_TEST_NANOGPT does not say where a checkout of nanoGPT is")
    write_data(tmp_path / "data")
    options = {**TINY, "dataset": str(tmp_path / "data"), "out_dir": str(tmp_path / "out"), "eval_iters": 1}
    path = write(**options)
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, str(path)]
    answer = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    assert f"tokens per iteration will be: {2 * 5 * 16}" in answer.stdout
    theirs = json.loads(answer.stdout.partition("NOTES ")[2])
    assert len(theirs) == 13 + 1  # its last update is neither evaluated nor saved

    run = run_of(path)
    logged = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    rates = [line["optim/lr"] for line in logged if "optim/lr" in line]
    assert rates == pytest.approx([groups[0][0] for groups in theirs[:13]], rel=1e-11)

    experiment = experiment_of(path)
    module, shapes = build_initialized(experiment, vocab_size=len(CHARACTERS))
    ours: dict[float, int] = {}
    padding = module.get_parameter("wte.weight").shape[0] - len(CHARACTERS)  # rows that nanoGPT has not
    for group in build_optimizer(experiment, module, shapes).param_groups:
        ours[group["weight_decay"]] = ours.get(group["weight_decay"], 0) + sum(p.numel() for p in group["params"])
        assert [[*group["betas"]], group["eps"]] == [theirs[0][0][1], theirs[0][0][3]]
    ours[0.2] -= padding * SIZES["n_embd"]
    assert ours == {decay: count for _, _, decay, _, count in theirs[0]}


@pytest.mark.slow
@pytest.mark.data
def test_every_config_file_of_nanogpt_is_a_valid_experiment(command: Callable[..., Any]) -> None:
    checkout = os.environ.get("NANOGPT_KIT_TEST_NANOGPT")
    if not checkout:
        pytest.skip("NANOGPT_KIT_TEST_NANOGPT does not say where a checkout of nanoGPT is")
    files = sorted(Path(checkout, "config").glob("*.py"))
    assert len(files) >= 7
    for file in files:
        assert command("new", file.stem, "--from-nanogpt", file).code == 0
        checked = command("check", file.stem)
        assert checked.out == f"{file.stem} is valid\n", checked.err
