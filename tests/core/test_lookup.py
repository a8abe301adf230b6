"""What a key or a name may mean."""

from __future__ import annotations

import pytest

from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.found_components import FoundComponent
from nanogpt_kit.core.lookup import Found, FoundKind, FoundOption, all_options, find_by_name
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION


def summary(found: Found) -> str:
    """`optimizer.lr of adamw`, `component norm:rmsnorm`, `kind norm`."""
    if isinstance(found, FoundKind):
        return f"kind {found.kind}"
    if isinstance(found, FoundComponent):
        return f"component {found.entry.kind}:{found.entry.name}"
    return ".".join(found.key) + (f" of {found.entry.name}" if found.entry else "")


def is_built_in(found: Found) -> bool:
    entry = None if isinstance(found, FoundKind) else found.entry
    return entry is None or entry.distribution == KIT_DISTRIBUTION


MEANINGS = {
    "train": ["train"],
    "train.steps": ["train.steps"],
    "sweep.trials": ["sweep.trials"],
    "sweep.space": ["sweep.space"],
    "optimizer": ["optimizer"],
    "optimizer.use": ["optimizer"],
    "optimizer.betas": ["optimizer.betas of adamw"],
    "optimizer.momentum": ["optimizer.momentum of muon", "optimizer.momentum of sgd"],
    "optimizer.adamw": ["component optimizer:adamw"],
    "optimizer.adamw.lr": ["optimizer.lr of adamw"],
    "optimizer.others.betas": ["optimizer.others.betas of adamw"],
    "model.attention": ["model.attention of gpt"],
    "model.norm.eps": ["model.norm.eps of layernorm", "model.norm.eps of rmsnorm"],
    "model.norm.rmsnorm.eps": ["model.norm.eps of rmsnorm"],
    "sampler.0.k": ["sampler.k of top_k"],
    "sampler.top_k.k": ["sampler.k of top_k"],
    "callback.1.every_seconds": ["callback.every_seconds of console"],
    "attention": ["kind attention"],
    "attention.backend": ["model.attention.backend of sdpa"],
    "norm.rmsnorm": ["component norm:rmsnorm"],
    "gpt": ["component model:gpt"],
    "gpt.n_head": ["model.n_head of gpt"],
    "gpt2": ["component init:gpt2", "component tokenizer:gpt2"],
    "gpt2.std": ["init.std of gpt2"],
    "init:gpt2": ["component init:gpt2"],
    "nanogpt-kit/rope": ["component position:rope"],
    "lr": ["optimizer.lr of adamw", "optimizer.lr of muon", "optimizer.lr of sgd"],
    "n_kv_head": ["model.n_kv_head of gpt"],
    "seed": ["train.seed", "evaluator.seed of samples", "sample.seed", "sweep.seed"],
    "keep_best": ["checkpoint.keep_best"],
}


@pytest.mark.parametrize("name", MEANINGS)
def test_a_name_means_all_that_an_experiment_may_mean_by_it(name: str) -> None:
    assert [summary(found) for found in find_by_name(name) if is_built_in(found)] == MEANINGS[name]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("trian", "'train'"),
        ("train.setps", "'train.steps'"),
        ("optimizer.lrr", "'optimizer.lr'"),
        ("optimizer.sgd.betas", "'optimizer.betas'"),
        ("rmsnrom", "'rmsnorm'"),
        ("model.lr", "'"),
        ("0", "`nanogpt-kit explain`"),
        ("", "`nanogpt-kit explain`"),
        ("..", "`nanogpt-kit explain`"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(KitError) as raised:
        find_by_name(name)
    assert f"is named {name!r}" in str(raised.value)
    assert near in str(raised.value)


def test_every_option_is_found_by_its_key() -> None:
    for option in all_options():
        assert option in find_by_name(".".join(option.key)), option.key


def test_every_option_is_found_by_its_last_part_unless_that_names_something_else() -> None:
    for option in all_options():
        found = find_by_name(option.option.name)
        assert option in found or not all(isinstance(one, FoundOption) and len(one.key) > 1 for one in found)


def test_a_component_that_cannot_be_imported_hides_no_other_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [Entry("callback", name, "odd", "1.0", "nothing_of_that_name:Odd") for name in ("temperature", "only")]
    registry = Registry([*Registry.installed().entries, *broken])
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls: registry))
    assert summary(*find_by_name("temperature")) == "component sampler:temperature"
    with pytest.raises(KitError, match="callback 'only' from distribution odd"):
        find_by_name("only")
