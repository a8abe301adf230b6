"""The built-in evaluators pass their suite."""

from pathlib import Path

from nanogpt_kit.components.evaluator.bits_per_byte import BitsPerByte
from nanogpt_kit.components.evaluator.loss import Loss
from nanogpt_kit.components.evaluator.multiple_choice import MultipleChoice
from nanogpt_kit.components.evaluator.perplexity import Perplexity
from nanogpt_kit.components.evaluator.samples import Samples
from nanogpt_kit.testing.evaluator import EvaluatorConformance

TEXTS = Path(__file__).parent / "texts"


class TestLoss(EvaluatorConformance):
    component = Loss()


class TestBitsPerByte(EvaluatorConformance):
    component = BitsPerByte()


class TestMultipleChoice(EvaluatorConformance):
    component = MultipleChoice(file=str(TEXTS / "questions.jsonl"))


class TestPerplexity(EvaluatorConformance):
    component = Perplexity(file=str(TEXTS / "pangrams.txt"), stride=5)


class TestSamples(EvaluatorConformance):
    component = Samples(num_samples=2, max_new_tokens=3)
