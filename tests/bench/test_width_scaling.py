"""Real models at several widths: plain ones change faster where they are wider, those of muP do not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.bench import width_scaling
from nanogpt_kit.bench.width_scaling import measure_widths
from nanogpt_kit.bench.width_slopes import WidthScaling
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.train import session

MUP = ("init.use=mup", "init.base_width=12")
SMALL = ("model.dropout=0.0", "train.threads=1")


def measure_tiny(tiny: Path, *overrides: str, widths: tuple[int, ...] = (12, 24, 48)) -> WidthScaling:
    options = [*SMALL, "train.batch_tokens=512", "optimizer.lr=5e-3", *overrides]
    return measure_widths(Experiment.load(tiny, options), widths, steps=4, seeds=1)


def worst_change(scaling: WidthScaling) -> float:
    """The largest magnitude of a slope of a change, logits apart."""
    return max(abs(place.change_slope or 0.0) for place in scaling.places if place.name != "logits")


def test_a_plain_init_grows_with_the_width_and_mup_hardly_does(tiny: Path) -> None:
    """Widths this small have slopes of up to 0.2 in muP, too, since averages over features are not yet exact."""
    plain, adapted = measure_tiny(tiny), measure_tiny(tiny, *MUP)
    assert [place.name for place in plain.places] == [
        *("input", "h.0.attn", "h.0.mlp", "h.0", "h.1.attn", "h.1.mlp", "h.1", "ln_f", "logits", "loss")
    ]
    assert not plain.is_within
    assert not plain.has_base_width
    assert adapted.has_base_width
    assert worst_change(plain) > 1.0
    assert worst_change(adapted) < 0.4
    by_name = {place.name: place for place in plain.places}
    same = {place.name: place for place in adapted.places}
    assert all(same[name].sizes[0] == by_name[name].sizes[0] for name in same), "the base width is the plain model"
    assert by_name["h.0.mlp"].start_slope == pytest.approx(1.0, abs=0.15), "0.02 whatever the width, twice"
    assert all((place.start_slope or 0.0) < 0.15 for place in adapted.places)


def test_a_step_of_the_check_is_one_of_a_run(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the experiment's own first batch, before the first step, is what a run logs there."""
    monkeypatch.setattr(width_scaling, "PROBE_TOKENS", 80)
    scaling = measure_widths(Experiment.load(tiny, SMALL), (24, 27), steps=1, seeds=1)
    assert scaling.batch_tokens == 80, "its own, which is small"
    run = session.run(Experiment.load(tiny, [*SMALL, "train.steps=1", "evaluator=[]", "callback=[]"]))
    logged = run.metrics.read_text(encoding="utf-8").splitlines()[0]
    loss = next(place for place in scaling.places if place.name == "loss").sizes[0][0]
    assert f'"train/loss": {loss:.4f}'[:-1] in logged


def test_a_large_batch_is_cut_to_whole_windows(tiny: Path) -> None:
    experiment = Experiment.load(tiny, ["train.batch_tokens=160000", "model.block_size=160"])
    assert width_scaling.at_width(experiment, 48, steps=3).train.batch_tokens == 960
    longer = Experiment.load(tiny, ["train.batch_tokens=8000", "model.block_size=4000"])
    assert width_scaling.at_width(longer, 48, steps=3).train.batch_tokens == 4000


def test_a_training_that_diverges_is_a_result(tiny: Path) -> None:
    scaling = measure_tiny(tiny, "optimizer.lr=3e38", widths=(12, 24))
    assert not scaling.is_within
    assert list(scaling.diverged) == [12, 24]
    assert "is nan at step 2" in scaling.diverged[12]
    assert all(math.isnan(place.changes[0][-1]) for place in scaling.places)


def test_faults_of_all_widths_are_reported_together(tiny: Path) -> None:
    with pytest.raises(KitError) as caught:
        measure_widths(Experiment.load(tiny), (20, 24, 25), steps=1, seeds=1)
    first, second = caught.value.faults
    assert (first.location, first.key) == ("command line", "--widths")
    assert first.message.startswith("20: n_embd (20) should be a multiple of n_head (3)")
    assert second.message.startswith("25: ")


WITHOUT_WIDTH = """
from torch import nn
from nanogpt_kit.api import Model, ModelContext
class Toy(Model):
    def build(self, ctx: ModelContext) -> nn.Module:
        raise AssertionError("not needed")
"""


def test_a_model_without_a_width_is_refused(tiny: Path) -> None:
    (tiny.parent / "toy.py").write_text(WITHOUT_WIDTH, encoding="utf-8")
    text = tiny.read_text(encoding="utf-8")
    start, end = text.index("[model]"), text.index("[optimizer]")
    tiny.write_text(f'components = ["toy.py"]\n{text[:start]}[model]\nuse = "toy"\nblock_size = 16\n\n{text[end:]}')
    experiment = Experiment.load(tiny, trust_code=True)
    with pytest.raises(KitError) as caught:
        measure_widths(experiment, (12, 24), steps=1, seeds=1)
    (fault,) = caught.value.faults
    assert (fault.key, fault.location) == ("model.use", f"{tiny}:12")
    assert "'toy' has no such option" in fault.message


@pytest.mark.slow
@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize("rate", [2e-3, 1e-2])
def test_slopes_of_mup_are_within_a_tenth_where_those_of_gpt2_are_above_a_half(
    tiny: Path, prose: Path, rate: float, layers: int
) -> None:
    sizes: dict[str, Any] = {"n_layer": layers, "n_head": 4, "n_embd": 64, "block_size": 64, "dropout": 0.0}
    options = [f"model.{key}={value}" for key, value in sizes.items()]
    options += ["tokenizer=char", f"dataset.source={prose}", f"optimizer.lr={rate}", "train.batch_tokens=2048"]
    widths = (64, 128, 256, 512)
    plain = measure_widths(Experiment.load(tiny, options), widths, steps=5, seeds=1)
    assert worst_change(plain) > 0.5
    adapted = measure_widths(
        Experiment.load(tiny, [*options, "init.use=mup", "init.base_width=64"]), widths, steps=5, seeds=3
    )
    assert adapted.is_within, [(place.name, place.change_slope) for place in adapted.places]
