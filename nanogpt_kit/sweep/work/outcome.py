"""The possible outcomes of a trial."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.trial import TrialState

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.status import Cause
from nanogpt_kit.sweep.study.records import Ending

# Running out of memory and a loss that is not finite are results for a point of the space: the sampler treats a pruned
# trial as a bad one, but ignores a failed one and would choose the point again.
PRUNING_CAUSES = ("oom", "not_finite", "refused", "died", "lost_rank")


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. `reason` is for people; `origin` is equal for trials with the same error, or empty."""

    state: TrialState
    cause: Ending
    value: float | None = None
    reason: str = ""
    origin: str = ""


def failed_outcome(cause: Cause, reason: str, origin: str = "") -> Outcome:
    state = TrialState.PRUNED if cause in PRUNING_CAUSES else TrialState.FAIL
    return Outcome(state, cause, reason=reason, origin=origin)


class MissingMetric(KitError):
    """No evaluator of the trials reports the sweep's metric."""
