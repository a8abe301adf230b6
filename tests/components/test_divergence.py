"""Each sign of an unstable run is reported once, early, with what helps; a run that goes well is never reported."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import pytest

from nanogpt_kit.components.callback.divergence import Divergence, Watch
from nanogpt_kit.components.callback.rise_detector import LAG, RiseDetector

Reports: TypeAlias = Callable[[], list[Any]]  # of the fixture `reports`
HEALTHY: dict[str, Any] = json.loads(Path(__file__).with_name("healthy_losses.json").read_text(encoding="utf-8"))
RESOLVED = {
    "model": {"use": "gpt", "qk_norm": False},
    "init": {"use": "gpt2", "std": 0.02},
    "optimizer": {"use": "adamw", "lr": 0.004, "betas": [0.9, 0.95]},
    "schedule": {"use": "cosine", "target": "optimizer.lr", "warmup_steps": 200},
    "train": {"grad_clip": 1.0},
}


def make_watch(vocab_size: int = 256, batch_tokens: int = 1536, resolved: Any = RESOLVED, **options: Any) -> Watch:
    experiment = SimpleNamespace(tokens=lambda steps: steps * batch_tokens, resolved=lambda: resolved)
    run: Any = SimpleNamespace(vocab_size=vocab_size, experiment=experiment)
    return Watch(Divergence(**options), run)


class Known:
    """The scalars of a step on a CPU."""

    def __init__(self, values: list[float], ready: bool = True) -> None:
        self.values, self.ready = values, ready

    def is_ready(self) -> bool:
        return self.ready

    def read(self) -> list[float]:
        return self.values


def feed(watch: Watch, losses: Sequence[float], norms: Sequence[float] | None = None, first: int = 1) -> None:
    for step, loss in enumerate(losses, start=first):
        norm = 1.0 if norms is None else norms[step - first]
        watch.step_finished(SimpleNamespace(scalars=Known([loss, norm])), step)


# Series of runs that go well


@pytest.mark.parametrize("name", HEALTHY)
def test_a_recorded_run_that_went_well_is_not_reported(name: str, reports: Reports) -> None:
    run = HEALTHY[name]
    feed(make_watch(run["vocab_size"], run["batch_tokens"]), run["losses"], run["norms"])
    assert reports() == []


def falling(steps: int, to: float = 2.0) -> np.ndarray:
    return to + (5.5 - to) * np.exp(-np.arange(steps) / 150)


def noise(steps: int, size: float, kind: str = "normal", seed: int = 3) -> np.ndarray:
    """Independent noise with this standard deviation, or nearly so."""
    generator = np.random.default_rng(seed)
    if kind == "heavy":
        return size * generator.standard_t(5, size=steps)
    return size * generator.normal(size=steps)


def correlated(steps: int, size: float, decay: float) -> np.ndarray:
    """Noise in which neighbours are alike, as where windows follow each other in the text."""
    values = noise(steps, size * math.sqrt(1 - decay**2))
    for step in range(1, steps):
        values[step] += decay * values[step - 1]
    return values


N = 3_000
STEPS = np.arange(N)
WENT_WELL = {
    "large batches": falling(N) + noise(N, 0.004),
    "batches with strange text": falling(N) + noise(N, 0.1, "heavy"),
    "one batch of noise": falling(N) + noise(N, 0.1) + 3.0 * (STEPS == 700),
    "one batch of strange text": falling(N) + noise(N, 0.1) + 4.2 * (STEPS == 700),
    "two batches of noise": falling(N) + noise(N, 0.1) + 4.0 * (STEPS >= 700) * (STEPS < 702),
    "windows in sequence": falling(N) + correlated(N, 0.15, 0.9),
    "epochs, each with a drop": falling(N) - 0.3 * (STEPS // 400) + noise(N, 0.05),
    "a rise in the warmup": falling(N) + 0.4 * np.exp(-(((STEPS - 120) / 30.0) ** 2)) + noise(N, 0.1),
    "a schedule that restarts": falling(N) + 0.15 * (STEPS % 500 < 100) + noise(N, 0.05),
    "weights of another run": falling(N, 1.9) * 0 + 2.4 - 0.3 * (1 - np.exp(-STEPS / 100)) + noise(N, 0.1),
    "a plateau": np.full(N, 5.54) + noise(N, 0.01),
    "nothing to learn": np.zeros(N),
    "text learnt by heart": falling(N, 0.003) + np.minimum(falling(N, 0.003), 0.3) * np.abs(noise(N, 0.3)),
}


@pytest.mark.parametrize("name", WENT_WELL)
def test_a_loss_that_varies_as_it_always_did_is_not_reported(name: str, reports: Reports) -> None:
    feed(make_watch(), WENT_WELL[name].tolist())
    assert reports() == []


def test_a_loss_over_few_tokens_may_vary_much_from_the_start(reports: Reports) -> None:
    feed(make_watch(batch_tokens=64), (falling(N) + noise(N, 0.5)).tolist())
    assert reports() == []


@pytest.mark.parametrize(
    "norms",
    [
        np.exp(noise(N, 0.4)),
        np.exp(noise(N, 0.2, "heavy")) * np.where(STEPS == 900, 40.0, 1.0),  # one clipped batch
        0.3 * (1 + STEPS / 500) * np.exp(noise(N, 0.2)),  # slowly growing, as small models do
        np.minimum(1.0, 0.02 * (STEPS + 1)) * np.exp(noise(N, 0.2)),  # layers that start at zero
        np.full(N, 0.7),
        np.zeros(N),
    ],
)
def test_a_gradient_norm_that_varies_as_it_always_did_is_not_reported(norms: np.ndarray, reports: Reports) -> None:
    feed(make_watch(), falling(N).tolist(), norms.tolist())
    assert reports() == []


def test_a_step_in_which_no_token_counts_has_no_loss_that_others_rise_from(reports: Reports) -> None:
    losses = np.where(STEPS % 3 == 0, 0.0, falling(N) + noise(N, 0.1))
    feed(make_watch(), losses.tolist(), np.where(losses == 0, 0.0, 1.0).tolist())
    assert reports() == []


def test_a_gradient_of_a_text_that_is_known_by_heart_may_grow(reports: Reports) -> None:
    growing = np.exp(noise(N, 0.2)) * np.where((STEPS >= 900) & (STEPS < 920), 0.6, 0.05)
    feed(make_watch(), (0.01 + 0.05 * (growing > 0.2)).tolist(), growing.tolist())
    assert reports() == []
    feed(make_watch(), [2.0] * N, growing.tolist())
    assert [report.kind for report in reports()] == ["gradient"]


def test_a_gradient_that_fp16_skips_is_no_sign(reports: Reports) -> None:
    norms = [math.inf, math.nan, *([1.0] * 40), math.inf, 1.0]
    feed(make_watch(), [2.0] * len(norms), norms)
    assert reports() == []


# Series of runs that go wrong


def test_a_spike_is_reported_once_with_its_step_the_level_before_and_what_helps(
    reports: Reports,
) -> None:
    losses = (2.3 + noise(500, 0.05)).tolist()
    losses[339:345] = [3.2, 3.5, 3.6, 3.4, 3.0, 2.8]
    losses[450:460] = [4.0] * 10
    feed(make_watch(), losses)
    (report,) = reports()
    assert (report.kind, report.step) == ("loss", 342)
    assert report.text == (
        "the loss is 3.60, up from 2.28, its median over the 20 steps before; "
        "what usually helps: a lower optimizer.lr than 0.004, a longer schedule.warmup_steps than 200"
    )


def test_a_spike_is_measured_by_the_variation_of_the_run(reports: Reports) -> None:
    losses = [*(2.3 + noise(300, 0.05)).tolist(), *[3.4] * 5]
    feed(make_watch(), (np.array(losses) + noise(305, 0.3, seed=5)).tolist())
    assert reports() == []
    feed(make_watch(), losses)
    assert [report.step for report in reports()] == [303]


def test_a_larger_spike_option_reports_less(reports: Reports) -> None:
    losses = [*(2.3 + noise(300, 0.05)).tolist(), *[3.4] * 5]
    feed(make_watch(spike=40.0), losses)
    assert reports() == []


def test_a_loss_that_creeps_up_is_reported(reports: Reports) -> None:
    losses = 2.3 + noise(3000, 0.2) + np.maximum(0, STEPS - 1000) * 1.5e-3
    feed(make_watch(), losses.tolist())
    (report,) = reports()
    assert 1500 < report.step < 2500
    assert "up from 2.1" in report.text


@pytest.mark.parametrize(("vocab_size", "steps"), [(256, 200), (256, 1000), (50_257, 200), (50_257, 1000)])
def test_a_loss_that_rises_slowly_by_a_nat_is_reported_before_it_has(
    vocab_size: int, steps: int, reports: Reports
) -> None:
    losses = falling(N) + noise(N, 0.05) + np.clip((STEPS - 1000) / steps, 0, 1)
    feed(make_watch(vocab_size), losses.tolist())
    (report,) = reports()
    assert 1000 + 0.4 * steps < report.step < 1000 + steps
    assert "up from 1.98, its lowest level so far" in report.text


def test_one_high_loss_among_the_first_is_reported(reports: Reports) -> None:
    feed(make_watch(), [5.55, 4.9, 3.93, 3.53, 3.9, 3.67, 5.42, 4.38, 3.6])
    (report,) = reports()
    assert report.step == 7
    assert "the loss is 5.42, up from 3.53, its lowest level so far" in report.text


def test_a_loss_far_above_that_of_equal_probabilities_needs_no_history(reports: Reports) -> None:
    feed(make_watch(vocab_size=1000), [6.95, 8.5])
    (report,) = reports()
    assert report.step == 2
    assert "the loss is 8.50, and equal probabilities for all 1,000 tokens give 6.91" in report.text


@pytest.mark.parametrize(
    ("model", "init", "remedy"),
    [
        ({}, {"std": 0.2}, "a smaller init.std than 0.2"),
        ({"init_from": "gpt2"}, {"std": 0.2}, "the tokenizer that the model of model.init_from was trained with"),
        ({}, {}, "smaller initial weights ([init])"),
    ],
)
def test_the_first_loss_is_blamed_on_the_weights_that_gave_it(
    model: Any, init: Any, remedy: str, reports: Reports
) -> None:
    feed(make_watch(resolved={**RESOLVED, "model": model, "init": init}), [30.0])
    (report,) = reports()
    assert report.text.endswith(f"what usually helps: {remedy}")


def test_a_growing_gradient_norm_is_reported(reports: Reports) -> None:
    norms = (0.5 * np.exp(noise(300, 0.15))).tolist()
    norms[200:] = [0.5 * 1.1 ** (step - 200) for step in range(200, 300)]
    feed(make_watch(), [2.0] * 300, norms)
    (report,) = reports()
    assert report.kind == "gradient"
    assert 230 < report.step < 250
    assert "up from 0.473, its lowest level so far" in report.text


def test_a_gradient_norm_that_stays_high_is_reported_at_the_third_step(reports: Reports) -> None:
    feed(make_watch(), [2.0] * 300, [*(0.5 * np.exp(noise(290, 0.1))).tolist(), *[4.0] * 10])
    (report,) = reports()
    assert (report.kind, report.step) == ("gradient", 293)
    assert "the gradient norm is 4, up from 0.5" in report.text


def test_remedies_fit_the_options_of_the_run(reports: Reports) -> None:
    sgd = {"use": "sgd", "lr": 30.0, "momentum": 0.99}
    feed(make_watch(resolved={**RESOLVED, "optimizer": sgd, "train": {"grad_clip": 0.0}}), [5.5, 9.9])
    adamw = {"use": "adamw", "lr": 0.1, "betas": [0.9, 0.999]}
    feed(
        make_watch(resolved={**RESOLVED, "optimizer": adamw, "schedule": [{"use": "mine", "target": "optimizer.lr"}]}),
        [5.5, 9.9],
    )
    order = {"use": "sequential"}
    feed(make_watch(resolved={**RESOLVED, "order": order}), [2.0] * 1_500 + [4.0] * 3)
    other = {"use": "mine", "eta": 0.1}
    feed(
        make_watch(resolved={**RESOLVED, "optimizer": other, "schedule": [{"use": "mine", "target": "optimizer.lr"}]}),
        [5.5, 9.9],
    )
    late = [2.0] * 1_500 + [9.9]
    feed(make_watch(), late)
    texts = [report.text.partition("what usually helps: ")[2] for report in reports()]
    clipping = "a longer schedule.warmup_steps than 200, train.grad_clip = 1.0"
    assert texts == [
        f"a lower optimizer.lr than 30, {clipping}, a lower optimizer.momentum than 0.99",
        "a lower optimizer.lr than 0.1, optimizer.betas = [0.9, 0.95]",
        'a lower optimizer.lr than 0.004, order = "shuffled" if the text changes there',
        "smaller updates",
        "a lower optimizer.lr than 0.004",
    ]


def test_attention_logits_are_read_from_the_metrics_where_they_are_watched(
    reports: Reports,
) -> None:
    watch = make_watch(max_attention_logit=300.0)
    watch.logged(10, {"train/loss": 2.0})
    watch.logged(20, {"train/loss": 2.0, "attention/max_logit_0": 90.0, "attention/max_logit_1": 299.0})
    assert reports() == []
    watch.logged(30, {"attention/max_logit_0": 90.0, "attention/max_logit_1": 1234.5})
    watch.logged(40, {"attention/max_logit_0": 9000.0, "attention/max_logit_1": 9000.0})
    (report,) = reports()
    assert report.step == 30
    assert "attention logit is 1,234 in layer 1" in report.text
    assert "model.qk_norm = true" in report.text


def test_queries_and_keys_that_are_normalized_are_not_proposed_again(reports: Reports) -> None:
    watch = make_watch(resolved={**RESOLVED, "model": {"qk_norm": True}})
    watch.logged(30, {"attention/max_logit_1": 1234.5})
    (report,) = reports()
    assert "qk_norm" not in report.text
    assert "a lower optimizer.lr than 0.004" in report.text


def test_a_resumed_run_repeats_no_report_and_judges_as_if_it_had_never_stopped(
    reports: Reports,
) -> None:
    losses = [*(2.3 + noise(300, 0.05)).tolist(), *[3.4] * 5]
    norms = [*np.exp(noise(290, 0.1)).tolist(), *[9.0] * 15]
    whole = make_watch()
    feed(whole, losses, norms)
    assert [(report.kind, report.step) for report in reports()] == [("gradient", 293), ("loss", 303)]
    for stop in (5, 12, 25, 150, 302, 304):
        before = make_watch()
        feed(before, losses[:stop], norms[:stop])
        after = make_watch()
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        feed(after, losses[stop:], norms[stop:], first=stop + 1)
        assert after.state_dict() == whole.state_dict(), stop
    assert [(report.kind, report.step) for report in reports()] == [("gradient", 293), ("loss", 303)] * 7


def test_on_a_gpu_a_step_is_read_while_the_next_one_is_computed_and_the_last_one_at_the_end(reports: Reports) -> None:
    watch, run = make_watch(), SimpleNamespace()
    for step, loss in enumerate([5.5, 5.4, 9.9], start=1):
        run.scalars = Known([loss, 1.0], ready=False)
        watch.step_finished(run, step)
    assert reports() == []
    watch.run_finished()
    assert [report.step for report in reports()] == [3]


def test_a_device_that_failed_is_no_failure_of_the_callback() -> None:
    def fail() -> list[float]:
        raise RuntimeError("CUDA error: device-side assert triggered")

    watch = make_watch()
    watch.pending = 3, fail
    watch.run_finished()


def test_what_leaves_the_window_is_forgotten_also_where_a_resumed_run_makes_it_shorter() -> None:
    values = (2 + noise(900, 0.3)).tolist()
    detector, fresh = (
        RiseDetector(window=40, deviations=8.0, least=0.1, slow=1.0, far=1.0, deviation=0.1) for _ in range(2)
    )
    for value in values:
        detector.add(value)
    fresh.load_state_dict({"values": values[-80:], "lowest": detector.lowest})  # of a window that was longer
    assert vars(detector) == vars(fresh)
    assert len(detector.bends) == 40 - 2 * LAG
