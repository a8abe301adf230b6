"""The table of other programs' names: what it suggests exists here, and nanoGPT's options are all in it."""

from __future__ import annotations

import re

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.foreign_component_names import FOREIGN_COMPONENTS, did_you_mean_component
from nanogpt_kit.core.foreign_names import COMMON, FOREIGN_NAMES, HUGGING_FACE, NANOGPT, foreign_option
from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.suggestions import KeySuggestions

TRAIN_PY = (  # the options of nanoGPT's train.py
    *("out_dir", "eval_interval", "log_interval", "eval_iters", "eval_only", "always_save_checkpoint", "init_from"),
    *("wandb_log", "wandb_project", "wandb_run_name", "gradient_accumulation_steps", "batch_size", "block_size"),
    *("n_layer", "n_head", "n_embd", "dropout", "bias", "learning_rate", "max_iters", "weight_decay", "beta1", "beta2"),
    *("grad_clip", "decay_lr", "warmup_iters", "lr_decay_iters", "min_lr", "backend", "device", "dtype", "compile"),
)
SAMPLE_PY = ("start", "num_samples", "max_new_tokens", "temperature", "top_k", "seed")
SECTION = "train|model|optimizer|schedule|evaluate|checkpoint|sample|sampler|dataset|tokenizer"
KEY = re.compile(rf"\b(?:{SECTION})\.[a-z_.]*[a-z]")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Every key that some experiment may have."""
    every = {kind: [entry.name for entry in Registry.installed().of_kind(kind)] for kind in KINDS}
    found: set[str] = set()
    for kind, names in every.items():
        for name in names:
            values = {kind: [{"use": name}] if kind in ("sampler", "callback", "evaluator") else {"use": name}}
            suggestions = KeySuggestions(Experiment, {"model": {"use": "gpt"}, **values}, Registry.installed())
            found |= suggestions.keys.keys()
            found |= {key for answers in suggestions.available.values() for key, _ in answers}
    for kind in ("attention", "position", "norm", "mlp"):
        for name in every[kind]:
            values = {"model": {"use": "gpt", kind: {"use": name}}}
            found |= KeySuggestions(Experiment, values, Registry.installed()).keys.keys()
    return found


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_what_is_suggested_exists(name: str, known: set[str]) -> None:
    key, remark = FOREIGN_NAMES[name]
    assert key or remark
    assert not key or key.partition("=")[0] in known
    keys = [word for word in KEY.findall(remark) if not remark.startswith(f"{word}=")]
    assert [word for word in keys if word not in known] == []


def test_every_option_of_nanogpt_is_in_the_table() -> None:
    missing = [name for name in (*TRAIN_PY, *SAMPLE_PY) if name not in NANOGPT]
    assert missing == []


def test_no_name_means_two_things() -> None:
    assert len(FOREIGN_NAMES) == len(NANOGPT) + len(HUGGING_FACE) + len(COMMON)


@pytest.mark.parametrize("kind", FOREIGN_COMPONENTS)
def test_components_that_are_suggested_exist_and_no_own_name_is_foreign(kind: str) -> None:
    own = {entry.name for entry in Registry.installed().of_kind(kind)}
    names = FOREIGN_COMPONENTS[kind]
    assert [ours for ours, _ in names.values() if ours not in own] == []
    assert [name for name in names if name in own] == []


def test_names_are_found_in_any_spelling() -> None:
    assert foreign_option("--Weight-Decay") == foreign_option("weight_decay") == ("optimizer.weight_decay", "")
    assert did_you_mean_component("optimizer", "AdamW_Torch", ["adamw", "sgd"]).startswith("; did you mean 'adamw'?")


def test_a_section_decides_what_a_name_means() -> None:
    assert foreign_option("steps", "evaluate") == ("evaluate.every_steps", "")
    assert foreign_option("steps", "train") is None


def test_a_component_that_is_not_installed_is_not_suggested() -> None:
    assert "adamw" not in did_you_mean_component("optimizer", "adam", ["mine"])
