"""Real runs with other mixers: they learn, resume to the bit, and generate one text, several and long ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.nn.flops import model_size
from nanogpt_kit.nn.thread_probe import decoding_hazard, training_hazard
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.train import session
from nanogpt_kit.train.metric_names import check_study_metric

pytestmark = pytest.mark.usefixtures("with_dropout")
COMPONENTS = Path(__file__).parent / "components"
FILES = [str(COMPONENTS / f"{name}.py") for name in ("gated_attention", "differential", "mingru", "mla")]
MIXERS = {
    "gated_attention": ["model.mixer=gated_attention", "model.position=rope", "model.n_kv_head=2"],
    "differential": ["model.mixer=differential", "model.position=alibi"],
    "mla": ["model.mixer={use='mla', latent=8}", "model.position=rope"],
    "mingru": ["model.mixer={use='mingru', expansion=2}", "model.position=none", "model.document_mask=true"],
    "hybrid": ["model.mixer=['mingru', 'softmax']", "model.position=rope", "model.attention={use='sdpa', window=5}"],
}
OPTIONS = (
    *("model.n_head=4", "schedule=constant", "callback=[]", "evaluator=['loss']", "optimizer.lr=1e-2"),
    *("sample.num_samples=0", "train.watch=['attention', 'activations']"),
)
PROMPTS = ["7 times", "9", "12 times 19 is 2"]  # the last of 16 tokens, which is the context
SWEEP = """
[sweep]
metric = "val/loss"
[sweep.space]
"model.mixer" = { choice = ["softmax", "mingru"] }
"model.attention.window" = { int = [2, 8], when = { "model.mixer" = "softmax" } }
"""
LONG = 40  # new tokens

Runs = Callable[[str], RunFolder]


def experiment_of(tiny: Path, mixer: str, *overrides: str) -> Experiment:
    return Experiment.load(tiny, [f"components={FILES}", *OPTIONS, *MIXERS[mixer], *overrides], trust_code=True)


@pytest.fixture(scope="module")
def trained() -> dict[str, RunFolder]:
    """The runs of this module by their mixer, each trained by the first test that uses it."""
    return {}


@pytest.fixture
def run(mixer: str, tiny: Path, trained: dict[str, RunFolder]) -> RunFolder:
    if mixer not in trained:
        trained[mixer] = session.run(experiment_of(tiny, mixer))
    return trained[mixer]


by_mixer = pytest.mark.parametrize("mixer", MIXERS)


def weights_of(run: RunFolder) -> dict[str, Any]:
    return load_file(run.checkpoint(20) / "model.safetensors")


@by_mixer
def test_a_run_learns_and_resumes_to_the_bit(mixer: str, run: RunFolder, tiny: Path) -> None:
    begun = session.run(experiment_of(tiny, mixer, "train.steps=10"))
    resumed = session.run(experiment_of(tiny, mixer), resume=str(begun.path))
    ours, theirs = weights_of(resumed), weights_of(run)
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    losses = [record["train/loss"] for record in read_metrics(run.metrics) if "train/loss" in record]
    assert losses[-1] < losses[0] - 1


@by_mixer
def test_a_watched_model_logs_the_scores_of_the_attentions_that_it_has(mixer: str, run: RunFolder) -> None:
    names = {name for record in read_metrics(run.metrics) for name in record if name.startswith("attention/")}
    layers = {"mingru": [], "hybrid": [1]}.get(mixer, [0, 1])
    assert names == {f"attention/max_logit_{layer}" for layer in layers}


def test_only_the_scores_that_a_run_logs_can_be_the_metric_of_a_sweep(tiny: Path) -> None:
    hybrid = experiment_of(tiny, "hybrid")
    check_study_metric(hybrid, "attention/max_logit_1")
    for experiment, metric in (
        (hybrid, "attention/max_logit_0"),
        (experiment_of(tiny, "mingru"), "attention/max_logit_1"),
    ):
        with pytest.raises(KitError, match=f"no run of it has a metric '{metric}'"):
            check_study_metric(experiment, metric)


@pytest.mark.parametrize("mixer", MIXERS)
def test_threads_may_share_a_batch_of_it_and_its_products_are_counted(mixer: str, tiny: Path) -> None:
    experiment = experiment_of(tiny, mixer, "model.dropout=0.0")
    ctx = RunContext(device="cpu", precision="bf16", world_size=1, splits=("train", "val"), block_size=16)
    assert training_hazard(experiment.model, experiment.parallel, ctx) is None
    assert decoding_hazard(experiment.model) is None
    size = model_size(experiment.model, 256)
    assert size is not None
    weights = size.parameters["matrix"] + size.parameters["embedding"]  # of the tokens, and of the head
    assert size.flops_per_token is not None
    scores = {"mingru": 0, "hybrid": 1, "gated_attention": 2, "differential": 3, "mla": 3}[
        mixer
    ]  # those of a softmax layer are 1; values or keys of twice the size: 1.5
    assert size.flops_per_token == 6 * weights + scores * 12 * 24 * 16


def test_a_sweep_over_mixers_varies_the_window_with_attention_alone(tiny: Path) -> None:
    tiny.write_text(tiny.read_text(encoding="utf-8") + SWEEP, encoding="utf-8")
    overrides = [f"components={FILES}", "model.attention={use='sdpa', window=4}"]
    space = Space(Experiment.load(tiny, overrides, trust_code=True))
    attending = space.experiment({"model.mixer": "softmax", "model.attention.window": 7})
    assert attending.resolved()["model"]["attention"]["window"] == 7
    recurrent = space.experiment({"model.mixer": "mingru"})
    assert "attention" not in recurrent.resolved()["model"]


def generated(run: RunFolder, prompts: list[str], policy: str, **options: Any) -> list[str]:
    overrides = [f"sample.on_overflow={policy}", "sample.precision=fp32"]
    return load_run(run.path, overrides=overrides, trust_code=True).generate(prompts, LONG, **options)


@pytest.mark.parametrize("policy", ["exact", "refill", "rolling"])
@by_mixer
def test_texts_are_the_same_alone_and_in_a_batch_of_ragged_prompts(mixer: str, policy: str, run: RunFolder) -> None:
    together = generated(run, PROMPTS, policy, seed=5)
    assert len(set(together)) == len(PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        assert generated(run, [prompt], policy, seed=5 + index) == [together[index]]
