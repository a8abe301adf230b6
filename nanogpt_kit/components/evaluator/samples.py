"""Texts generated at each evaluation, for people to read: in samples.txt, TensorBoard and other callbacks.

Source: the habit is Karpathy's, 2015, "The Unreasonable Effectiveness of Recurrent Neural Networks".
"""

from __future__ import annotations

from nanogpt_kit.api import Encoder, EvaluateContext, Evaluator, Field, KitError, Sampler


class Samples(Evaluator):
    prompts: tuple[str, ...] = Field(("\n",), min_length=1, description="prompts that the texts continue")
    num_samples: int = Field(1, ge=1, le=10**6, description="texts per prompt")
    max_new_tokens: int = Field(200, ge=1, le=10**9, description="tokens generated per text")
    seed: int = Field(
        1337, ge=0, lt=2**63, description="seed for sampling, the same at each evaluation; text i uses seed + i"
    )
    sampler: tuple[Sampler, ...] | None = Field(
        None, description="samplers, applied in order; omitted: those of the experiment"
    )

    def check(self, encoder: Encoder, block_size: int) -> None:
        for prompt in self.prompts:
            try:
                (ids,) = encoder.encode_batch([prompt])
            except KitError as error:
                raise KitError(f"evaluator samples: the prompt {prompt!r} cannot be encoded: {error}") from None
            if encoder.eot_id is None and not len(ids):
                what = f"the prompt {prompt!r} has no tokens" if prompt else "a prompt is empty"
                remedy = "each prompt must have at least one token"
                raise KitError(f"evaluator samples: {what}, and this tokenizer has no end-of-text token; {remedy}")

    def metric_names(self) -> tuple[str, ...]:
        return ()

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        prompts = [prompt for prompt in self.prompts for _ in range(self.num_samples)]
        ctx.show(ctx.generate(prompts, self.max_new_tokens, self.seed, self.sampler))
        return {}
