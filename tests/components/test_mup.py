"""mup: gpt2 at its base width; in wider models the factors of Yang et al. 2022, arXiv:2203.03466, table 8."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.api import Init, KitError, ModelContext, Multipliers, Optimizer, ParameterShape
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.init.mup import MuP
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.optimizer.adamw import AdamW
from nanogpt_kit.components.optimizer.muon import Muon
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.nn.initial_weights import shapes_with_base
from nanogpt_kit.nn.parameter_groups import parameter_groups
from nanogpt_kit.nn.parameter_shapes import parameter_shapes
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session

V, T = 37, 13
HEADS = 2
ADAMW, MUON, ORIGINAL = AdamW(lr=3e-3), Muon(lr=5e-2), Muon(lr=5e-2, adjust="original")


def model_of(width: int, **options: Any) -> GPT:
    return GPT(**{"n_layer": 2, "n_head": HEADS, "n_embd": width, "block_size": T, **options})


def initialized(
    init: Init, model: GPT, optimizer: Optimizer = ADAMW, seed: int = 0
) -> tuple[Any, dict[str, ParameterShape]]:
    module = model.build(ModelContext(vocab_size=V, multipliers=init.multipliers(model)))
    shapes = shapes_with_base(init, model, optimizer, module, V)
    torch.manual_seed(seed)
    init.apply(module, shapes)
    return module, shapes


PARTS = {
    "default": {},
    "untied": {"weight_tying": False, "bias": False},
    "grouped": {"n_head": 4, "n_kv_head": 2, "qk_norm": True, "mlp": "swiglu", "position": "rope"},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("optimizer", [ADAMW, MUON, ORIGINAL], ids=["adamw", "muon", "original"])
def test_at_base_width_it_is_gpt2_to_the_bit(parts: dict[str, Any], optimizer: Optimizer) -> None:
    model, init = model_of(48, **parts), MuP(base_width=48)
    ours, shapes = initialized(init, model, optimizer)
    theirs, own = initialized(GPT2(), model)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert init.multipliers(model) == Multipliers()
    groups, others = parameter_groups(init, ours, shapes), parameter_groups(GPT2(), theirs, own)
    assert [(g["role"], g["lr_multiplier"], len(g["params"])) for g in groups] == [
        (g["role"], g["lr_multiplier"], len(g["params"])) for g in others
    ]


def test_a_run_at_base_width_has_the_losses_of_gpt2(tiny: Path) -> None:
    options = ["callback=['console']", "sample.num_samples=0", "train.steps=6", "schedule=constant"]
    runs = [
        session.run(Experiment.load(tiny, [*options, *more])) for more in ([], ["init.use=mup", "init.base_width=24"])
    ]
    losses = [
        [(row.get("train/loss"), row.get("val/loss"), row.get("optim/grad_norm")) for row in read_metrics(run.metrics)]
        for run in runs
    ]
    assert len(losses[0]) > 6
    assert losses[0] == losses[1]


RATES = {  # of adamw, muon and muon as originally adjusted, in a model of four times the width
    "wte.weight": (1, 1, 1),
    "position.wpe.weight": (1, 1, 1),
    "lm_head.weight": (1, 1, 1),
    "ln_f.weight": (1, 1, 1),
    "h.0.attn.c_attn.bias": (1, 1, 1),
    "h.0.attn.c_attn.weight": (1 / 4, 1 / 2, 1),
    "h.1.attn.c_proj.weight": (1 / 4, 1 / 2, 1),
    "h.1.mlp.c_fc.weight": (1 / 4, 1 / 2, 1),
    "h.1.mlp.c_proj.weight": (1 / 4, 1 / 2, 1),
}


@pytest.mark.parametrize(
    ("index", "optimizer"), list(enumerate([ADAMW, MUON, ORIGINAL])), ids=["adamw", "muon", "original"]
)
def test_learning_rates_are_those_of_the_paper(index: int, optimizer: Optimizer) -> None:
    """Of Adam table 8's; Muon's steps have a spectral norm of 1, or with match_rms_adamw of sqrt(width)."""
    init = MuP(base_width=16)
    _, shapes = initialized(init, model_of(64, weight_tying=False), optimizer)
    assert {name: init.lr_multiplier(shapes[name]) for name in RATES} == {name: r[index] for name, r in RATES.items()}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_matrices_begin_smaller_and_everything_else_as_in_the_base_model(tied: bool) -> None:
    module, _ = initialized(MuP(base_width=64, std=0.05), model_of(256, weight_tying=tied))
    writers = 2 * 2  # layers that add to the residual stream
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
        else:
            expected = 0.05 * (0.5 if name.startswith("h.") else 1) * (writers**-0.5 if "c_proj" in name else 1)
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name


def shape(role: Any, fan_out: int, fan_in: int, base_fan_out: int, base_fan_in: int) -> ParameterShape:
    own = nn.Module()
    own.weight = nn.Parameter(torch.empty(fan_out, fan_in))
    base = nn.Module()
    base.weight = nn.Parameter(torch.empty(base_fan_out, base_fan_in))
    return parameter_shapes(own, base, ADAMW)["weight"]


def test_a_matrix_follows_the_sides_that_grow() -> None:
    """Yang et al. 2022, table 3: variance 1 / fan_in² and Adam's rate 1 / fan_in of a matrix with a finite fan_out."""
    init = MuP(base_width=8)
    of_router, of_latents = shape("matrix", 5, 32, 5, 8), shape("matrix", 32, 5, 8, 5)
    assert (init.std_multiplier(of_router), init.lr_multiplier(of_router)) == (1 / 4, 1 / 4)
    assert (init.std_multiplier(of_latents), init.lr_multiplier(of_latents)) == (1, 1)


