"""distinct-2: the fraction of different pairs of words in generated texts; low where a model repeats itself.

Change what is counted. An evaluator of a split uses `ctx.split_loss("val")`, one of other texts calls `ctx.model`
within `ctx.autocast()`. Source: Li et al. 2015, arXiv:1510.03055, section 5.1.
"""

from itertools import pairwise

from nanogpt_kit.api import EvaluateContext, Evaluator, Field


class DistinctPairs(Evaluator):
    prompt: str = Field("\n", min_length=1, description="beginning of the texts that are generated")
    num_samples: int = Field(4, ge=1, description="texts that are generated")
    max_new_tokens: int = Field(64, ge=1, description="tokens of each text, without its prompt")

    def metric_names(self) -> tuple[str, ...]:
        return ("samples/distinct_pairs",)

    def splits_read(self) -> tuple[str, ...]:
        return ()

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        texts = ctx.generate([self.prompt] * self.num_samples, self.max_new_tokens, seed=0)
        pairs = [pair for text in texts for pair in pairwise(text.split())]
        return {"samples/distinct_pairs": len(set(pairs)) / max(1, len(pairs))}
