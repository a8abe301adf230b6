"""Arms with as many parameters, or FLOPs, as the base: the nearest value of an option, among those that are valid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.nn.flops import model_size
from nanogpt_kit.sweep.ablation import ablation_question
from nanogpt_kit.sweep.arms.matching import nearest_count

WIDER = "model.mlp={use='relu2', width=7.0}"


@given(
    gap=st.integers(1, 12),
    start=st.integers(1, 90),
    power=st.integers(1, 3),
    target=st.integers(1, 3_000_000),
    largest=st.integers(100, 2000),
)
def test_the_nearest_valid_value_is_that_of_a_search_through_all(
    gap: int, start: int, power: int, target: int, largest: int
) -> None:
    def count(value: int) -> float | None:
        return float(3 * value**power + 40) if value % gap == 0 and 0 < value <= largest * gap else None

    tried: list[int] = []

    def counted(value: int) -> float | None:
        tried.append(value)
        return count(value)

    best = min(range(gap, largest * gap + 1, gap), key=lambda value: abs((count(value) or 0) - target))
    found = nearest_count(counted, start * gap, target)
    assert abs((count(found) or 0) - target) == abs((count(best) or 0) - target)
    assert len({value for value in tried if count(value) is not None}) <= 40, "bisection, not a search through all"


def test_an_option_without_effect_keeps_its_value() -> None:
    assert nearest_count(lambda value: 500.0 if value > 0 else None, 7, 900.0) == 7
    assert nearest_count(lambda value: 500.0 if value > 0 else None, 7, 100.0) == 7


def parameters(experiment: Experiment) -> int:
    size = model_size(experiment.model, experiment.tokenizer.known_vocab_size() or 0)
    assert size is not None
    return size.total


def flops(experiment: Experiment) -> float:
    size = model_size(experiment.model, experiment.tokenizer.known_vocab_size() or 0)
    assert size is not None
    assert size.flops_per_token is not None
    return size.flops_per_token


@pytest.mark.parametrize(("what", "count"), [("parameters", parameters), ("flops", flops)])
def test_an_arm_has_the_valid_width_that_is_nearest_to_the_base(
    tiny: Path, what: str, count: Callable[[Experiment], float]
) -> None:
    base = Experiment.load(tiny, [f"ablate.match={what}", "model.n_embd=96"])
    question = ablation_question(base, [WIDER])
    arm, target = question.arms[1], count(base)
    widths = range(66, 96, 3)  # multiples of the three heads; counts grow with the width
    counts = {width: count(base.with_(WIDER, f"model.n_embd={width}")) for width in widths}
    best = min(widths, key=lambda width: abs(counts[width] - target))
    assert 66 < best < 93, "the nearest of all"
    assert arm.experiment.model.n_embd == best  # type: ignore[attr-defined]
    assert arm.changes["model.n_embd"] == ("96", str(best))
    percent = f"{abs(counts[best] / target - 1):.2%}"
    unit = {"parameters": "parameters", "flops": "FLOPs per token"}[what]
    (note,) = question.notes
    assert note.startswith(f"{arm.label}: model.n_embd = {best} instead of 96: {counts[best]:,.0f} {unit}, {percent} ")


def test_an_arm_with_the_counts_of_the_base_is_not_adjusted(tiny: Path) -> None:
    question = ablation_question(
        Experiment.load(tiny, ["ablate.match=parameters"]), ["optimizer.lr=1e-2", "model.mlp=relu2"]
    )
    assert [arm.experiment.model.n_embd for arm in question.arms] == [24, 24, 24]  # type: ignore[attr-defined]
    assert not question.notes


def test_what_stays_far_from_the_base_is_refused_with_the_nearest(tiny: Path) -> None:
    tiny.write_text(tiny.read_text() + '\n[ablate]\nmatch = "parameters"\nmatch_with = "model.n_layer"\n')
    with pytest.raises(KitError) as caught:
        ablation_question(Experiment.load(tiny), ["model.n_embd=36"])
    (fault,) = caught.value.faults
    line = tiny.read_text().splitlines().index('match = "parameters"') + 1
    assert (fault.key, fault.location) == ("ablate.match", f"{tiny}:{line}")
    assert "model.n_embd=36: the nearest is model.n_layer = 1 with " in fault.message
    assert "% more than the base" in fault.message or "% fewer than the base" in fault.message
    assert "another match_with" in fault.message


@pytest.mark.parametrize(
    ("option", "vary", "parts"),
    [
        ("model.n_embd", "model.n_embd=12,36", ("model.n_embd is itself changed by model.n_embd=12",)),
        ("model.n_embed", "model.mlp=swiglu", ("'model.n_embed'", "has no value", "'model.n_embd'")),
        ("model.n_kv_head", "model.mlp=swiglu", ("'model.n_kv_head'", "has no value")),
        ("train.steps", "model.mlp=swiglu", ("'train.steps'", "option of the model", "Allowed: model.block_size")),
        ("model.n_head", WIDER, ("width=7.0}: model.n_head has no effect on the parameters",)),
        ("model.dropout", "model.mlp=swiglu", ("'model.dropout'", "whole number", "0.0")),
    ],
)
def test_an_option_that_cannot_match_is_refused(tiny: Path, option: str, vary: str, parts: tuple[str, ...]) -> None:
    overrides = ["ablate.match=parameters", f"ablate.match_with={option}"]
    with pytest.raises(KitError) as caught:
        ablation_question(Experiment.load(tiny, overrides), [vary])
    (fault,) = caught.value.faults
    assert (fault.key, fault.location) == ("ablate.match_with", "command line")
    assert all(part in fault.message for part in parts)


def test_an_assumed_vocabulary_is_noted(tiny: Path) -> None:
    question = ablation_question(
        Experiment.load(tiny, ["ablate.match=parameters", "tokenizer=char", "model.n_embd=96"]), [WIDER]
    )
    assert question.notes[-1] == "arms were matched with an assumed vocabulary of 256 tokens"
