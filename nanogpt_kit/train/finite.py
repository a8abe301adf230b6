"""Checks that the numbers of a run are finite: each step's loss and gradient, its weights, its state, its evaluations.

What an update made shows in the loss of the next step, which is read while that step runs. Where nothing follows, at an
evaluation or a checkpoint, the weights themselves are read: on the device, with one answer for all tensors of a type.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nanogpt_kit.core.errors import NotFinite, RunFailed
from nanogpt_kit.nn.sharded import is_sharded
from nanogpt_kit.train.pending import PendingScalars

if TYPE_CHECKING:
    from nanogpt_kit.train.trainer import Trainer

SHOWN = 4  # names of tensors in a message; the rest is counted
HELP = 'a lower optimizer.lr, a longer warmup or train.precision = "fp32" often helps'


class FiniteChecks:
    """The checks of one run. Each raises NotFinite, on every rank where one rank has found something."""

    def __init__(self, run: Trainer) -> None:
        """For a model as it was built: buffers that are infinite by then, such as masks, are meant to be."""
        self.run = run
        self.unread: tuple[int, PendingScalars] | None = None  # loss and gradient norm of the newest step
        self.known_good = -1  # how many updates the weights had that a finite loss was computed from
        self.model_read = -1  # the step whose weights were found to be good
        self.steps_read = self.steps_clipped = 0  # since the last logged step
        self.infinite_buffers = set(non_finite(run.model.named_buffers()))

    def note(self, step: int, loss: Tensor, grad_norm: Tensor) -> None:
        """Of the step from the weights that have had `step` updates. `read_step` looks at them when they have come."""
        self.unread = step, PendingScalars(loss, grad_norm)

    def read_step(self) -> None:
        """Reads what `note` was given last, before its weights are evaluated, saved or trained on for long."""
        if self.unread is None:
            return
        (step, numbers), self.unread = self.unread, None
        run = self.run
        loss, grad_norm = numbers.read()
        self.steps_read += 1
        self.steps_clipped += (run.experiment.train.grad_clip or math.inf) < grad_norm < math.inf
        may_overflow = run.scaler.is_enabled()  # it skips steps whose gradient is not finite, and lowers its scale
        if not (math.isfinite(loss) and (may_overflow or math.isfinite(grad_norm))):
            wrong, value = ("norm of the gradient", grad_norm) if math.isfinite(loss) else ("loss", loss)
            starts = run.batches.batches.starts(step)
            shown = ", ".join(map(str, starts[:8])) + (", ..." if len(starts) > 8 else "")
            place = f"step {step + 1}, on the windows that start at tokens {shown} of train"
            raise NotFinite(f"the {wrong} is {value} at {place}; {HELP}")
        self.known_good = step

    def stability(self) -> dict[str, float]:
        """The share of the steps since the last call whose gradient was clipped, and the scale of fp16's gradients."""
        found: dict[str, float] = {}
        if self.run.experiment.train.grad_clip:
            found["optim/clip_fraction"] = self.steps_clipped / max(1, self.steps_read)
        if self.run.scaler.is_enabled():
            found["optim/loss_scale"] = self.run.scaler.get_scale()
        self.steps_read = self.steps_clipped = 0
        return found

    def check_rate(self, rate: float) -> None:
        """A learning rate, before the update that it would spoil."""
        if not 0 <= rate < math.inf:
            schedule = type(self.run.experiment.schedule).__name__
            reason = f"the learning rate of step {self.run.step + 1} is {rate} by schedule {schedule}"
            expected = "expected a finite number that is not negative"
            raise (RunFailed if rate < 0 and math.isfinite(rate) else NotFinite)(f"{reason}; {expected}")

    def check_model(self) -> None:
        """The weights that the newest update made, once a step.

        Finite but enormous ones show in an evaluation, or in the loss of the next step.
        """
        if self.model_read == self.run.step:
            return
        self.read_step()
        self._refuse("the weights are", self.run.model.state_dict().items(), self.infinite_buffers)
        self.model_read = self.run.step

    def check_state(self, training: Mapping[str, Any]) -> None:
        """Every tensor that is saved beside the weights: the optimizer's state, the callbacks'.

        A bound that is infinite for now belongs into a Python float there, not into a tensor.
        """
        self._refuse("the training state is", tensors_in(training))

    def check_metrics(self, metrics: Mapping[str, float]) -> None:
        """Of evaluators that give finite numbers only."""
        broken = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        found = next(filter(None, self.run.world.all_gather(broken)), None)
        if found:
            values = ", ".join(f"{name} is {value}" for name, value in found.items())
            raise NotFinite(f"{values} at step {self.run.step}; {HELP}")

    def _refuse(self, what: str, tensors: Iterable[tuple[str, Any]], allowed: Iterable[str] = ()) -> None:
        found = self.run.world.all_gather(non_finite(tensors))
        names = [name for name in dict.fromkeys(name for names in found for name in names) if name not in allowed]
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            shown = ", ".join(names[:SHOWN])
            raise NotFinite(f"{what} not finite after step {self.run.step}: {shown}{more}; {HELP}")


@torch.no_grad()
def non_finite(tensors: Iterable[tuple[str, Any]]) -> list[str]:
    """The names of those that hold NaN or infinity; of a spread tensor this rank's part counts.

    The largest magnitude of a tensor is finite where all of it is. A sum of squares can overflow by itself, but costs a
    CPU a fifteenth of the time, so that it chooses whom to ask.
    """
    alike: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors:
        if not isinstance(tensor, Tensor):
            continue
        part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
        if (part.is_floating_point() or part.is_complex()) and part.numel():
            part = part.float() if part.element_size() == 1 else part  # fp8 has no norms
            alike[part.device, part.dtype][name] = part
    return [name for group in alike.values() for name in suspects(suspects(group, 2.0), math.inf)]


def suspects(tensors: Mapping[str, Tensor], order: float) -> dict[str, Tensor]:
    """Those, all of one type on one device, whose norm of this order is not finite."""
    if not tensors:
        return {}
    norms = torch.stack(list(torch._foreach_norm(list(tensors.values()), ord=order)))
    found = zip(tensors.items(), norms.isfinite().tolist(), strict=True)
    return dict(item for item, is_finite in found if not is_finite)


def tensors_in(state: Any, at: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested dicts and lists, each under the path to it: "optimizer.state.3.exp_avg"."""
    if isinstance(state, Tensor):
        yield at, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from tensors_in(value, f"{at}.{key}" if at else str(key))
    elif isinstance(state, list | tuple):
        for number, value in enumerate(state):
            yield from tensors_in(value, f"{at}.{number}")
