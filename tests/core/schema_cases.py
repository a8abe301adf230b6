"""Experiment files for the tests of the schema: those that are shipped, changed ones, planted mistakes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import tomli

import nanogpt_kit
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment

Values = dict[str, Any]
SHIPPED = Path(nanogpt_kit.__path__[0]).parent / "experiments"

PLAIN_VALUES = (
    *(0, 1, -1, 2, 10**13, 0.0, 1.0, 0.5, 1.5, True, "", "x", "auto"),
    *([], [1], ["x"], [0.5, 0.5], [0.5, 1.0], {}, {"use": "x"}),
)
NAMES = (
    "gelu",
    "adamw",
    "nanogpt-kit/adamw",
    ["top_k"],
    [{"use": "greedy"}],
    {"use": "adamw"},
)  # to other options: "x"

BASE = """
name = "base"
dataset = "python_stdlib"
tokenizer = "byte"
optimizer = "adamw"
schedule = "cosine"
train = { steps = 10, batch_tokens = 1024 }
model = "gpt"
"""
WHOLE = BASE.replace('model = "gpt"\n', "")
NO_OPTIMIZER = BASE.replace('optimizer = "adamw"\n', "")
NO_TRAIN = BASE.replace("train = { steps = 10, batch_tokens = 1024 }\n", "")

MISTAKES = {  # what is wrong -> an experiment file
    "a section is misspelt": f"{NO_TRAIN}[trian]\nsteps = 10\nbatch_tokens = 1024",
    "a key of a section is misspelt": f"{BASE}[evaluate]\nevery_step = 5",
    "a key of a component is misspelt": f"{NO_OPTIMIZER}[optimizer]\nuse = 'adamw'\nbeta = [0.9, 0.95]",
    "a key of an unnamed component is misspelt": "extends = 'base.toml'\n[optimizer]\nbeta = [0.9, 0.95]",
    "a key of a part is misspelt": f"{WHOLE}[model]\nuse = 'gpt'\nnorm = {{ use = 'rmsnorm', epsilon = 1e-6 }}",
    "a component is misspelt": BASE.replace("adamw", "adamv"),
    "a component in a table is misspelt": f"{NO_OPTIMIZER}[optimizer]\nuse = 'adamv'\nlr = 1e-3",
    "a part is misspelt": f"{WHOLE}[model]\nuse = 'gpt'\nattention = 'spda'",
    "a part of a list is misspelt": f"{WHOLE}[model]\nuse = 'gpt'\nattention = ['sdpa', 'spda']",
    "an option of a listed part is misspelt": f"{WHOLE}[model]\nuse = 'gpt'\nnorm = [{{ use = 'rmsnorm', e = 1 }}]",
    "a list of parts is empty": f"{WHOLE}[model]\nuse = 'gpt'\nmlp = []",
    "a list is within a list of parts": f"{WHOLE}[model]\nuse = 'gpt'\nmlp = [['gelu']]",
    "a slot of the whole model is a list": f"{WHOLE}[model]\nuse = 'gpt'\nloss = ['cross_entropy']",
    "an option of a listed part of a base is misspelt": "extends = 'base.toml'\n[model.attention.0]\nwndow = 3",
    "a component is of another kind": f"{WHOLE}[model]\nuse = 'gpt'\nnorm = 'gelu'",
    "an option is another component's": f"{NO_OPTIMIZER}[optimizer]\nuse = 'adamw'\nmomentum = 0.9",
    "an option is another section's": f"{BASE}[evaluate]\nkeep_last = 5",
    "a word stands for a number": f"{NO_OPTIMIZER}[optimizer]\nuse = 'adamw'\nlr = 'fast'",
    "a number stands for true or false": f"{WHOLE}[model]\nuse = 'gpt'\nbias = 1",
    "a fraction stands for a count": BASE.replace("steps = 10", "steps = 10.5"),
    "a number is out of bounds": BASE.replace("steps = 10", "steps = -1"),
    "a number is at a bound that it may not reach": f"{NO_OPTIMIZER}[optimizer]\nuse = 'adamw'\nlr = 0",
    "an element is at a bound": f"{NO_OPTIMIZER}[optimizer]\nuse = 'adamw'\nbetas = [0.9, 1.0]",
    "a list is too short": f"{NO_OPTIMIZER}[optimizer]\nuse = 'adamw'\nbetas = [0.9]",
    "a choice is unknown": BASE.replace("steps = 10", "steps = 10, precision = 'fp8'"),
    "one of two types is wrong": BASE.replace("steps = 10", "steps = 10, micro_batch_size = 'all'"),
    "a required section is missing": NO_TRAIN,
    "a required key is missing": BASE.replace("steps = 10, ", ""),
    "a required option of a component is missing": BASE.replace('"python_stdlib"', '"text"'),
    "a table names no component": f"{NO_OPTIMIZER}[optimizer]\nlr = 1e-3",
    "a list of components is a table": f"{BASE}[sampler]\nuse = 'top_k'",
    "a component of a list is misspelt in a key": f"{BASE}sampler.temprature = 0.5",
    "an option of a component of a list is misspelt": f"{BASE}[sampler.top_k]\nkk = 5",
    "the only option of a component of a list is wrong": f"{BASE}sampler.temperature = -1",
    "a component of a list is misspelt": f"{BASE}[[callback]]\nuse = 'tensorbord'",
    "a sampler of a sweep is unknown": f"{BASE}[sweep]\nsampler = 'tpee'\nspace = {{}}",
    "a match of an ablation is unknown": f"{BASE}[ablate]\nmatch = 'flop'",
    "a key of an ablation is unknown": f"{BASE}[ablate]\ntrials = 3",
    "a sweep has no space": f"{BASE}[sweep]\ntrials = 3",
    "the name is not a name": BASE.replace('"base"', '"a b"'),
}

CLEAN = {  # what is allowed -> an experiment file
    "one part of a base": "extends = 'base.toml'\nmodel.attention = 'naive'",
    "an option of a part of a base": "extends = 'base.toml'\n[model.norm]\neps = 1e-6",
    "a list of parts": f"{WHOLE}[model]\nuse = 'gpt'\nattention = [{{ use = 'sdpa', window = 8 }}, 'sdpa']",
    "parts of a list in tables": f"{WHOLE}[model]\nuse = 'gpt'\n[[model.mlp]]\nuse = 'relu2'\nwidth = 2",
    "an option that several components have": "extends = 'base.toml'\n[optimizer]\nlr = 0.2",
    "required options in the base": "extends = 'base.toml'\n[dataset]\nuse = 'text'",
    "an element of a list of the base": "extends = 'base.toml'\ncallback.0.every_seconds = 2",
    "an option of a component of a list": "extends = 'base.toml'\n[callback.console]\nevery_seconds = 2",
    "the only option of a component of a list": f"{BASE}sampler.temperature = 0.5",
    "an option of a local component of a list": "extends = 'base.toml'\ncallback.mine.every_steps = 5",
    "a local component file": f"{WHOLE}components = ['mine.py']\n[model]\nuse = 'gpt'\nmlp = 'mine'",
    "a local component file with options": f"{NO_OPTIMIZER}components = ['my.py']\n[optimizer]\nuse = 'my'\nx = [1]",
    "a local component file of the base": "extends = 'base.toml'\nmodel.mlp = { use = 'mine', slope = 0.1 }",
    "a whole number for a number": f"{NO_OPTIMIZER}[optimizer]\nuse = 'adamw'\nlr = 1",
    "a name with its distribution": BASE.replace("adamw", "nanogpt-kit/adamw"),
    "components in components": f"{NO_OPTIMIZER}[optimizer]\nuse = 'muon'\nothers = {{ use = 'sgd', lr = 0.1 }}",
    "a list of names": f"{BASE}sampler = ['temperature', {{ use = 'top_k', k = 5 }}]",
    "a list or one": BASE.replace('"python_stdlib"', "{ use = 'text', source = ['a', 'b'] }"),
    "any key in an ablation": f"{BASE}[ablate.vary]\n'model.n_layer' = [1]\nx.y.z = [1]\n[ablate.changes.b]\nx.y = 1",
    "any key in a space": f"{BASE}[sweep.space]\n'model.n_layer' = {{ int = [1, 3] }}\nx.y.z = 1",
}


def values_of(path: Path) -> Values:
    return tomli.loads(path.read_text(encoding="utf-8"))


def mutations(values: Values, slots: Collection[str] | None = None) -> Iterator[tuple[str, Values]]:
    """Every key with other values, misspelt and left out, and every table with a key too many.

    Only those of `slots` take names of components; None: any may."""
    for key in keys(values):
        others = (*PLAIN_VALUES, *(NAMES if slots is None or key[-1] in slots else ()))
        for other in others if key != ("extends",) else ():  # `refusal` reads it from the file
            yield f"{key} = {other!r}", changed(values, key, lambda at, part, other=other: at.__setitem__(part, other))
        yield f"without {key}", changed(values, key, lambda at, part: at.pop(part))
        if isinstance(key[-1], str):
            yield f"{key} misspelt", changed(values, key, lambda at, part: at.__setitem__(f"{part}x", at.pop(part)))
            yield f"lr beside {key}", changed(values, key, lambda at, part: at.__setitem__("lr", 1.0))


def keys(values: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for part, value in items:
        yield (*at, part)
        if (*at, part) not in (("sweep", "space"), ("ablate", "vary"), ("ablate", "changes")):
            yield from keys(value, (*at, part))


def changed(values: Values, key: tuple[str | int, ...], change: Callable[[Any, Any], Any]) -> Values:
    result = copy.deepcopy(values)
    table: Any = result
    for part in key[:-1]:
        table = table[part]
    change(table, key[-1])
    return result


def refusal(values: Values, path: Path) -> str:
    """What the loader says about an experiment with these values in place of the file's; empty where it is valid."""
    values = copy.deepcopy(values)
    base = values.pop("extends", None)
    layers = loaded(SHIPPED / f"{(base or 'quickstart').removesuffix('.toml')}.toml").layers.copy()
    if base is None:
        layers.values.clear()
        layers.locations.clear()
    try:
        layers.add(values, lambda key: "here")
        Experiment.of(layers, path.parent)
    except KitError as error:
        return str(error)
    return ""


loaded = functools.cache(Experiment.load)
