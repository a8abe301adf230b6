"""A window that changes in training: set before each step, saved with each checkpoint, used by whoever loads it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nanogpt_kit.api import Field
from nanogpt_kit.checkpoint import store
from nanogpt_kit.checkpoint.manifest import Manifest
from nanogpt_kit.components.attention.naive import Naive
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.part_options import PartOption
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.interop.exporting import export_model
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.train import session
from nanogpt_kit.train.evaluation import evaluate_trained_model
from nanogpt_kit.train.model_options import ScheduledOptions
from nanogpt_kit.train.progress import Progress

pytestmark = pytest.mark.usefixtures("with_dropout")
COMPONENTS = Path(__file__).parent / "components"
QUIET = ("sample.num_samples=0", "evaluator=['loss']", "callback=[]", "train.compile=off")
RAMP = (
    "model.attention={use='sdpa', window=12}",
    "schedule=[{use='constant'}, {use='piecewise', target='model.attention.window', knots=[[0, 1.0], [1, 0.0]]}]",
)
WINDOWS = [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]  # of the steps of a run of 12: 12 * (1 - step / 12)
STEPS = ("train.steps=12", "checkpoint.every_steps=4", "checkpoint.keep_every_steps=4", "evaluate.every_steps=4")
EAR = """\
from nanogpt_kit.api import Callback, hookimpl

class Ear(Callback):
    stop_at: int = 0

    def build(self, run):
        return Listener(self.stop_at)

class Listener:
    def __init__(self, stop_at):
        self.stop_at = stop_at

    @hookimpl
    def gradients_ready(self, run, step):
        values = [module.window for module in run.model.modules() if hasattr(module, "window")]
        with (run.path / "windows").open("a") as file:
            print(*values, file=file)

    @hookimpl
    def step_finished(self, step):
        if step == self.stop_at:
            raise OSError("unplugged")
