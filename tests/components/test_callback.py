"""The built-in callbacks pass their suite, and so do those of the documentation."""

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
