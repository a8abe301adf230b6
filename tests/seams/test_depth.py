"""Depth: lists of parts that are repeated over the layers, and parts that read the index of their layer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import Attention, KVCache, LayerContext, ModelContext, Position, View
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.nn.flops import model_size, num_params
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.sweep.space.endpoints import check_endpoints
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.train import session
from tests.seams.components.inverse_layer_scores import InverseLayerScores

B, T, C, H, L, V, CONTEXT = 2, 11, 24, 3, 6, 37, 13
D = C // H
SSSL = [{"use": "sdpa", "window": 3}, {"use": "sdpa", "window": 3}, {"use": "naive", "window": 3}, "sdpa"]
WINDOWS = (3, 3, 3, T, 3, 3)  # of layers 0 to 5: the list of four is repeated
IDS = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))
COMPONENT = 'components=["inverse_layer_scores.py"]'


def built(**options: Any) -> nn.Module:
    """A model in float64 whose weights are all random, for evaluation; slopes and naive's softmax stay in float32."""
    torch.manual_seed(0)
    sizes = {"n_layer": L, "n_head": H, "n_embd": C, "block_size": CONTEXT}
    model = GPT(**{**sizes, **options}).build(ModelContext(vocab_size=V))
    GPT2().apply(model, parameter_shapes(model))
    for parameter in model.parameters():  # gains of one and biases of zero would hide mistakes
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model.double().eval()


def position(name: str, **options: Any) -> nn.Module:
    ctx = LayerContext(
        n_embd=C, n_head=H, n_kv_head=H, head_dim=D, n_layer=L, block_size=CONTEXT, dropout=0.0, bias=True
    )
    return Registry.installed().load(Position, name)(**options).build(ctx).double()


