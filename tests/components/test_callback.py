"""The built-in callbacks pass their suite, and so do those of the documentation."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nanogpt_kit.cli.plugin_templates.component.callback import CSVLog
from nanogpt_kit.components.callback.console import Console
from nanogpt_kit.components.callback.divergence import Divergence
from nanogpt_kit.components.callback.early_stopping import EarlyStopping
from nanogpt_kit.components.callback.ema import EMA
from nanogpt_kit.components.callback.profiler import Profiler
from nanogpt_kit.components.callback.tensorboard import TensorBoard
from nanogpt_kit.testing.callback import CallbackConformance
from tests.seams.components.data_noising import DataNoising
from tests.seams.components.gradient_noise import GradientNoise


class TestConsole(CallbackConformance):
    component = Console(every_seconds=0.0)


class TestDivergence(CallbackConformance):
    component = Divergence(window_steps=30)


class TestEarlyStopping(CallbackConformance):
    component = EarlyStopping(metric="val/bits_per_byte", mode="max", patience=2)


class TestEMA(CallbackConformance):
    component = EMA(decay=0.9)


class TestProfiler(CallbackConformance):
    component = Profiler(first_step=3, steps=2)


class TestTensorBoard(CallbackConformance):
    component = TensorBoard()


class TestGradientNoise(CallbackConformance):
    component = GradientNoise()


class TestDataNoising(CallbackConformance):
    component = DataNoising(fraction=0.5)


def test_the_table_of_the_example_loses_a_cut_line_and_the_steps_that_are_logged_again(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n10,3.5\n20,3.25\n30,3.0\n1", encoding="utf-8")
    log: Any = CSVLog(columns=("train/loss",)).build(SimpleNamespace(path=tmp_path))  # type: ignore[arg-type]
    log.run_started(SimpleNamespace(first_step=20))
    log.logged(30, {"train/loss": 3.0})
    lines = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["step,train/loss", "10,3.5", "20,3.25", "30,3.0"]