def test_attention_scores_fall_as_the_head_size_and_logits_as_the_width() -> None:
    for width, heads, base_heads in ((64, 2, None), (64, 8, 2), (64, 4, 8), (8, 2, None)):
        base_width = 16
        init, model = MuP(base_width=base_width, base_n_head=base_heads), model_of(width, n_head=heads)
        size, base = width / heads, base_width / (base_heads or heads)
        found = init.multipliers(model)
        assert found.queries / math.sqrt(size) == pytest.approx(math.sqrt(base) / size)  # 1/sqrt(D) at base
        assert found.logits == base_width / width
        assert found.embeddings == 1


@torch.no_grad()
@pytest.mark.parametrize("parts", [{}, {"weight_tying": False}], ids=["tied", "untied"])
def test_the_network_applies_the_multipliers(parts: dict[str, Any]) -> None:
    """It computes what one without multipliers does, whose weights contain them."""
    model, multipliers = model_of(24, position="none", **parts), Multipliers(embeddings=3.0, queries=0.7, logits=0.25)
    torch.manual_seed(0)
    module: Any = model.build(ModelContext(vocab_size=V, multipliers=multipliers)).eval()
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    ids = torch.randint(0, V, (2, T))
    found = module(ids)

    plain: Any = model_of(24, position="none", weight_tying=False).build(ModelContext(vocab_size=V)).eval()
    plain.load_state_dict(module.state_dict())
    plain.wte.weight.mul_(3.0)
    for block in plain.h:
        block.attn.c_attn.weight[:24].mul_(0.7)  # the rows of the queries
        block.attn.c_attn.bias[:24].mul_(0.7)
    plain.ln_f.weight.mul_(0.25)
    plain.ln_f.bias.mul_(0.25)
    torch.testing.assert_close(found, plain(ids))
    assert (found - model.build(ModelContext(vocab_size=V))(ids)).abs().max() > 0.1
    targets = ids.roll(-1, 1)
    loss = nn.functional.cross_entropy(found.flatten(0, 1), targets.flatten(), reduction="sum")
    for mode in (True, False):
        torch.testing.assert_close(module.train(mode)(ids, targets), loss)