def reference_logits(
    weights: dict[str, Tensor],
    windows: Sequence[int] = (T,) * L,
    positions: Sequence[nn.Module] = (),
    divisors: Sequence[int] = (1,) * L,
) -> Tensor:
    """A plain transformer with one mask, one position and one divisor of scores for each layer."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normalised(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        gain, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * gain + bias

    x, steps = weights["wte.weight"][IDS], torch.arange(T)
    for name in ("position.wpe.weight", "position1.wpe.weight"):
        x = x + weights[name][:T] if name in weights else x
    for layer in range(L):
        distance = steps[:, None] - steps[None]  # (T, T) from query to key
        hidden = (distance < 0) | (distance >= windows[layer])
        qkv = linear(normalised(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn")
        q, k, v = (part.view(B, T, H, D).transpose(1, 2) for part in qkv.split(C, dim=-1))
        slopes = None
        if positions:
            q, k = (positions[layer].rotate(part, steps[None]) for part in (q, k))
            slopes = positions[layer].slopes()
        scores = q @ k.transpose(-1, -2) / math.sqrt(D) / divisors[layer]
        if slopes is not None:
            scores = scores - slopes[:, None, None] * distance
        mixed = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).reshape(B, T, C), f"h.{layer}.attn.c_proj")
        inner = linear(normalised(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
        x = x + linear(0.5 * inner * (1 + torch.erf(inner / math.sqrt(2))), f"h.{layer}.mlp.c_proj")
    return normalised(x, "ln_f") @ weights["wte.weight"][:V].T


def cached_logits(model: nn.Module, chunks: Sequence[int]) -> Tensor:
    cache, parts = KVCache(CONTEXT), []
    for ids in IDS.split(list(chunks), dim=1):
        parts.append(model(ids, cache=cache))
    return torch.cat(parts, dim=1)


def run(tiny: Path, *overrides: str, resume: str | None = None) -> Path:
    quiet = ["callback=[]", "sample.num_samples=0", f"model.n_layer={L}"]
    return session.run(Experiment.load(tiny, [*quiet, *overrides], trust_code=True), resume).path


def losses(folder: Path) -> list[Any]:
    return [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]


# Windows of two lengths


def test_windows_by_turns_equal_a_plain_transformer_with_a_mask_for_each_layer() -> None:
    model = built(attention=SSSL)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), reference_logits(model.state_dict(), WINDOWS), rtol=0, atol=1e-6)
        assert not torch.allclose(model(IDS), reference_logits(model.state_dict(), (3, 3, T, 3, 3, 3)))


@pytest.mark.parametrize("chunks", [(T,), (1,) * T, (5, 1, 5)])
def test_windows_by_turns_give_the_same_logits_from_a_cache(chunks: tuple[int, ...]) -> None:
    model = built(attention=SSSL)
    with torch.no_grad():
        torch.testing.assert_close(cached_logits(model, chunks), model(IDS), rtol=0, atol=1e-6)


def test_a_run_with_windows_by_turns_resumes_to_the_bit_and_samples(tiny: Path) -> None:
    windows = 'model.attention=[{use="sdpa", window=5}, {use="sdpa", window=5}, {use="sdpa", window=5}, "sdpa"]'
    constant = ("schedule=constant", "checkpoint.every_steps=2", windows)
    whole = run(tiny, *constant, "name=whole", "train.steps=4")
    part = run(tiny, *constant, "train.steps=2")
    assert losses(run(tiny, *constant, "train.steps=4", resume=str(part))) == losses(whole)
    assert losses(whole) != losses(run(tiny, *constant[:2], "name=full", "train.steps=4"))
    (text,) = load_run(str(part)).generate("3 times", max_new_tokens=20)  # beyond windows and context
    assert len(text) > len("3 times")


# Parts that read the index of their layer


def test_a_part_that_reads_its_layer_equals_a_plain_transformer() -> None:
    model = built(attention=InverseLayerScores())
    expected = reference_logits(model.state_dict(), divisors=range(1, L + 1))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(cached_logits(model, (4, 1, 6)), expected, rtol=0, atol=1e-6)


def test_a_part_that_reads_its_layer_knows_it_within_a_list() -> None:
    model = built(attention=["naive", InverseLayerScores(attention={"use": "naive", "window": 4})])
    expected = reference_logits(model.state_dict(), (T, 4) * 3, divisors=(1, 2, 1, 4, 1, 6))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), expected, rtol=0, atol=1e-6)


def test_a_local_component_that_reads_its_layer_trains_and_resumes_to_the_bit(tiny: Path) -> None:
    source = Path(__file__).with_name("components") / "inverse_layer_scores.py"
    (tiny.parent / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    options = (COMPONENT, 'model.attention=["inverse_layer_scores"]', "schedule=constant", "checkpoint.every_steps=2")
    whole = run(tiny, *options, "name=whole", "train.steps=4")
    part = run(tiny, *options, "train.steps=2")
    assert losses(run(tiny, *options, "train.steps=4", resume=str(part))) == losses(whole)


def test_the_documented_component_is_the_one_that_is_tested_here() -> None:
    page = Path(__file__).parents[2] / "docs" / "guide" / "depth.md"
    block, stack = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "documented"}
    exec(compile(block, str(page), "exec", dont_inherit=True), names)
    documented, tested = built(attention=names["InverseLayerScores"]()), built(attention=InverseLayerScores())
    assert torch.equal(documented(IDS), tested(IDS))
    exec(compile(stack, str(page), "exec", dont_inherit=True), names)
    ctx = LayerContext(
        n_embd=C, n_head=H, n_kv_head=H, head_dim=D, n_layer=4, block_size=T, dropout=0.0, bias=True, layer=3
    )
    model = names["Stack"](mlp=["gelu", "relu2"])
    assert repr(model.build_layer(ctx)) == repr(model.mlp[1].build(ctx)) != repr(model.mlp[0].build(ctx))
    with pytest.raises(ValueError, match="mlp has 5 elements, of which n_layer"):
        names["Stack"](mlp=["gelu"] * 5)


def test_the_documented_experiments_are_valid(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "guide" / "depth.md"
    whole, space = re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (tmp_path / "base.toml").write_text(whole, encoding="utf-8")
    (tmp_path / "sweep.toml").write_text(
        f'extends = "base.toml"\n[model]\nattention = "sdpa"\n{space}', encoding="utf-8"
    )
    attention = Experiment.load(tmp_path / "base.toml").resolved()["model"]["attention"]
    assert [part.get("window") for part in attention] == [32, 32, 32, None]
    check_endpoints(Space(Experiment.load(tmp_path / "sweep.toml")))


# Positions


@pytest.mark.parametrize(
    "names",
    [("rope", "none"), ("alibi", "none", "rope"), ("learned", "none"), ("none", "learned", "learned")],
    ids=" ".join,
)
def test_positions_by_turns_equal_a_plain_transformer(names: tuple[str, ...]) -> None:
    model = built(position=list(names))
    weights = {key.replace("position2", "position"): value for key, value in model.state_dict().items()}
    expected = reference_logits(weights, positions=[position(names[layer % len(names)]) for layer in range(L)])
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(cached_logits(model, (4, 1, 6)), model(IDS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "naive"])
def test_slopes_of_some_layers_are_not_in_the_masks_of_others(attention: str) -> None:
    model = built(position=["alibi", "none"], attention={"use": attention, "window": 4})
    expected = reference_logits(model.state_dict(), (4,) * L, [position("alibi"), position("none")] * 3)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(cached_logits(model, (4, 1, 6)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sdpa", "naive"])
def test_slopes_of_two_positions_give_two_masks(name: str) -> None:
    ctx = LayerContext(n_embd=C, n_head=H, n_kv_head=H, head_dim=D, n_layer=L, block_size=T, dropout=0.0, bias=True)
    module = Registry.installed().load(Attention, name)().build(ctx)
    q, k, v = torch.randn(3, B, H, T, D, generator=torch.Generator().manual_seed(2))
    view, slopes = View.causal(torch.arange(T)[None]), torch.tensor([0.5, 1.0, 2.0])
    first = module(q, k, v, view.with_slopes(slopes))
    second = module(q, k, v, view.with_slopes(3 * slopes))
    assert not torch.allclose(first, second)
    assert torch.equal(second, module(q, k, v, View.causal(torch.arange(T)[None]).with_slopes(3 * slopes)))


def test_two_rotations_have_bases_of_their_own() -> None:
    model = built(position=["rope", {"use": "rope", "base": 100.0}])
    positions = [position("rope"), position("rope", base=100.0)] * 3
    with torch.no_grad():
        expected = reference_logits(model.state_dict(), positions=positions)
        torch.testing.assert_close(model(IDS), expected, rtol=0, atol=1e-6)
        assert not torch.allclose(built(position="rope")(IDS), expected)


def test_a_model_is_relative_where_all_its_positions_are() -> None:
    assert GPT(position=["rope", "none"]).relative
    assert not GPT(position=["rope", "learned"]).relative


def test_cropping_shortens_every_position() -> None:
    model = built(position=["learned", "none", "learned"])
    model.crop(7)
    assert [tuple(model.get_submodule(name).wpe.weight.shape) for name in ("position", "position2")] == [(7, C)] * 2


def test_parameters_of_all_positions_are_left_out_of_the_count() -> None:
    model = built(position=["learned", "none", "learned"])
    assert num_params(model, non_embedding=False) - num_params(model) == 2 * CONTEXT * C


# Lists of one, and sizes


@pytest.mark.parametrize("slot", ["mixer", "attention", "position", "norm", "mlp"])
def test_a_list_of_one_is_the_component_alone(slot: str) -> None:
    default = getattr(GPT(), slot)
    one, alone = built(**{slot: [default]}), built(**{slot: default})
    assert list(one.state_dict()) == list(alone.state_dict())
    assert torch.equal(one(IDS, IDS), alone(IDS, IDS))


def test_a_run_with_lists_of_one_has_the_losses_of_the_components_alone(tiny: Path) -> None:
    lists = ('model.attention=["sdpa"]', 'model.norm=["layernorm"]', 'model.mlp=["gelu"]', 'model.position=["learned"]')
    assert losses(run(tiny, "train.steps=2", *lists)) == losses(run(tiny, "train.steps=2", "name=alone"))


def test_each_layer_of_a_list_counts_in_the_size_of_the_model() -> None:
    def size(mlp: Any, n_layer: int) -> tuple[int, float]:
        found = model_size(GPT(n_layer=n_layer, n_head=H, n_embd=C, block_size=CONTEXT, mlp=mlp), V)
        assert found is not None
        assert found.flops_per_token is not None
        return found.total, found.flops_per_token

    narrow = {"use": "gelu", "width": 2.0}
    sizes = size(["gelu", "gelu", narrow], 5), size("gelu", 4), size(narrow, 2), size(narrow, 1), size("gelu", 5)
    for mixed, four, two, one, five in zip(*sizes, strict=True):  # layer 2 is narrow, layers 0, 1, 3 and 4 are not
        assert mixed == pytest.approx(four + two - one)
        assert mixed < five