"""


def experiment_of(tiny: Path, *overrides: str) -> Experiment:
    tiny.with_name("ear.py").write_text(EAR)
    files = ["ear.py", str(COMPONENTS / "warm_gelu.py")]
    return Experiment.load(tiny, [f"components={files}", *QUIET, *STEPS, *overrides], trust_code=True)


def windows_of(folder: RunFolder) -> list[list[str]]:
    """The windows of the layers at each step."""
    return [line.split() for line in (folder.path / "windows").read_text().splitlines()]


def losses(folder: RunFolder) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder.metrics) if "train/loss" in line]


@pytest.fixture(scope="module")
def trained() -> list[RunFolder]:
    """The run of `ramp`, once it was trained."""
    return []


@pytest.fixture
def ramp(tiny: Path, trained: list[RunFolder]) -> RunFolder:
    if not trained:
        trained.append(session.run(experiment_of(tiny, *RAMP, "callback=['ear']")))
    return trained[0]


def test_each_step_has_the_window_of_its_progress(ramp: RunFolder) -> None:
    assert windows_of(ramp) == [[str(window)] * 2 for window in WINDOWS]
    logged = [line["schedule/model.attention.window"] for line in read_metrics(ramp.metrics) if "train/loss" in line]
    assert logged == pytest.approx([1 - step / 12 for step in range(12)])


def test_a_ramp_resumed_across_its_steps_is_the_same_to_the_bit(tiny: Path, ramp: RunFolder) -> None:
    with pytest.raises(RunFailed, match="unplugged"):
        session.run(experiment_of(tiny, *RAMP, "callback=[{use='ear', stop_at=7}]"))
    resumed = session.run(experiment_of(tiny, *RAMP, "callback=['ear']"), resume="")
    assert losses(resumed) == losses(ramp)
    assert windows_of(resumed)[-8:] == windows_of(ramp)[-8:]
    one, other = (load_file(folder.checkpoint(12) / "model.safetensors") for folder in (ramp, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_loaded_model_has_the_window_of_its_step(ramp: RunFolder) -> None:
    """That of the last update, as in the evaluations of the run itself."""
    measured = {line["step"]: line["val/loss"] for line in read_metrics(ramp.metrics) if "val/loss" in line}
    for step in (4, 8, 12):
        window = WINDOWS[step - 1]
        assert Manifest.read(ramp.checkpoint(step)).options == {"model.attention.window": window}
        loaded = load_run(ramp.path, trust_code=True, step=step)
        assert loaded.experiment.model.attention.window == window  # type: ignore[attr-defined]
        assert evaluate_trained_model(loaded, show=print)["val/loss"] == pytest.approx(measured[step], abs=1e-6)


def test_an_override_of_the_reader_comes_after_the_window_of_the_step(ramp: RunFolder) -> None:
    loaded = load_run(ramp.path, trust_code=True, overrides=["model.attention.window=9"])
    assert loaded.experiment.model.attention.window == 9  # type: ignore[attr-defined]


def test_texts_are_the_same_with_and_without_a_cache(ramp: RunFolder) -> None:
    """A cached key outside of the window is not attended to."""
    loaded = load_run(ramp.path, trust_code=True, step=8)
    prompt = "7 times"
    text = loaded.generate(prompt, 9, samplers=["greedy"])[0]
    ids = torch.from_numpy(loaded.encoder.encode_batch([prompt])[0].astype("int64"))[None]
    for _ in range(9):
        with torch.no_grad():
            ids = torch.cat([ids, loaded.model(ids)[:, -1:].argmax(-1)], dim=1)
    assert loaded.encoder.decode(ids[0].tolist()) == text


def test_an_export_computes_with_the_window_of_its_step(ramp: RunFolder, tmp_path: Path) -> None:
    loaded = load_run(ramp.path, trust_code=True, step=4)
    export_model(loaded.experiment, loaded.model, loaded.encoder, "safetensors", tmp_path / "exported")
    again = load_run(tmp_path / "exported", trust_code=True)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.equal(again.model(ids), loaded.model(ids))
    assert again.experiment.model.attention.window == WINDOWS[3]  # type: ignore[attr-defined]


def test_a_branch_continues_from_the_window_of_its_checkpoint(tiny: Path) -> None:
    schedules = "[{use='constant'}, {use='wsd', target='model.attention.window', warmup_steps=5, decay_fraction=0.25}]"
    options = ("model.attention={use='sdpa', window=12}", f"schedule={schedules}", "callback=['ear']")
    folder = session.run(experiment_of(tiny, *options))
    branch = session.run(experiment_of(tiny, *options, "train.steps=20"), resume=f"{folder.path}@4")
    assert [one for one, _ in windows_of(folder)][:9] == ["2", "4", "6", "8", "10", "12", "12", "12", "12"]
    assert [one for one, _ in windows_of(branch)][:6] == ["10", "12", "12", "12", "12", "12"]


def test_restored_values_come_before_those_of_the_first_step(tiny: Path) -> None:
    """So that an evaluation before the first step of a resumed run is that of the run before."""
    experiment = experiment_of(tiny, *RAMP)
    model = experiment.model.build(experiment.model_context(257))
    progress = Progress()
    options = ScheduledOptions(experiment, model, progress)
    assert [module.window for module in model.modules() if hasattr(module, "window")] == [12, 12]
    progress.options = {"model.attention.window": 5, "model.attention.7.window": 3}
    options.restore()
    assert [module.window for module in model.modules() if hasattr(module, "window")] == [5, 5]


def test_of_a_list_the_elements_with_a_window_follow_and_the_specific_target_wins(tiny: Path) -> None:
    schedules = [
        "{use='piecewise', target='model.attention.window', knots=[[0, 0.5], [1, 0.5]]}",
        "{use='piecewise', target='model.attention.2.window', knots=[[0, 0.25], [1, 0.25]]}",
    ]
    folder = session.run(
        experiment_of(
            tiny,
            "model.n_layer=4",
            "model.attention=[{use='sdpa', window=10}, 'sdpa', {use='naive', window=8}, {use='naive', window=7}]",
            f"schedule=[{', '.join(schedules)}]",
            "train.steps=1",
            "callback=['ear']",
        )
    )
    assert windows_of(folder) == [["5", "None", "2", "3"]]
    expected = {"model.attention.0.window": 5, "model.attention.2.window": 2, "model.attention.3.window": 3}
    assert Manifest.read(folder.checkpoint(1)).options == expected
    attention: Any = load_run(folder.path, trust_code=True).experiment.model.attention  # type: ignore[attr-defined]
    assert [part.window for part in attention] == [5, None, 2, 3]


def test_an_option_of_a_plugin_follows_its_schedule(tiny: Path) -> None:
    """The activation of the last step is that of a model which was built with its value."""
    schedule = "{use='piecewise', target='model.mlp.mix', knots=[[0, 1.0], [1, 0.0]]}"
    experiment = experiment_of(tiny, "model.mlp={use='warm_gelu', mix=0.8}", f"schedule=[{schedule}]", "train.steps=4")
    folder = session.run(experiment)
    assert Manifest.read(folder.checkpoint(4)).options == {"model.mlp.mix": pytest.approx(0.8 / 4)}
    measured = [line["val/loss"] for line in read_metrics(folder.metrics) if "val/loss" in line][-1]
    loaded = load_run(folder.path, trust_code=True)
    assert evaluate_trained_model(loaded, show=print)["val/loss"] == pytest.approx(measured, abs=1e-6)
    other = load_run(folder.path, trust_code=True, overrides=["model.mlp.mix=0.8"])
    assert evaluate_trained_model(other, show=print)["val/loss"] != pytest.approx(measured, abs=1e-6)


def test_a_value_that_the_option_does_not_allow_is_blamed_on_the_schedule(tiny: Path) -> None:
    schedule = "{use='piecewise', target='model.mlp.mix', knots=[[0, 1.0], [1, 4.0]]}"
    options = ("model.mlp={use='warm_gelu', mix=0.8}", f"schedule=[{schedule}]")
    with pytest.raises(RunFailed, match=r"model.mlp.mix is 1.2 at step 3 by schedule Piecewise; .* at most 1"):
        session.run(experiment_of(tiny, *options, "train.steps=12"))


def test_a_value_below_what_the_option_allows_ends_the_run(tiny: Path) -> None:
    """Else its checkpoint could not be loaded."""
    tiny.with_name("positive.py").write_text((COMPONENTS / "warm_gelu.py").read_text().replace("ge=0", "gt=0"))
    schedule = "schedule=[{use='piecewise', target='model.mlp.mix', knots=[[0, 1.0], [0.5, 0.0]]}]"
    options = ["components=['positive.py']", "model.mlp=positive", schedule, *QUIET, "train.steps=4"]
    with pytest.raises(RunFailed, match=r"model.mlp.mix is 0.0 at step 3 by its schedule; it should be greater than 0"):
        session.run(Experiment.load(tiny, options, trust_code=True))


def test_a_whole_number_stays_within_its_bounds() -> None:
    class Banded(Naive):
        schedulable = ("band",)
        band: int = Field(4, gt=2)

    option = PartOption(("model", "attention", "band"), Banded())
    assert [option.scaled(multiplier) for multiplier in (0, 0.5, 0.8, 2)] == [3, 3, 3, 8]
    assert option.refusal_reason(2) == "it should be greater than 2"
    assert option.refusal_reason(3) is None


def test_a_target_without_a_value_and_a_misspelt_one_are_explained(tiny: Path) -> None:
    window, misspelt = (
        "{use='linear', target='model.attention.window'}",
        "{use='linear', target='model.atention.window'}",
    )
    with pytest.raises(KitError) as caught:
        experiment_of(tiny, f"schedule=[{window}, {misspelt}]")
    first, second = caught.value.faults
    assert first.key == "schedule.0.target"
    assert "set it, for example model.attention.window = 16" in first.message
    assert second.key == "schedule.1.target"
    with pytest.raises(KitError, match=r"did you mean 'model\.attention\.window'"):
        experiment_of(tiny, RAMP[0], f"schedule=[{misspelt}]")


def test_a_module_that_does_not_read_its_option_is_named(tiny: Path) -> None:
    text = (COMPONENTS / "warm_gelu.py").read_text().replace("self.options = options", "self.other = options")
    tiny.with_name("deaf.py").write_text(text)
    schedule = "schedule=[{use='linear', target='model.mlp.mix'}]"
    experiment = Experiment.load(tiny, ["components=['deaf.py']", "model.mlp=deaf", schedule, *QUIET])
    with pytest.raises(KitError, match=r"model\.mlp\.mix has a schedule, but .* WarmGELU builds .* as `options`"):
        session.run(experiment)


@pytest.mark.parametrize("entry", ['"dataset.source": 1', '"model.attention.window": "1"'])
def test_a_damaged_record_of_options_is_not_loaded(ramp: RunFolder, tmp_path: Path, entry: str) -> None:
    checkpoint = tmp_path / "step-00000012"
    shutil.copytree(ramp.checkpoint(12), checkpoint)
    path = checkpoint / "manifest.json"
    assert store.newest_whole_checkpoint(tmp_path) == checkpoint
    path.write_text(path.read_text().replace('"model.attention.window": 1', entry))
    assert store.newest_whole_checkpoint(tmp_path) is None