def features_change(init: Init, optimizer: Optimizer, width: int) -> float:
    """The mean change of the features before the last norm in four steps."""
    module, shapes = initialized(init, model_of(width), optimizer)
    built = optimizer.build(parameter_groups(init, module, shapes))
    for group in built.param_groups:
        group["lr"] *= group["lr_multiplier"]
    ids = torch.randint(0, V, (4, T), generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def features() -> Tensor:
        x: Tensor = module.features(ids, module.view(ids, None, None), None, {})
        return x

    before = features()
    for _ in range(4):
        built.zero_grad()
        (module(ids, ids.roll(-1, 1)) / ids.numel()).backward()
        built.step()
    return (features() - before).abs().mean().item()


@pytest.mark.parametrize("optimizer", [ADAMW, MUON, ORIGINAL], ids=["adamw", "muon", "original"])
def test_features_learn_equally_fast_in_models_of_all_widths(optimizer: Optimizer) -> None:
    growth = [features_change(init, optimizer, 128) / features_change(init, optimizer, 32) for init in INITS]
    assert growth[0] == pytest.approx(1, abs=0.25)
    assert growth[1] > 1.6


INITS = (MuP(base_width=32), GPT2())
WIDE = ["init.use=mup", "init.base_width=12"]


@pytest.mark.parametrize(
    ("options", "key", "value", "remedy"),
    [
        (["init.use=mup"], "init.base_width", "missing", "n_embd of the model"),
        (["init.use=mup", "init.base_width=10"], "init.base_width", "(10)", "the nearest is 9"),
        (["init.use=mup", "init.base_width=10"], "init.base_width", "model.n_head (3)", "set init.base_n_head"),
        ([*WIDE, "init.base_n_head=5"], "init.base_width", "(12)", "the nearest is 10"),
        (
            [*WIDE, "model.n_head=4", "model.n_kv_head=2", "init.base_n_head=3"],
            "init.base_n_head",
            "(3)",
            "model.n_head / model.n_kv_head (2)",
        ),
        ([*WIDE, "init.base_n_head=4", "model.position=rope"], "init", "rope", "its base model"),
        ([*WIDE, "optimizer.use=sgd"], "init", "step_norm", "choose adamw or muon"),
        ([*WIDE, "optimizer.use=muon", "optimizer.others=sgd"], "init", "step_norm", "choose adamw or muon"),
    ],
)
def test_what_does_not_suit_it_is_refused(
    tiny: Path, options: list[str], key: str, value: str, remedy: str, check: Any
) -> None:
    with pytest.raises(KitError) as caught:
        check(Experiment.load(tiny, options))
    (fault,) = caught.value.faults
    assert (fault.key, fault.location) == (key, "command line")
    assert value in fault.message
    assert remedy in fault.message


@pytest.fixture
def check() -> Any:
    from nanogpt_kit.train.before_data import check_without_running

    return lambda experiment: check_without_running(experiment, 1)


MODEL = '''\
"""A model without parts."""

from torch import nn

from nanogpt_kit.api import Field, Model


class Bigram(Model):
{body}
    def build(self, ctx):
        return nn.Embedding(ctx.vocab_size, ctx.vocab_size)
'''


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", ("n_embd", "choose another init")),
        ('    n_embd: int = Field(24, description="width")\n', ("logits 0.5", "applies_multipliers = True")),
    ],
    ids=["no width", "no multipliers"],
)
def test_a_model_that_it_cannot_scale_is_refused(tmp_path: Path, tiny: Path, body: str, words: tuple[str, ...]) -> None:
    file = tmp_path / "bigram.py"
    file.write_text(MODEL.format(body=body), encoding="utf-8")
    options = [f"components=['{file}']", "model.use=bigram", "model.block_size=16", *WIDE]
    with pytest.raises(KitError) as caught:
        Experiment.load(tiny, options, trust_code=True)
    (fault,) = caught.value.faults
    assert (fault.key, fault.location) == ("init.use", "command line")
    assert all(word in fault.message for word in words)
