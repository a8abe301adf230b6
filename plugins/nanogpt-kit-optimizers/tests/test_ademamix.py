from nanogpt_kit_optimizers.ademamix import AdEMAMix
from nanogpt_kit.testing.optimizer import OptimizerConformance


class TestA(OptimizerConformance):
    component = AdEMAMix(lr=3e-3)


class TestB(OptimizerConformance):
    component = AdEMAMix(lr=3e-3, betas=(0.0, 0.95, 0.99))
