"""The names of a run's metrics, so that options that name one are checked before training."""

from __future__ import annotations

from collections.abc import Collection

from nanogpt_kit.core.errors import Fault, Key, KitError, did_you_mean, dotted
from nanogpt_kit.core.evaluator_metrics import evaluator_metrics, metrics_with_sources
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Callback
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.targets import LEARNING_RATE
from nanogpt_kit.nn.extra_names import extra_names
from nanogpt_kit.nn.uninitialized import build_on_meta
from nanogpt_kit.train.diagnostics import attention_modules

LOGGED_METRICS = {  # the last four not in every run: not all tokens count, and devices and precisions that have them
    "train/loss": "mean loss of the step's tokens, in nats a token",
    "optim/lr": "learning rate of the step, of the first parameters that belong to no group with other options",
    "optim/grad_norm": "norm of the gradient of all parameters, before clipping",
    "optim/clip_fraction": "fraction of the steps since the last line whose gradient was clipped",
    "perf/tokens_per_second": "input tokens of all processes a second, since the last line",
    "train/counted_fraction": "fraction of the step's targets that count; where not all do",
    "optim/loss_scale": "factor of the loss in fp16, which keeps small gradients from becoming zero",
    "perf/mfu": "FLOPs of the model a second, as a fraction of the device's peak; where the peak is known",
    "memory/peak_bytes": "most memory used so far: of the GPU, or of the process; where the system reports it",
}


def check_unique_metrics(experiment: Experiment) -> None:
    """Raises KitError where two evaluators report a metric of the same name, which would end the run."""
    first: dict[str, int] = {}
    faults = []
    for index, evaluator in enumerate(experiment.evaluator):
        for name in metrics_with_sources(evaluator, experiment.dataset.sources) or ():
            if first.setdefault(name, index) != index:
                reason = (
                    f"reports {name!r}, as evaluator.{first[name]} does; remove one of them, or give them other splits"
                )
                location = experiment.layers.location(("evaluator", index, "use"))
                faults.append(Fault(reason, f"evaluator.{index}", location))
    if faults:
        raise KitError(*faults)


def check_metric_options(experiment: Experiment) -> None:
    """Raises KitError where `checkpoint.keep_best` or a callback names a metric that no evaluator reports."""
    names = evaluator_metrics(experiment)
    if names is None:
        return
    best = experiment.checkpoint.keep_best
    named: list[tuple[Key, str]] = [] if best is None else [(("checkpoint", "keep_best"), best)]
    for key, part in experiment.parts():
        if isinstance(part, Callback):
            named += [((*key, option), metric) for option, metric in part.metrics_read().items()]
    faults = [unreported(experiment.layers, key, metric, names) for key, metric in named if metric not in names]
    if faults:
        raise KitError(*faults)


def unreported(layers: Layers, key: Key, metric: str, names: set[str]) -> Fault:
    """At the option that names the metric, or at the evaluators where those were written later."""
    message = f"no evaluator reports {metric!r}{did_you_mean(metric, names)}"
    changed = layers.highest(("evaluator",))
    if layers.height(changed) <= layers.height(key):
        return Fault(message, dotted(key), layers.location(key))
    return Fault(f"{message} {dotted(key)} names it ({layers.location(key)}).", "evaluator", layers.location(changed))


def check_study_metric(experiment: Experiment, metric: str, key: Key = ("sweep", "metric")) -> None:
    """Raises KitError where no run of `experiment` can have the metric that its option `key` names."""
    names = evaluator_metrics(experiment)
    if names is None or metric in names or metric in LOGGED_METRICS:
        return
    auxiliary: Collection[str] | None = ()
    if metric.startswith("aux/"):
        auxiliary = extra_names(experiment.model)
    elif may_be_diagnostic(experiment, metric):
        return
    targets = {schedule.target for schedule in experiment.schedules} - {LEARNING_RATE}
    known = {
        *names,
        *LOGGED_METRICS,
        *(f"schedule/{target}" for target in targets),
        *(f"aux/{name}" for name in auxiliary or ()),
    }
    if auxiliary is None or metric in known:
        return
    message = f"no run of it has a metric {metric!r}{did_you_mean(metric, known)}"
    raise KitError(Fault(message, dotted(key), experiment.layers.location(key)))


def may_be_diagnostic(experiment: Experiment, metric: str) -> bool:
    """Whether `train.watch` or a module of the model may give the metric; those names are known only in a run."""
    watched = metric.partition("/")[0]
    if watched in experiment.train.watch and watched != "attention":
        return True
    model = build_on_meta(experiment.model)
    if model is not None and watched in experiment.train.watch:
        return metric in dict(attention_modules(model))  # which the mixers may not have
    return model is None or any(callable(getattr(module, "logged_metrics", None)) for module in model.modules())
