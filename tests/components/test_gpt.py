"""GPT: with its default parts it is GPT-2, checked against a plain transformer; and what its own options do."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.model import gpt as gpt_module
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import ModelContext
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.nn import loss as loss_module
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.nn.parts import ResidualLinear
from nanogpt_kit.nn.roles import parameters_by_role
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session

B, T, C, H, L, V = 2, 11, 24, 3, 4, 37


def reference_logits(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """GPT-2 from its equations, one head and one position at a time."""
    x = weights["wte.weight"][ids] + weights["position.wpe.weight"][: ids.size(1)]
    for layer in range(L):
        at = f"h.{layer}."

        def linear(x: Tensor, name: str, at: str = at) -> Tensor:
            y = x @ weights[at + name + ".weight"].T
            return y + weights[at + name + ".bias"] if at + name + ".bias" in weights else y

        normed = normalised(x, weights, at + "ln_1")
        qkv = linear(normed, "attn.c_attn")
        heads = []
        for head in range(H):
            size = C // H
            q, k, v = (qkv[..., part * C + head * size : part * C + (head + 1) * size] for part in range(3))
            rows = []
            for t in range(ids.size(1)):
                scores = torch.einsum("bd,bsd->bs", q[:, t], k[:, : t + 1]) / math.sqrt(size)
                powers = torch.exp(scores - scores.max(-1, keepdim=True).values)  # exp of more than 88 is infinite
                rows.append(torch.einsum("bs,bsd->bd", powers / powers.sum(-1, True), v[:, : t + 1]))
            heads.append(torch.stack(rows, 1))
        x = x + linear(torch.cat(heads, -1), "attn.c_proj")
        inner = linear(normalised(x, weights, at + "ln_2"), "mlp.c_fc")
        inner = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
        x = x + linear(inner, "mlp.c_proj")
    return normalised(x, weights, "ln_f") @ weights["wte.weight"][:V].T


def normalised(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    y = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * weights[name + ".weight"]
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def built(**options: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"n_layer": L, "n_head": H, "n_embd": C, "block_size": 13}
    model = GPT(**{**sizes, **options}).build(ModelContext(vocab_size=V))
    GPT2().apply(model, parameter_shapes(model))
    for parameter in model.parameters():  # gains of one and biases of zero would hide mistakes
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


IDS = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["sdpa", "naive"])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_equal_a_plain_gpt2(bias: bool, attention: str) -> None:
    model = built(bias=bias, attention=attention)
    torch.testing.assert_close(model(IDS), reference_logits(dict(model.named_parameters()), IDS), rtol=0, atol=1e-5)


def test_head_and_embedding_are_one_tensor() -> None:
    model = built()
    assert model.lm_head.weight is model.wte.weight


def test_initial_weights_are_gpt2s() -> None:
    torch.manual_seed(0)
    model = GPT(n_layer=L, n_head=4, n_embd=256, block_size=64, bias=True).build(ModelContext(vocab_size=512))
    GPT2().apply(model, parameter_shapes(model))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            expected = 0.02 / math.sqrt(2 * L) if isinstance(module, ResidualLinear) else 0.02
            assert module.weight.std().item() == pytest.approx(expected, rel=0.03), name
        if isinstance(module, nn.Linear) and module.bias is not None:
            assert not module.bias.any(), name
    loss = model(IDS, IDS.roll(-1, 1)) / IDS.numel()
    assert loss.item() == pytest.approx(math.log(512), abs=0.2)


def test_dropout_drops_in_training_only() -> None:
    model = built(dropout=0.5)
    assert torch.equal(model(IDS), model(IDS))
    model.train()
    assert not torch.equal(model(IDS), model(IDS))


# --- grouped heads ----------------------------------------------------------------------------------------------


def test_heads_that_do_not_divide_are_named(tiny: Path) -> None:
    with pytest.raises(KitError, match=r"model\.n_kv_head: n_head \(3\) should be a multiple of n_kv_head \(2\)"):
        Experiment.load(tiny, ["model.n_kv_head=2"])
    with pytest.raises(KitError, match=r"n_embd \(25\) should be a multiple of n_head \(3\)"):
        Experiment.load(tiny, ["model.n_embd=25"])
    assert Experiment.load(tiny, ["model.n_kv_head=1"]).model.n_kv_head == 1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n_kv_head", [1, 2, 3])
@pytest.mark.parametrize("attention", ["sdpa", "naive"])
def test_grouped_heads_are_full_heads_that_share_keys_and_values(attention: str, n_kv_head: int, bias: bool) -> None:
    sizes = {"n_head": 6, "attention": attention, "bias": bias, "position": "rope", "qk_norm": True}
    grouped, full = built(n_kv_head=n_kv_head, **sizes), built(**sizes)
    D, weights = C // 6, grouped.state_dict()
    for name in [name for name in weights if "c_attn" in name]:
        q, *keys_and_values = weights[name].split([C, n_kv_head * D, n_kv_head * D])
        repeated = [x.unflatten(0, (n_kv_head, D)).repeat_interleave(6 // n_kv_head, 0) for x in keys_and_values]
        weights[name] = torch.cat([q, *(x.flatten(0, 1) for x in repeated)])
    full.load_state_dict(weights)
    torch.testing.assert_close(grouped(IDS), full(IDS), rtol=0, atol=1e-5)
    assert grouped.h[0].attn.c_attn.weight.shape == (C + 2 * n_kv_head * D, C)


@torch.no_grad()
def test_queries_and_keys_are_turned_by_the_same_positions() -> None:
    model, seen = built(position="rope"), []
    attn = model.h[0].attn
    for part in attn.c_attn.parameters():
        part[C : 2 * C] = part[:C]  # keys are made as queries are
    attn.attention.register_forward_pre_hook(lambda module, args: seen.extend(args[:2]))
    model(IDS)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)


# --- norms of queries and keys, soft-cap ------------------------------------------------------------------------


def largest_score(model: nn.Module) -> float:
    """Of any query with any key, in any block."""
    scores: list[Tensor] = []
    for block in model.h:
        block.attn.attention.register_forward_pre_hook(
            lambda module, args: scores.append((args[0] @ args[1].mT).abs().max() / math.sqrt(args[0].size(-1)))
        )
    model(IDS)
    assert len(scores) == L
    return max(score.item() for score in scores)


@torch.no_grad()
@pytest.mark.parametrize("position", ["learned", "rope"])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_with_qk_norm_scores_are_bounded_however_large_the_weights(norm: str, position: str) -> None:
    bound = math.sqrt(C / H)  # of a query and a key, each of length sqrt(D) at most, divided by sqrt(D)
    found = {}
    for qk_norm in (False, True):
        model = built(qk_norm=qk_norm, norm=norm, position=position, bias=False)
        for block in model.h:
            block.attn.c_attn.weight.mul_(100)
            for gain in [*block.attn.q_norm.parameters(), *block.attn.k_norm.parameters()]:
                gain.fill_(1.0)
        found[qk_norm] = largest_score(model)
    assert found[False] > 10 * bound
    assert 0.5 * bound < found[True] <= bound * (1 + 1e-5)


def test_qk_norm_has_gains_of_its_own_for_queries_and_for_keys() -> None:
    attn = built(qk_norm=True, bias=False).h[1].attn
    assert attn.q_norm.weight.shape == attn.k_norm.weight.shape == (C // H,)
    assert attn.q_norm.weight is not attn.k_norm.weight
    assert not list(built().h[1].attn.q_norm.parameters())


@torch.no_grad()
def test_queries_have_the_gain_of_q_norm_and_keys_that_of_k_norm() -> None:
    model = built(qk_norm=True, norm="rmsnorm", position="none")
    attn = model.h[1].attn
    attn.q_norm.weight.fill_(3.0)
    attn.k_norm.weight.fill_(5.0)
    given: list[Tensor] = []
    attn.attention.register_forward_pre_hook(lambda _, inputs: given.extend(inputs[:2]))
    model(IDS)
    for vectors, gain in zip(given, (3.0, 5.0), strict=True):
        size = vectors.square().mean(-1).sqrt()
        torch.testing.assert_close(size, torch.full_like(size, gain), rtol=1e-3, atol=0)


@torch.no_grad()
def test_a_soft_cap_bends_the_logits_and_the_loss_with_them() -> None:
    model = built(weight_tying=False)
    capped = built(weight_tying=False, logit_softcap=2.5)
    for each in (model, capped):
        each.lm_head.weight.mul_(30)
    logits, targets = model(IDS), IDS.roll(-1, 1)
    assert logits.abs().max() > 10
    assert capped(IDS).abs().max() <= 2.5
    torch.testing.assert_close(capped(IDS), 2.5 * torch.tanh(logits / 2.5))
    picked = capped(IDS).log_softmax(-1).gather(2, targets[..., None])
    torch.testing.assert_close(capped(IDS, targets), -picked.sum())


# --- head and vocabulary ----------------------------------------------------------------------------------------


def test_untied_head_and_embedding_are_two_tensors() -> None:
    model = built(weight_tying=False)
    assert model.lm_head.weight.shape == model.wte.weight.shape == (64, C)
    assert model.lm_head.weight.data_ptr() != model.wte.weight.data_ptr()
    assert parameters_by_role(model)["head"] == [model.lm_head.weight]
    before = model(IDS)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    torch.testing.assert_close(model(IDS), 2 * before)


@pytest.mark.parametrize("weight_tying", [True, False])
@pytest.mark.parametrize(("multiple", "rows"), [(1, 37), (8, 40), (37, 37), (64, 64)])
def test_padded_rows_add_no_logit_and_no_loss(multiple: int, rows: int, weight_tying: bool) -> None:
    exact = built(vocab_multiple=1, weight_tying=weight_tying)
    padded = built(vocab_multiple=multiple, weight_tying=weight_tying)
    assert padded.wte.weight.shape == padded.lm_head.weight.shape == (rows, C)
    with torch.no_grad():
        for name, parameter in padded.named_parameters():
            own = exact.get_parameter(name)
            parameter.fill_(9.0)
            parameter[: len(own)] = own
    targets = IDS.roll(-1, 1)
    assert padded(IDS).shape == (B, T, V)
    torch.testing.assert_close(padded(IDS), exact(IDS), rtol=0, atol=1e-5)
    torch.testing.assert_close(padded(IDS, targets), exact(IDS, targets))
    padded(IDS, targets).backward()
    assert not padded.lm_head.weight.grad[V:].any()
    assert padded.lm_head.weight.grad[:V].any(dim=1).all()


def test_a_model_trains_the_same_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for logits in (loss_module.CHUNK_LOGITS, 3 * 64):
        monkeypatch.setattr(loss_module, "CHUNK_LOGITS", logits)
        model = built(logit_softcap=5.0)
        model(IDS, IDS.roll(-1, 1)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


# --- what cannot be ---------------------------------------------------------------------------------------------


def test_an_attention_that_cannot_train_here_is_refused_with_a_remedy(tiny: Path, command: Callable[..., Any]) -> None:
    options = ["model.attention=flex", "model.dropout=0.0"]
    experiment = Experiment.load(tiny, options)
    cpu = RunContext(device="cpu", precision="fp32", world_size=1, splits=experiment.dataset.splits, block_size=16)
    told = r'model\.attention: flex has no backward pass on cpu; use attention = "sdpa"'
    with pytest.raises(KitError, match=told):
        experiment.check_context(cpu)
    experiment.check_context(dataclasses.replace(cpu, device="cuda"))
    answer = command("run", tiny, *options, "train.device=cpu")
    assert answer.code == 2
    assert re.search(told, " ".join(answer.err.split()))
    assert not (tiny.parent / "runs").exists()


def test_flex_refuses_dropout() -> None:
    parts = GPT(n_layer=1, n_head=H, n_embd=C, attention="flex", dropout=0.1)
    with pytest.raises(
        KitError, match=r'flex has no dropout, and model\.dropout is 0\.1; set it to 0\.0, or use .*"sdpa"'
    ):
        parts.build(ModelContext(vocab_size=V))


def test_the_model_names_no_component_but_as_the_default_of_a_slot() -> None:
    tree = ast.parse(inspect.getsource(gpt_module))
    kinds, registry = ("attention", "position", "norm", "mlp"), Registry.installed()
    entries = [entry for kind in kinds for entry in registry.of_kind(kind) if entry.distribution == KIT_DISTRIBUTION]
    named = {entry.name for entry in entries} | {entry.target.partition(":")[2].lower() for entry in entries}
    slots = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "slot"]
    assert sorted(ast.literal_eval(slot.args[0]) for slot in slots) == sorted(
        ["cross_entropy", "gelu", "layernorm", "learned", "sdpa", "softmax"]
    )
    excused = {id(slot.args[0]) for slot in slots}
    for node in ast.walk(tree):
        words = [value for field, value in ast.iter_fields(node) if field in ("id", "attr", "name", "asname", "arg")]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in excused:
            words.append(node.value)
        if isinstance(node, ast.ImportFrom):
            words += (node.module or "").split(".")
        found = named & {word.lower().rpartition(".")[2] for word in words if isinstance(word, str)}
        assert not found, f"line {getattr(node, 'lineno', 0)} names {found}"


# --- documents that share a window ------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "naive", "flex"])
def test_documents_in_one_window_are_as_if_alone(attention: str) -> None:
    model = built(attention=attention, position="none")  # positions are told from the window's beginning
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2], [0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2]])
    with torch.no_grad():
        together = model(IDS, segments=segments)
        for row in range(B):
            for segment in range(3):
                at = segments[row] == segment
                alone = model(IDS[row : row + 1, at])
                torch.testing.assert_close(together[row : row + 1, at], alone, rtol=0, atol=1e-6)


def test_one_segment_is_the_plain_causal_model() -> None:
    model = built()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS, segments=torch.zeros_like(IDS)), model(IDS), rtol=0, atol=1e-6)


def test_a_run_keeps_documents_apart_in_training_and_evaluation(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(f'{{"text": "document {number} says so"}}\n' for number in range(300))
    tiny.with_name("lines.jsonl").write_text(lines)
    options = [f"dataset.source={tiny.with_name('lines.jsonl')}", "callback=[]", "train.steps=3"]
    seen: list[tuple[bool, Tensor | None]] = []
    forward = gpt_module.Transformer.forward

    def spied(self: nn.Module, ids: Tensor, targets: Any = None, cache: Any = None, segments: Any = None) -> Tensor:
        if targets is not None:
            seen.append((self.training, segments))
            if segments is not None:
                opens = (ids == 256) & (targets >= 0)  # the last end of a split opens nothing
                assert torch.equal(segments.diff(dim=1), opens[:, 1:].long())
        return forward(self, ids, targets, cache, segments)

    monkeypatch.setattr(gpt_module.Transformer, "forward", spied)
    masked = next(read_metrics(session.run(Experiment.load(tiny, [*options, "model.document_mask=true"])).metrics))
    assert {(training, segments is None) for training, segments in seen} == {(True, False), (False, False)}
    plain = next(read_metrics(session.run(Experiment.load(tiny, options)).metrics))
    assert masked["train/loss"] != plain["train/loss"]


def test_a_model_that_cannot_keep_documents_apart_says_so(tiny: Path) -> None:
    code = (
        inspect.getsource(gpt_module).replace("segments: Tensor | None = None,", "").replace("segments, slopes", "None")
    )
    tiny.with_name("mine.py").write_text(code.replace("class GPT(Model)", "class Mine(Model)").replace("GPT", "Mine"))
    options = ["components=['mine.py']", "model.use=mine", "model.n_head=3", "model.n_embd=24", "model.block_size=16"]
    experiment = Experiment.load(tiny, [*options, "model.document_mask=true"])
    with pytest.raises(KitError, match=r"model\.document_mask: mine cannot keep documents apart: its forward takes no"):
        session.run(experiment)
