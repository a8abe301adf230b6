"""Which runs compile the same graph: an identity of all of an experiment that decides it, besides the machine."""

from __future__ import annotations

from typing import Any

from nanogpt_kit.core.code_identity import KIT, hash_source, imports_of_files, source_identity
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.local_component import LocalEntry
from nanogpt_kit.core.machine_choices import COMPILE_TASK
from nanogpt_kit.core.options import digest

SECTIONS = ("model", "init", "parallel", "tokenizer")  # multipliers of an init and a vocabulary's size are constants
TRAIN_OPTIONS = ("batch_tokens", "micro_batch_size", "precision", "device", "activation_checkpointing")
CODE_SECTIONS = ("model", "init", "parallel")


def graph_identity(experiment: Experiment) -> str:
    """A hash that is equal for experiments whose steps compile the same graph on one machine, of the same code.

    Seeds, steps, rates and all of the optimizer decide no graph.
    """
    values = experiment.resolved()
    options = {section: values.get(section) for section in SECTIONS}
    options["model"] = {key: value for key, value in values["model"].items() if key != "init_from"}
    train = {option: values["train"].get(option) for option in TRAIN_OPTIONS}
    targets = [schedule.target for schedule in experiment.schedules]
    return digest([options, train, targets])


def compile_task(experiment: Experiment) -> str:
    """Under which a run records whether its graph is compiled, on any machine."""
    return f"{COMPILE_TASK}{graph_identity(experiment)[:16]}"


def decides_graph(key: str) -> bool:
    """Whether two values of an option, named as in "model.n_layer", have different graphs."""
    section, _, option = key.partition(".")
    return section in SECTIONS or (section == "train" and option in TRAIN_OPTIONS) or key.endswith(".target")


def graph_code(experiment: Experiment) -> dict[str, Any]:
    """The sources of what a graph is made of: the kit's own modules of a network, and the parts of the model."""
    sources: dict[str, Any] = {"nn": hash_source(KIT / "nn"), "local": imports_of_files(experiment)}
    for key, part in experiment.parts():
        entry = experiment.entry_of(part)
        if key[0] in CODE_SECTIONS and not isinstance(entry, LocalEntry):
            sources[entry.qualified] = source_identity(type(part).__module__, entry)
    return sources
