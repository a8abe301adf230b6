"""What the model writes at each evaluation, for people to read: into samples.txt, TensorBoard and other callbacks.

Source: the habit is Karpathy's, 2015, "The Unreasonable Effectiveness of Recurrent Neural Networks".
"""

from __future__ import annotations

from nanogpt_kit.api import Encoder, EvaluateContext, Evaluator, Field, KitError, Sampler


class Samples(Evaluator):
    prompts: tuple[str, ...] = Field(("\n",), min_length=1, description="what the texts begin with")
    num_samples: int = Field(1, ge=1, le=10**6, description="texts for each prompt")
    max_new_tokens: int = Field(200, ge=1, le=10**9, description="tokens of each text")
    seed: int = Field(1337, ge=0, lt=2**63, description="of the draws, at each step the same; text i uses seed + i")
    sampler: tuple[Sampler, ...] | None = Field(None, description="the chain of samplers; left out: the experiment's")

    def check(self, encoder: Encoder, block_size: int) -> None:
        for prompt in self.prompts:
            try:
                (ids,) = encoder.encode_batch([prompt])
            except KitError as error:
                raise KitError(f"evaluator samples: the prompt {prompt!r} cannot be encoded: {error}") from None
            if encoder.eot_id is None and not len(ids):
                what = f"the prompt {prompt!r} has no tokens" if prompt else "a prompt is empty"
                remedy = "expected a text of one token at the least in each of its prompts"
                raise KitError(f"evaluator samples: {what}, and this tokenizer has no end-of-text token; {remedy}")

    def metric_names(self) -> tuple[str, ...]:
        return ()

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        prompts = [prompt for prompt in self.prompts for _ in range(self.num_samples)]
        ctx.show(ctx.generate(prompts, self.max_new_tokens, self.seed, self.sampler))
        return {}
