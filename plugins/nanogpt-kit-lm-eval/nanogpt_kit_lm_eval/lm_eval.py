"""Tasks of lm-evaluation-harness as metrics of a run: `arc_easy/acc`, `arc_easy/acc_stderr`, ...

In `nanogpt-kit eval`, and at each evaluation of a training. Models are scored as by the harness's own model `hf`.

Source: Gao et al. 2024, "The Language Model Evaluation Harness", v0.4.13, https://zenodo.org/records/12608602.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from nanogpt_kit.api import Encoder, EvaluateContext, Evaluator, Field, KitError, PathStr

if TYPE_CHECKING:
    from nanogpt_kit_lm_eval.task_set import TaskSet


class LMEval(Evaluator):
    requires_finite = False  # the perplexity of a word may be infinite at first

    tasks: tuple[str, ...] = Field(min_length=1, description="names of tasks, groups and tags of lm-evaluation-harness")
    include_path: PathStr = Field("", description="folder with YAML files of other tasks")
    num_fewshot: int | None = Field(
        None, ge=0, description="examples before each question; omitted: as the task has it"
    )
    limit: int | None = Field(None, ge=1, description="documents of each task, from its first; omitted: all")
    max_gen_toks: int | None = Field(
        None, ge=1, description="longest generated text, in tokens; omitted: that of the task"
    )
    min_context: int = Field(
        1, ge=1, description="tokens before those that a window scores, at least, in perplexities of long texts"
    )
    bootstrap_iters: int = Field(
        1000, ge=0, description="resamples for standard errors without a formula; 0: none at all"
    )

    @property
    def task_set(self) -> TaskSet:
        return task_set_of(self)

    def check(self, encoder: Encoder, block_size: int) -> None:
        """Loads the tasks, which may read their data from the network."""
        if self.min_context > block_size:
            raise KitError(f"min_context ({self.min_context}) exceeds the model's block_size ({block_size})")
        _ = self.task_set.loaded

    def splits_read(self) -> tuple[str, ...]:
        return ()

    def evaluate(self, ctx: EvaluateContext) -> dict[str, float]:
        from nanogpt_kit_lm_eval.harness_model import KitLM
        from nanogpt_kit_lm_eval.task_set import metrics_of

        model = KitLM(
            ctx.model,
            ctx.encoder,
            ctx.block_size,
            ctx.autocast,
            ctx.device,
            ctx.batch_size,
            self.min_context,
            ctx.check_stop,
        )
        return metrics_of(self.task_set.evaluate(model))


@functools.lru_cache(maxsize=8)
def task_set_of(options: LMEval) -> TaskSet:
    """One for equal options, since loading tasks takes seconds."""
    from nanogpt_kit_lm_eval.task_set import TaskSet

    return TaskSet(
        options.tasks,
        options.include_path,
        options.num_fewshot,
        options.limit,
        options.max_gen_toks,
        options.bootstrap_iters,
    )
