"""Every combination of parts trains, continues from a checkpoint to the bit, and never looks ahead.

Parts are the installed ones and those of tests/seams, in all layers or in every other one. By default few combinations
run, in which any two parts meet that can; `-m slow` takes all.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import KVCache, ModelContext, RunContext, TrainingLoss
from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.rng import rng_state, seed_everything, set_rng_state
from nanogpt_kit.components.loss.cross_entropy import CrossEntropy
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.core.kinds import KINDS
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from tests.pairwise import covering
from tests.seams.components.differential import Differential
from tests.seams.components.gated_attention import GatedAttention
from tests.seams.components.mingru import MinGRU
from tests.seams.components.moe import MoE
from tests.seams.components.two_token import TwoToken

B, T, H, C, L, V, BLOCK = 3, 6, 4, 16, 3, 13, 7
CPU = RunContext(device="cpu", precision="fp32", world_size=1, splits=("train", "val"), block_size=16)
OTHERS: dict[str, dict[str, Any]] = {
    "mixer": {"gated": GatedAttention(), "differential": Differential(), "mingru": MinGRU()},
    "mlp": {"moe": MoE(width=1.0)},
    "loss": {"two_token": TwoToken(), "smoothed": CrossEntropy(label_smoothing=0.1, z_loss=0.01)},
}


def parts_of(kind: str) -> dict[str, Any]:
    """The built-in components of a kind and those of the tests, by name."""
    entries = [entry for entry in Registry.installed().of_kind(kind) if entry.distribution == KIT_DISTRIBUTION]
    built_in = {entry.name: Registry.installed().load(KINDS[kind], entry.name)() for entry in entries}
    return {**built_in, **OTHERS.get(kind, {})}


PARTS = {kind: parts_of(kind) for kind in ("mixer", "attention", "position", "norm", "mlp", "loss")}
HEADS = {"full": None, "grouped": 2}
LAYERS = ("alike", "alternating")
AXES = (*PARTS.values(), HEADS, LAYERS)
Names = tuple[str, ...]  # of the parts of a combination


def trains_here(attention: str) -> bool:
    return PARTS["attention"][attention].refusal_reason(CPU) is None


def options(names: Names) -> dict[str, Any]:
    """Of a model; an option that its mixers do not use is left out.

    Where layers alternate, those of odd index have the default parts.
    """
    parts: dict[str, Any] = {kind: PARTS[kind][name] for kind, name in zip(PARTS, names[:-2], strict=True)}
    used, alternating = parts["mixer"].uses, names[-1] == "alternating"
    if alternating or "n_kv_head" in used:
        parts["n_kv_head"] = HEADS[names[-2]]
    if not alternating:
        return {name: part for name, part in parts.items() if name != "attention" or name in used}
    for kind in ("mixer", "attention", "position", "norm", "mlp"):
        if kind in used or kind not in ("attention", "position"):  # else only the softmax of odd layers uses it
            parts[kind] = (parts[kind], PARTS[kind][DEFAULTS[kind]])
    return parts


DEFAULTS = {kind: GPT.model_fields[kind].default for kind in PARTS}
FIRST = tuple(next(iter(axis)) for axis in AXES)


def is_allowed(names: Names) -> bool:
    """Leaves out models that are refused, and those that are another combination under another name."""
    mixer, attention, position, *_, heads, layers = names
    used = PARTS["mixer"][mixer].uses
    if layers == "alternating":
        return True
    acts = getattr(PARTS["position"][position], "acts_in_mixers", False)
    return (
        ("attention" in used or attention == FIRST[1])
        and ("n_kv_head" in used or heads == "full")
        and ("position" in used or not acts)
    )


MATRIX = [names for names in itertools.product(*AXES) if is_allowed(names)]
TRAINABLE = [names for names in MATRIX if trains_here(names[1])]
COVER = covering(MATRIX)
by_mixer_and_attention = pytest.mark.parametrize(("mixer", "attention"), sorted({names[:2] for names in MATRIX}))


def built(names: Names, dropout: float, seed: int) -> nn.Module:
    """With weights so large that every part matters."""
    seed_everything(seed)
    model = GPT(n_layer=L, n_head=H, n_embd=C, block_size=BLOCK, dropout=dropout, **options(names))
    module = model.build(ModelContext(vocab_size=V))
    for parameter in module.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return module


class Training:
    """A real optimizer on batches that are a function of the step."""

    def __init__(self, names: Names, seed: int) -> None:
        self.model = built(names, dropout=0.2, seed=seed).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, weight_decay=0.1)

    def step(self, number: int) -> float:
        tokens = torch.randint(0, V, (B, T + 1), generator=torch.Generator().manual_seed(number))
        objective, loss, _ = TrainingLoss.of(self.model(tokens[:, :-1], tokens[:, 1:]))
        (objective / (B * T)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return objective.item() + loss.item()

    def save(self, folder: Path, number: int) -> Path:
        training = {"optimizer": self.optimizer.state_dict(), "rng": rng_state()}
        return store.save_checkpoint(folder, number, self.model, training, {}, store.Retention(1))

    def load(self, path: Path) -> None:
        training = store.load_training(path)
        store.load_weights(path, self.model)
        self.optimizer.load_state_dict(training["optimizer"])
        set_rng_state(training["rng"])

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def assert_resumes_to_the_bit(names: Names, folder: Path) -> None:
    training = Training(names, seed=1)
    first = training.weights()
    losses = [training.step(0), training.step(1)]
    path = training.save(folder, 2)
    losses.append(training.step(2))
    expected = training.weights()
    assert torch.tensor(losses).isfinite().all()
    assert not [name for name in first if torch.equal(first[name], expected[name])], "every weight is trained"

    resumed = Training(names, seed=2)
    assert not torch.equal(resumed.weights()["wte.weight"], first["wte.weight"])
    resumed.load(path)
    assert resumed.step(2) == losses[2]
    found = resumed.weights()
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


@torch.no_grad()
def assert_causal(names: Names) -> None:
    model = built(names, dropout=0.0, seed=3).double().eval()  # else rows of a batch differ by their roundings
    ids = torch.randint(0, V, (1, T), generator=torch.Generator().manual_seed(4)).repeat(1 + T, 1)
    for t in range(T):
        ids[1 + t, t] = (ids[1 + t, t] + 1) % V  # row 1 + t is row 0 except for token t
    logits = model(ids)
    cache = KVCache(T)
    cached = torch.cat([model(chunk, cache=cache) for chunk in ids.split([1, 3, 2], dim=1)], dim=1)
    torch.testing.assert_close(cached, logits, rtol=0, atol=1e-5)
    for found in (logits, cached):
        for t in range(T):
            torch.testing.assert_close(found[1 + t, :t], found[0, :t], rtol=0, atol=1e-6)
            changed = (found[1 + t, t:] - found[0, t:]).abs().amax(dim=-1)
            assert (changed > 1e-5).all(), "all later tokens attend to it"


@pytest.mark.parametrize("names", covering(TRAINABLE), ids="-".join)
def test_any_two_parts_train_and_continue_from_a_checkpoint_to_the_bit(names: Names, tmp_path: Path) -> None:
    assert_resumes_to_the_bit(names, tmp_path)


@pytest.mark.parametrize("names", COVER, ids="-".join)
def test_no_two_parts_look_ahead_with_a_cache_or_without(names: Names) -> None:
    assert_causal(names)


@pytest.mark.slow
@by_mixer_and_attention
def test_every_combination_trains_and_continues_to_the_bit(mixer: str, attention: str, tmp_path: Path) -> None:
    for index, names in enumerate(names for names in TRAINABLE if names[:2] == (mixer, attention)):
        assert_resumes_to_the_bit(names, tmp_path / str(index))


@pytest.mark.slow
@by_mixer_and_attention
def test_no_combination_looks_ahead(mixer: str, attention: str) -> None:
    for names in (names for names in MATRIX if names[:2] == (mixer, attention)):
        assert_causal(names)


def test_what_the_matrix_leaves_out_is_refused() -> None:
    others = [names for names in itertools.product(*AXES) if not is_allowed(names)]
    kinds = (*PARTS, "n_kv_head")
    for names in covering(others)[::3]:
        parts = {kind: PARTS[kind][name] for kind, name in zip(PARTS, names[:-2], strict=True)}
        given = {**parts, "n_kv_head": HEADS[names[-2]]} if names[-2] == "grouped" else parts
        with pytest.raises(ValueError, match="use another mixer, such as softmax") as caught:
            GPT(n_layer=L, n_head=H, n_embd=C, block_size=BLOCK, **given)
        assert any(kind in str(caught.value) for kind in kinds)


def test_the_matrix_holds_every_part_and_some_of_it_trains() -> None:
    assert {name for names in COVER for name in names} == {name for axis in AXES for name in axis}
    assert {name for name in PARTS["attention"] if trains_here(name)} >= {"naive", "sdpa"}
    assert not trains_here("flex"), "it trains on a GPU alone"
    assert len(TRAINABLE) < len(MATRIX) == len(set(MATRIX))
