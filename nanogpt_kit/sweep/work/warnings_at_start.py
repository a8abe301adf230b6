"""What the user of a sweep should know before hours of training."""

from __future__ import annotations

from collections.abc import Sequence

from nanogpt_kit.core.sections import Sweep
from nanogpt_kit.report.page import NO_FIGURES, has_figures
from nanogpt_kit.sweep.study.warmup import TrialSteps, warmup_warning


def warnings_at_start(options: Sweep, trial_tokens: int, trials: Sequence[TrialSteps], compared: int) -> list[str]:
    """Sentences; the arguments are those of `warmup_warning`."""
    early = warmup_warning(options, trial_tokens, trials, compared)
    return [*([early] if early else []), *([] if has_figures() else [NO_FIGURES])]
