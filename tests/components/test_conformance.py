"""Every built-in of a kind that has a conformance suite passes it, as a plugin would."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nanogpt_kit.components.attention.flex import Flex
from nanogpt_kit.components.attention.naive import Naive
from nanogpt_kit.components.attention.sdpa import SDPA
from nanogpt_kit.components.init.gpt2 import GPT2
from nanogpt_kit.components.init.mup import MuP
from nanogpt_kit.components.init.zero_residual import ZeroResidual
from nanogpt_kit.components.loss.cross_entropy import CrossEntropy
from nanogpt_kit.components.mixer.softmax import Softmax
from nanogpt_kit.components.mlp.gelu import GELU
from nanogpt_kit.components.mlp.relu2 import ReLU2
from nanogpt_kit.components.mlp.swiglu import SwiGLU
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.norm.layernorm import LayerNorm
from nanogpt_kit.components.norm.rmsnorm import RMSNorm
from nanogpt_kit.components.position.alibi import ALiBi
from nanogpt_kit.components.position.learned import Learned
from nanogpt_kit.components.position.none import None_
from nanogpt_kit.components.position.rope import RoPE
from nanogpt_kit.components.sampler.greedy import Greedy
from nanogpt_kit.components.sampler.min_p import MinP
from nanogpt_kit.components.sampler.repetition_penalty import RepetitionPenalty
from nanogpt_kit.components.sampler.temperature import Temperature
from nanogpt_kit.components.sampler.top_k import TopK
from nanogpt_kit.components.sampler.top_p import TopP
from nanogpt_kit.core.kinds import load_entry
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.testing.attention import AttentionConformance
from nanogpt_kit.testing.init import InitConformance
from nanogpt_kit.testing.loss import LossConformance
from nanogpt_kit.testing.mixer import MixerConformance
from nanogpt_kit.testing.mlp import MLPConformance
from nanogpt_kit.testing.model import ModelConformance
from nanogpt_kit.testing.norm import NormConformance
from nanogpt_kit.testing.position import PositionConformance
from nanogpt_kit.testing.sampler import SamplerConformance

SUITES = {
    "mixer": MixerConformance,
    "attention": AttentionConformance,
    "position": PositionConformance,
    "norm": NormConformance,
    "mlp": MLPConformance,
    "loss": LossConformance,
    "model": ModelConformance,
    "init": InitConformance,
    "sampler": SamplerConformance,
}


class TestSoftmax(MixerConformance):
    component = Softmax()
    fast_gradcheck = True


class TestSDPA(AttentionConformance):
    component = SDPA()
    fast_gradcheck = True


class TestSDPAThroughFlash(AttentionConformance):
    component = SDPA(backend="flash")
    fast_gradcheck = True
    threads = False  # the kernel is chosen by settings of the whole process


class TestSDPAThroughMath(AttentionConformance):
    component = SDPA(backend="math")
    fast_gradcheck = True
    compiles = False


class TestSDPAWithAWindow(AttentionConformance):
    component = SDPA(window=3)
    fast_gradcheck = True
    compiles = False
    window = 3


class TestNaive(AttentionConformance):
    component = Naive()


class TestNaiveWithAWindow(AttentionConformance):
    component = Naive(window=3)
    fast_gradcheck = True
    compiles = False
    window = 3


class TestFlex(AttentionConformance):
    component = Flex()
    differentiable = False
    inductor = False
    threads = False  # on a CPU it silences warnings, for the whole process


class TestFlexWithAWindow(AttentionConformance):
    component = Flex(window=3)
    compiles = False
    window = 3
    differentiable = False
    inductor = False
    threads = False  # on a CPU it silences warnings, for the whole process


class TestRoPE(PositionConformance):
    component = RoPE()
    relative = True


class TestRoPEOfHalfTheFeatures(PositionConformance):
    component = RoPE(partial=0.5, base=100.0)
    fast_gradcheck = True
    compiles = False
    relative = True


class TestLearned(PositionConformance):
    component = Learned()


class TestALiBi(PositionConformance):
    component = ALiBi()


class TestNoPositions(PositionConformance):
    component = None_()


class TestLayerNorm(NormConformance):
    component = LayerNorm(bias=True)


class TestLayerNormWithoutBias(NormConformance):
    component = LayerNorm(bias=False, eps=1e-6)
    compiles = False


class TestRMSNorm(NormConformance):
    component = RMSNorm()


class TestRMSNormWithoutGain(NormConformance):
    component = RMSNorm(gain=False)
    compiles = False


class TestGELU(MLPConformance):
    component = GELU()


class TestGELUByTanh(MLPConformance):
    component = GELU(approximate="tanh", width=2.0)
    fast_gradcheck = True
    compiles = False


class TestSwiGLU(MLPConformance):
    component = SwiGLU()


class TestReLU2(MLPConformance):
    component = ReLU2()


class TestCrossEntropy(LossConformance):
    component = CrossEntropy()
    compiles = False


class TestCrossEntropyWithPenalties(LossConformance):
    component = CrossEntropy(label_smoothing=0.2, z_loss=0.1)


class TestGPT(ModelConformance):
    component = GPT(n_layer=2, n_head=3, n_embd=24, block_size=13, dropout=0.1)


class TestGPTOfOtherParts(ModelConformance):
    component = GPT(
        n_layer=2,
        n_head=6,
        n_kv_head=2,
        n_embd=24,
        block_size=13,
        bias=False,
        qk_norm=True,
        weight_tying=False,
        logit_softcap=15.0,
        vocab_multiple=8,
        position="rope",
        norm="rmsnorm",
        mlp="swiglu",
    )


class TestTemperature(SamplerConformance):
    component = Temperature()


class TestTopK(SamplerConformance):
    component = TopK(k=3)


class TestTopP(SamplerConformance):
    component = TopP()


class TestMinP(SamplerConformance):
    component = MinP()


class TestRepetitionPenalty(SamplerConformance):
    component = RepetitionPenalty()


class TestGreedy(SamplerConformance):
    component = Greedy()


class TestGPT2(InitConformance):
    component = GPT2(std=0.05)


class TestZeroResidual(InitConformance):
    component = ZeroResidual(std=0.05)


class TestMuP(InitConformance):
    component = MuP(base_width=16)


class TestMuPWithOtherHeads(InitConformance):
    component = MuP(base_width=96, base_n_head=6)


def test_every_built_in_passes_a_suite() -> None:
    cases = [case for name, case in globals().items() if name.startswith("Test")]
    for entry in Registry.installed().entries:
        if entry.kind in SUITES and entry.distribution == KIT_DISTRIBUTION:
            mine = [case for case in cases if type(case.component) is load_entry(entry)]
            assert any(issubclass(case, SUITES[entry.kind]) for case in mine), f"{entry.qualified} passes no suite"


class FlexOnAGPU(AttentionConformance):
    component = Flex()
    device = "cuda"
    context = dataclasses.replace(AttentionConformance.context, head_dim=16, n_embd=96)  # the least its kernels take


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("scene", ["the causal square", "left padding by row"])
def test_flex_trains_on_a_gpu(scene: str) -> None:
    FlexOnAGPU().test_its_gradients_are_those_of_what_is_expected(scene)
