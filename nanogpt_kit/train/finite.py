"""Checks that the numbers of a run are finite: each step's loss and gradient, its weights, its state, its metrics.

Broken weights show in the loss of the next step. It is read one step later, so that the device never waits. Before an
evaluation or a checkpoint the weights themselves are checked: on the device, with one answer for all tensors of a type.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt_kit.core.errors import NotFinite
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.hooks import Hooks
from nanogpt_kit.nn.sharded import is_sharded
from nanogpt_kit.train.pending import PendingScalars
from nanogpt_kit.train.progress import Progress
from nanogpt_kit.train.world import World

SHOWN = 4  # names of tensors in a message; the others are counted
HELP = 'a lower optimizer.lr, a longer warmup or train.precision = "fp32" often helps'


class FiniteChecks:
    """The checks of one run. Each raises NotFinite, on all ranks as soon as one rank finds a number that is not."""

    def __init__(
        self,
        experiment: Experiment,
        model: nn.Module,  # freshly built: buffers that are infinite already, such as masks, may be
        world: World,
        progress: Progress,
        scaler: torch.amp.GradScaler,
        windows_of: Callable[[int], Iterable[int]],  # the first tokens of a step's windows, of all ranks
    ) -> None:
        self.experiment = experiment
        self.model = model
        self.world = world
        self.progress = progress
        self.scaler = scaler
        self.windows_of = windows_of
        self.batch_callbacks = self.gradient_callbacks = ""  # those that may change the windows, and the gradient
        self.pending: tuple[int, PendingScalars] | None = None  # loss and gradient norm of the newest step
        self.grad_clip = 0.0  # of it
        self.pending_extras: tuple[Sequence[str], PendingScalars] = (), PendingScalars()  # of it, by their metrics
        self.last_good_step = -1  # the newest step that started from weights whose loss was finite
        self.checked_model_at = -1  # the step whose weights were found to be finite
        self.infinite_buffers = set(non_finite(model.named_buffers()))

    def name_callbacks(self, hooks: Hooks) -> None:
        """Lets messages name the callbacks that take part in a step."""
        self.batch_callbacks = hooks.participants("batch_ready")
        self.gradient_callbacks = hooks.participants("gradients_ready")

    def note_step(self, step: int, means: Mapping[str, Tensor], grad_norm: Tensor, grad_clip: float) -> PendingScalars:
        """Takes the scalars of a step, whose weights have had `step` updates. `check_noted_step` checks them later."""
        self.grad_clip = grad_clip
        loss, *extras = means.values()
        self.pending = step, PendingScalars(loss, grad_norm)
        self.pending_extras = [*means][1:], PendingScalars(*extras)
        return self.pending[1]

    def check_noted_step(self) -> None:
        """Checks the scalars that `note_step` was given last; waits for the step that computes them."""
        if self.pending is None:
            return
        (step, scalars), self.pending = self.pending, None
        loss, grad_norm = scalars.read()
        names, extras = self.pending_extras
        labels = ["loss", *(f"auxiliary loss {name}" for name in names), "norm of the gradient"]
        values = dict(zip(labels, [loss, *extras.read(), grad_norm], strict=True))
        self.progress.steps_since_log += 1
        self.progress.clipped_since_log += (self.grad_clip or math.inf) < grad_norm < math.inf
        may_overflow = self.scaler.is_enabled()  # it skips steps whose gradient is not finite, and lowers its scale
        if may_overflow:
            del values["norm of the gradient"]
        wrong = next((f"the {name} is {value}" for name, value in values.items() if not math.isfinite(value)), None)
        if wrong:
            windows = [str(first) for first in self.windows_of(step)]
            shown = ", ".join(windows[:8]) + (", ..." if len(windows) > 8 else "")
            changed = f", as {self.batch_callbacks} left them" if self.batch_callbacks else ""
            changed += f", with gradients as {self.gradient_callbacks} left them" if self.gradient_callbacks else ""
            where = f"step {step + 1}, on the windows that start at tokens {shown} of train{changed}"
            raise NotFinite(f"{wrong} at {where}; {HELP}")
        self.last_good_step = step

    def stability_metrics(self) -> dict[str, float]:
        """The fraction of steps since the last call whose gradient was clipped, and the scale of fp16's gradients."""
        metrics: dict[str, float] = {}
        progress = self.progress
        if self.experiment.train.grad_clip:
            metrics["optim/clip_fraction"] = progress.clipped_since_log / max(1, progress.steps_since_log)
        if self.scaler.is_enabled():
            metrics["optim/loss_scale"] = self.scaler.get_scale()
        progress.steps_since_log = progress.clipped_since_log = 0
        return metrics

    def check_model(self) -> None:
        """Checks the weights after the newest update, at most once per step.

        Finite but enormous weights show in an evaluation, or in the loss of the next step.
        """
        if self.checked_model_at == self.progress.step:
            return
        self.check_noted_step()
        self._require_finite("the weights are", self.model.state_dict().items(), self.infinite_buffers)
        self.checked_model_at = self.progress.step

    def check_training_state(self, state: Mapping[str, Any]) -> None:
        """Checks every tensor that is saved beside the weights: of the optimizer and of the callbacks.

        A bound that is infinite at first has to be a Python float there, not a tensor.
        """
        self._require_finite("the training state is", tensors_in(state))

    def check_metrics(self, metrics: Mapping[str, float]) -> None:
        """Checks the metrics of evaluators whose results must be finite."""
        broken = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        first = next(filter(None, self.world.all_gather(broken)), None)
        if first:
            values = ", ".join(f"{name} is {value}" for name, value in first.items())
            raise NotFinite(f"{values} at step {self.progress.step}; {HELP}")

    def _require_finite(self, subject: str, tensors: Iterable[tuple[str, Any]], allowed: Iterable[str] = ()) -> None:
        gathered = self.world.all_gather(non_finite(tensors))
        names = [name for name in dict.fromkeys(name for names in gathered for name in names) if name not in allowed]
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            shown = ", ".join(names[:SHOWN])
            raise NotFinite(f"{subject} not finite after step {self.progress.step}: {shown}{more}; {HELP}")


@torch.no_grad()
def non_finite(tensors: Iterable[tuple[str, Any]]) -> list[str]:
    """The names of tensors with NaN or infinite values; of a sharded tensor this rank's shard is checked.

    The largest magnitude is finite exactly where all values are. The sum of squares may overflow for finite values, but
    costs a CPU a fifteenth of the time, so it selects the tensors whose largest magnitude is computed.
    """
    groups: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors:
        if not isinstance(tensor, Tensor):
            continue
        part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
        if (part.is_floating_point() or part.is_complex()) and part.numel():
            part = part.float() if part.element_size() == 1 else part  # fp8 has no norms
            groups[part.device, part.dtype][name] = part
    return [name for group in groups.values() for name in overflowing(overflowing(group, 2.0), math.inf)]


def overflowing(tensors: Mapping[str, Tensor], order: float) -> dict[str, Tensor]:
    """The tensors, all of one type on one device, whose norm of this order is not finite."""
    if not tensors:
        return {}
    norms = torch.stack(list(torch._foreach_norm(list(tensors.values()), ord=order)))
    pairs = zip(tensors.items(), norms.isfinite().tolist(), strict=True)
    return dict(item for item, is_finite in pairs if not is_finite)


def tensors_in(state: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dicts and lists, each under the path to it: "optimizer.state.3.exp_avg"."""
    if isinstance(state, Tensor):
        yield path, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from tensors_in(value, f"{path}.{key}" if path else str(key))
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from tensors_in(value, f"{path}.{index}")
