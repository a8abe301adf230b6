from nanogpt_kit_optimizers.soap import SOAP
from nanogpt_kit.testing.optimizer import OptimizerConformance


class TestSOAP(OptimizerConformance):
    component = SOAP(lr=3e-3)
