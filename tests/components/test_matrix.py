"""Every combination of the installed parts trains, goes on from a checkpoint to the bit, and never looks ahead."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import Attention, KVCache, ModelContext, RunContext
from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.rng import rng_state, seed_everything, set_rng_state
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.optimizer.adamw import AdamW
from nanogpt_kit.core.registry import KIT_DISTRIBUTION, Registry
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.nn.roles import parameters_by_role
from tests.pairwise import covering

B, T, H, C, L, V, BLOCK = 3, 6, 4, 16, 2, 13, 7
CPU = RunContext(device="cpu", precision="fp32", world_size=1, splits=("train", "val"), block_size=16)

KINDS = ("attention", "position", "norm", "mlp")
NAMES = {
    kind: [entry.name for entry in Registry.installed().of_kind(kind) if entry.distribution == KIT_DISTRIBUTION]
    for kind in KINDS
}
HEADS = {"full": None, "grouped": 2}
Parts = tuple[str, str, str, str, str]


def trains_here(attention: str) -> bool:
    return Registry.installed().load(Attention, attention)().refusal_reason(CPU) is None


TRAINABLE = [name for name in NAMES["attention"] if trains_here(name)]
MATRIX = list(itertools.product(*NAMES.values(), HEADS))


def by_pairs(matrix: list[Parts]) -> Any:
    """All of the matrix; by default some in which any two parts meet."""
    chosen = covering(matrix)
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "parts", [pytest.param(parts, id="-".join(parts), marks=() if parts in chosen else slow) for parts in matrix]
    )


everything = by_pairs(MATRIX)
trainable = by_pairs([parts for parts in MATRIX if parts[0] in TRAINABLE])


def built(parts: Parts, dropout: float, seed: int) -> nn.Module:
    """With weights so large that every part has its say."""
    seed_everything(seed)
    options = {**dict(zip(KINDS, parts[:4], strict=True)), "n_kv_head": HEADS[parts[4]], "dropout": dropout}
    sizes = {"n_layer": L, "n_head": H, "n_embd": C, "block_size": BLOCK}
    model = GPT(**sizes, **options).build(ModelContext(vocab_size=V))
    GPT2(std=0.2).apply(model, parameter_shapes(model))
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


class Training:
    """A real optimizer on batches that are a function of the step."""

    def __init__(self, parts: Parts, seed: int) -> None:
        self.model = built(parts, dropout=0.2, seed=seed).train()
        groups = [
            {"params": found, "role": role, "lr_multiplier": 1.0}
            for role, found in parameters_by_role(self.model).items()
        ]
        self.optimizer = AdamW(lr=1e-2).build(groups)

    def step(self, number: int) -> float:
        tokens = torch.randint(0, V, (B, T + 1), generator=torch.Generator().manual_seed(number))
        loss = self.model(tokens[:, :-1], tokens[:, 1:]) / (B * T)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

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


@trainable
def test_every_combination_trains_and_goes_on_from_a_checkpoint_to_the_bit(parts: Parts, tmp_path: Path) -> None:
    whole = Training(parts, seed=1)
    first = whole.weights()
    losses = [whole.step(0), whole.step(1)]
    path = whole.save(tmp_path, 2)
    losses.append(whole.step(2))
    expected = whole.weights()
    assert torch.tensor(losses).isfinite().all()
    assert not [name for name in first if torch.equal(first[name], expected[name])], "everything is trained"

    resumed = Training(parts, seed=2)
    assert not torch.equal(resumed.weights()["wte.weight"], first["wte.weight"])
    resumed.load(path)
    assert resumed.step(2) == losses[2]
    got = resumed.weights()
    assert got.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(got[name], expected[name])]


@torch.no_grad()
@everything
def test_no_combination_looks_ahead_with_a_cache_or_without(parts: Parts) -> None:
    model = built(parts, dropout=0.0, seed=3).double().eval()  # else rows of a batch differ by their roundings
    ids = torch.randint(0, V, (1, T), generator=torch.Generator().manual_seed(4)).repeat(1 + T, 1)
    for t in range(T):
        ids[1 + t, t] = (ids[1 + t, t] + 1) % V  # row 1 + t is row 0 except for token t
    logits = model(ids)
    cache = KVCache(T)
    cached = torch.cat([model(piece, cache=cache) for piece in ids.split([1, 3, 2], dim=1)], dim=1)
    torch.testing.assert_close(cached, logits, rtol=0, atol=1e-5)
    for found in (logits, cached):
        for t in range(T):
            torch.testing.assert_close(found[1 + t, :t], found[0, :t], rtol=0, atol=1e-6)
            changed = (found[1 + t, t:] - found[0, t:]).abs().amax(dim=-1)
            assert (changed > 1e-4).all(), "and all later ones do see it"


def test_the_matrix_holds_every_installed_part_and_some_of_it_trains() -> None:
    assert len(MATRIX) == len(set(MATRIX)) >= 3 * 4 * 2 * 3 * len(HEADS)
    assert {"naive", "sdpa"} <= set(TRAINABLE)
    assert "flex" not in TRAINABLE, "it would train on a GPU alone"
