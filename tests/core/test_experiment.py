"""What a user is told about an experiment file, and what a loaded experiment says of itself."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tomli
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext

VALID = """\
name = "x"
[dataset]
use = "python_stdlib"
[tokenizer]
use = "byte"
[model]
use = "gpt"
n_head = 3
n_embd = 24
block_size = 16
norm = { use = "layernorm", eps = 1e-6 }
[optimizer]
use = "adamw"
lr = 3e-3
betas = [0.9, 0.95]
[schedule]
use = "cosine"
[train]
steps = 20
batch_tokens = 80
[[callback]]
use = "console"
every_seconds = 1
"""


def load(folder: Path, text: str = VALID, *overrides: str) -> Experiment:
    path = folder / "exp.toml"
    path.write_text(text, encoding="utf-8")
    return Experiment.load(path, overrides, trust_code=True)


def faults(folder: Path, text: str = VALID, *overrides: str) -> list[str]:
    with pytest.raises(KitError) as refused:
        load(folder, text, *overrides)
    return [str(fault).removeprefix(f"{folder}/") for fault in refused.value.faults]


def test_a_valid_file_loads_and_defaults_fill_in_the_rest(tmp_path: Path) -> None:
    values = load(tmp_path).resolved()
    assert values["model"]["norm"] == {"use": "layernorm", "eps": 1e-6}
    assert values["model"]["attention"] == {"use": "sdpa", "backend": "auto"}
    assert values["train"]["grad_clip"] == 1.0
    assert [sampler["use"] for sampler in values["sampler"]] == ["temperature", "top_k"]
    assert values["callback"] == [{"use": "console", "every_seconds": 1.0, "smoothing": 10}]


MISTAKES = {
    "misspelt section": (
        ('name = "x"', 'name = "x"\nmodl = "gpt"'),
        "exp.toml:2: modl: unknown key; did you mean 'model'? Allowed: ablate, callback, checkpoint, ",
    ),
    "misspelt extends": (
        ('name = "x"', 'name = "x"\nextend = "a"'),
        "exp.toml:2: extend: unknown key; did you mean 'extends'?",
    ),
    "misspelt in a section": (
        ("steps = 20", "steps = 20\nsed = 1"),
        "exp.toml:20: train.sed: unknown key; did you mean 'seed'? Allowed: ",
    ),
    "misspelt in a slot": (("n_head", "n_heads"), "exp.toml:8: model.n_heads: unknown key; did you mean model.n_head?"),
    "misspelt in a slot within a slot": (
        ("eps =", "epsilon ="),
        "exp.toml:11: model.norm.epsilon: unknown key; did you mean model.norm.eps? Allowed: bias, eps.",
    ),
    "misspelt in an element": (
        ("every_seconds", "every_second"),
        "exp.toml:23: callback.0.every_second: unknown key; did you mean 'every_seconds'?",
    ),
    "string for a whole number": (("= 20", '= "20"'), "exp.toml:19: train.steps: should be a whole number, got '20'"),
    "float for a whole number": (("= 20", "= 20.0"), "exp.toml:19: train.steps: should be a whole number, got 20.0"),
    "boolean for a whole number": (("= 20", "= true"), "exp.toml:19: train.steps: should be a whole number, got true"),
    "string for a number": (("= 3e-3", "= 'x'"), "exp.toml:14: optimizer.lr: should be a number, got 'x'"),
    "boolean for a number": (("= 3e-3", "= true"), "exp.toml:14: optimizer.lr: should be a number, got true"),
    "number for a boolean": (
        ("n_head", "bias = 1\nn_head"),
        "exp.toml:8: model.bias: should be true or false, got 1",
    ),
    "number for a string": (('"x"', "7"), "exp.toml:1: name: should be a string, got 7"),
    "number for a list": (
        ("[0.9, 0.95]", "0.9"),
        "exp.toml:15: optimizer.betas: should be a list, as in betas = [0.9, 0.95], got 0.9",
    ),
    "number for a table": (('"x"', '"x"\nsample = 3'), "exp.toml:2: sample: should be a table, got 3"),
    "number for a component": (
        ('{ use = "layernorm", eps = 1e-6 }', "3"),
        "exp.toml:11: model.norm: should be the name of a component of kind norm, a table with `use`, or a list",
    ),
    "number for a name": (
        ('"adamw"', "3"),
        "exp.toml:13: optimizer.use: should be the name of a component of kind optimizer, ",
    ),
    "table for a list": (
        ("[[callback]]", "[callback]"),
        'as in callback = ["console"] or [[callback]], got {',
    ),
    "a name with a slash": (('"x"', '"a/b"'), "exp.toml:1: name: should match pattern "),
    "an unknown choice": (
        ("= 20", '= 20\nprecision = "fp64"'),
        "exp.toml:20: train.precision: should be 'auto', 'fp32', 'tf32', 'bf16' or 'fp16', got 'fp64'",
    ),
    "below the least": (("= 20", "= -1"), "exp.toml:19: train.steps: should be greater than or equal to 0, got -1"),
    "infinity": (("= 3e-3", "= inf"), "exp.toml:14: optimizer.lr: should be a finite number, got inf"),
    "no number": (("= 3e-3", "= nan"), "exp.toml:14: optimizer.lr: should be a finite number, got nan"),
    "an element out of bounds": (("0.95]", "1.5]"), "exp.toml:15: optimizer.betas.1: should be less than 1, got 1.5"),
    "too few elements": (("0.9, 0.95]", "0.9]"), "exp.toml:15: optimizer.betas.1: missing"),
    "two types allowed": (
        ('"python_stdlib"', '"text"\nsource = 4'),
        "exp.toml:4: dataset.source: should be a string or a list, got 4",
    ),
    "unknown component": (
        ('"layernorm"', '"layer_norm"'),
        "exp.toml:11: model.norm.use: unknown norm 'layer_norm'; did you mean 'layernorm'? Allowed: layernorm",
    ),
    "unknown component by its short form": (
        ('name = "x"', 'name = "x"\nsampler = ["top_k", "tempratur"]'),
        "exp.toml:2: sampler.1: unknown sampler 'tempratur'; did you mean 'temperature'?",
    ),
    "no use, with a default": (
        ('use = "layernorm", ', ""),
        "exp.toml:11: model.norm: the table names no component of kind norm; add use = one of: layernorm",
    ),
    "no use, without a default": (
        ('use = "adamw"\n', ""),
        "exp.toml:12: optimizer: the table names no component of kind optimizer; add use = one of: adamw",
    ),
    "no use, in a list": (
        ('use = "console"\n', ""),
        "exp.toml:21: callback.0: the table names no component of kind callback; ",
    ),
    "missing section": (("[train]\nsteps = 20\nbatch_tokens = 80\n", ""), "exp.toml: train: missing"),
    "missing component": (
        ('[schedule]\nuse = "cosine"\n', ""),
        "exp.toml: schedule: missing; add [schedule] with use = one of: constant, cosine",
    ),
    "missing key": (
        ("steps = 20\n", ""),
        "exp.toml:18: train.steps: missing (number of optimizer updates; 0: only evaluate",
    ),
    "missing option": (
        ('"python_stdlib"', '"text"'),
        "exp.toml:2: dataset.source: missing (text files, globs or folders, ",
    ),
    "missing option of a short form": (
        ('[dataset]\nuse = "python_stdlib"', 'dataset = "text"'),
        "exp.toml:2: dataset.source: missing (text files, globs or folders, ",
    ),
    "a batch of broken windows": (
        ("= 80", "= 100"),
        "exp.toml:20: train.batch_tokens: train.batch_tokens (100) should be a multiple of model.block_size (16); ",
    ),
    "a batch below one window": (
        ("= 80", "= 3"),
        "train.batch_tokens (3) should be a multiple of model.block_size (16); the nearest is 16",
    ),
    "heads that do not share": (
        ("= 24", "= 25"),
        "exp.toml:9: model.n_embd: n_embd (25) should be a multiple of n_head (3)",
    ),
    "no list of files": (
        ('"x"', '"x"\ncomponents = "a.py"'),
        "exp.toml:2: components: should be a list, as in components = [\"a.py\"], got 'a.py'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_with_line_key_and_remedy(mistake: str, tmp_path: Path) -> None:
    (old, new), told = MISTAKES[mistake]
    assert old in VALID
    (found,) = faults(tmp_path, VALID.replace(old, new, 1))
    assert told in found


def test_a_table_without_use_is_told_the_default(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, VALID.replace('use = "layernorm", ', ""))
    assert found.endswith("; the default is use = 'layernorm'")


def test_a_whole_number_may_stand_for_a_number(tmp_path: Path) -> None:
    lr = load(tmp_path, VALID.replace("3e-3", "1")).resolved()["optimizer"]["lr"]
    assert (lr, type(lr)) == (1.0, float)


def test_all_faults_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    text = VALID
    for old, new in [("n_head", "n_heads"), ("eps", "epsilon"), ("= 20", "= -1"), ("cosine", "cosin"), ("lr", "rl")]:
        text = text.replace(old, new, 1)
    keys = [fault.split(": ")[1] for fault in faults(tmp_path, text)]
    assert sorted(keys) == ["model.n_heads", "model.norm.epsilon", "optimizer.rl", "schedule.use", "train.steps"]


def test_a_fault_on_the_command_line_is_located_there(tmp_path: Path) -> None:
    told = faults(tmp_path, VALID, "train.steps=-1", "model.norm.epsilon=1", "sampler=[3]")
    assert all(fault.startswith("command line: ") for fault in told)
    assert [fault.split(": ")[1] for fault in told] == ["model.norm.epsilon", "train.steps", "sampler.0"]


def test_a_fault_is_located_in_the_file_that_contains_it(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(VALID.replace("= 20", "= -1"), encoding="utf-8")
    (found,) = faults(tmp_path, 'extends = "base.toml"\n[optimizer]\nlr = 1')
    assert found.startswith("base.toml:19: train.steps: ")


def test_a_missing_component_file_is_reported_where_it_is_named(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, VALID.replace('"x"', '"x"\ncomponents = ["gone.py"]'))
    assert (
        found
        == f"exp.toml:2: components: component file {tmp_path / 'gone.py'} cannot be read: No such file or directory"
    )


def every(values: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [key for part, value in items for key in [(*at, part), *every(value, (*at, part))]]


COMPLETE = tomli.loads(VALID) | {
    "evaluator": ["loss", {"use": "bits_per_byte", "split": "val"}],
    "dataset": {"use": "text", "source": ["a", "b"]},
    "sampler": [{"use": "temperature", "value": 1.0}, "top_k"],
    "sample": {"prompt": "x", "seed": 3},
    "components": [],
}
ANYTHING = st.recursive(
    st.sampled_from([0, 1, -1, 2.5, True, "", "x", "gpt", "layernorm", float("nan"), [], {}, 10**30]),
    lambda part: (
        st.lists(part, max_size=2) | st.dictionaries(st.sampled_from(["use", "x", "eps", "0"]), part, max_size=2)
    ),
    max_leaves=3,
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(every(COMPLETE)), st.none() | ANYTHING), min_size=1, max_size=3))
def test_any_document_is_valid_or_refused_with_its_location(changes: list[tuple[tuple[str | int, ...], Any]]) -> None:
    values = copy.deepcopy(COMPLETE)
    for key, value in changes:
        table: Any = values
        try:
            for part in key[:-1]:
                table = table[part]
            if isinstance(table, dict) and isinstance(key[-1], int):
                continue  # an earlier change put a table in the list's place
            if value is None:
                del table[key[-1]]
            else:
                table[key[-1]] = value
        except (KeyError, IndexError, TypeError):
            pass  # an earlier change took the table away
    with tempfile.TemporaryDirectory() as folder:
        try:
            load(Path(folder), tomli_w.dumps(values))
        except KitError as refused:
            for fault in refused.faults:
                assert fault.location.startswith(str(Path(folder) / "exp.toml"))
                assert fault.key
                assert fault.message


# --- what was loaded --------------------------------------------------------------------------------------------


def optional(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=options)


def component(use: str, **options: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.just(use) | optional(**options).map(lambda chosen: {"use": use, **chosen})


WHOLE = st.integers(1, 10**12)
POSITIVE = st.floats(0, 1e300, exclude_min=True) | st.integers(1, 10**6)
SHARE = st.floats(0, 1, exclude_max=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PATH = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="$~%"), max_size=20)  # nothing to replace


@st.composite
def experiments(draw: st.DrawFn) -> dict[str, Any]:
    head, block = draw(st.integers(1, 9)), draw(st.integers(1, 99))
    model = optional(
        n_layer=st.integers(1, 10_000),
        dropout=SHARE,
        bias=st.booleans(),
        attention=component("sdpa") | component("naive"),
        position=component("learned"),
        norm=component("layernorm", eps=POSITIVE),
        mlp=component("gelu", approximate=st.sampled_from(["none", "tanh"])),
    )
    sampler = component("temperature", value=POSITIVE) | component("top_k", k=WHOLE)
    train = optional(
        micro_batch_size=WHOLE,
        grad_clip=POSITIVE,
        seed=st.integers(0, 2**63 - 1),
        device=st.sampled_from(["auto", "cpu", "cuda", "mps"]),
        log_every_steps=WHOLE,
    )
    shape = {"n_head": head, "n_embd": head * draw(st.integers(1, 99)), "block_size": block}
    times = {"steps": draw(WHOLE), "batch_tokens": block * draw(st.integers(1, 99))}
    text = component("python_stdlib", val_bytes=WHOLE) | st.builds(
        lambda source, field: {"use": "text", "source": source, "field": field}, PATH | st.lists(PATH, max_size=3), TEXT
    )
    return {
        "name": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]*", fullmatch=True)),
        "dataset": draw(text),
        "tokenizer": draw(component("byte") | component("char")),
        "model": {"use": "gpt", **shape, **draw(model)},
        "optimizer": draw(component("adamw", lr=POSITIVE, betas=st.lists(SHARE, min_size=2, max_size=2))),
        "schedule": draw(
            component("constant", warmup_steps=WHOLE)
            | component("cosine", decay_steps=WHOLE, final_fraction=st.floats(0, 1))
        ),
        "train": times | draw(train),
        **draw(
            optional(
                order=component("random") | component("shuffled"),
                init=component("gpt2", std=POSITIVE),
                evaluate=optional(every_steps=WHOLE, batch_size=WHOLE),
                evaluator=st.lists(
                    component("loss", split=st.sampled_from(["val", "test"])) | component("bits_per_byte"), max_size=3
                ),
                checkpoint=optional(every_steps=WHOLE, keep_last=WHOLE),
                callback=st.lists(component("console", every_seconds=POSITIVE) | component("tensorboard"), max_size=3),
                sample=optional(prompt=TEXT, num_samples=st.integers(0, 9)),
                sampler=st.lists(sampler, max_size=3),
            )
        ),
    }


@settings(deadline=None)
@given(experiments())
def test_a_recorded_experiment_loads_as_the_same_experiment(values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = load(Path(folder), tomli_w.dumps(values))
        again = load(Path(folder), first.to_toml())
    assert again == first
    assert again.to_toml() == first.to_toml()
    assert again.fingerprint() == first.fingerprint()
    assert again.configuration() == first.configuration()
    assert again.differences(first) == {}
    assert all("default" not in again.location(key) for key in every(again.resolved()))


@settings(deadline=None)
@given(experiments())
def test_every_value_of_the_file_is_recorded(values: dict[str, Any]) -> None:
    def holds(written: Any, resolved: Any) -> bool:
        if isinstance(written, dict):
            return all(holds(value, resolved[key]) for key, value in written.items())
        if isinstance(written, list) and isinstance(resolved, list):
            return len(written) == len(resolved) and all(map(holds, written, resolved))
        if isinstance(resolved, dict):
            return bool(resolved["use"] == written)
        return bool(resolved == written)

    with tempfile.TemporaryDirectory() as folder:
        assert holds(values, load(Path(folder), tomli_w.dumps(values)).resolved())


CHANGES = [
    "train.seed=1",
    "train.steps=21",
    "optimizer.lr=4e-3",
    "optimizer.betas.0=0.8",
    "model.attention=naive",
    "model.norm.eps=1e-7",
    "callback.0.every_seconds=2",
    "callback=[]",
    "sampler=['top_k']",
    "schedule=constant",
    "train.micro_batch_size=2",
]


def test_the_fingerprint_changes_with_everything_except_the_name(tmp_path: Path) -> None:
    prints = [load(tmp_path, VALID, *change).fingerprint() for change in [(), *zip(CHANGES, strict=True)]]
    assert len(set(prints)) == len(prints)
    assert load(tmp_path, VALID, "name=y").fingerprint() == prints[0]
    assert load(tmp_path, VALID, "train.seed=1337").fingerprint() == prints[0]  # the default, written out


@pytest.mark.parametrize("change", CHANGES)
def test_differences_name_the_key_that_changed(change: str, tmp_path: Path) -> None:
    first, second = load(tmp_path), load(tmp_path, VALID, change)
    key = change.partition("=")[0]
    assert first != second
    assert first.differences(second)
    assert all(found.startswith(key) for found in first.differences(second))


def test_a_difference_shows_both_values_and_none_where_there_is_none(tmp_path: Path) -> None:
    changed = load(tmp_path, VALID, "schedule=constant", "train.steps=30")
    assert load(tmp_path).differences(changed) == {
        "schedule.use": ("cosine", "constant"),
        "schedule.warmup_steps": (100, 0),
        "schedule.final_fraction": (0.1, None),
        "train.steps": (20, 30),
    }


@pytest.mark.parametrize(
    ("key", "where"),
    [
        (("name",), "exp.toml:2"),
        (("optimizer", "use"), "base.toml:13"),
        (("optimizer", "lr"), "exp.toml:4"),
        (("optimizer", "betas", 1), "base.toml:15"),
        (("optimizer", "weight_decay"), "default"),
        (("model", "norm", "use"), "base.toml:11"),
        (("model", "mlp", "use"), "exp.toml:6"),
        (("model", "attention", "use"), "default"),
        (("train", "steps"), "command line"),
        (("train", "seed"), "default"),
        (("callback", 0, "every_seconds"), "command line"),
        (("callback", 0, "use"), "base.toml:22"),
        (("sampler", 0, "use"), "default"),
    ],
)
def test_every_value_has_its_location(key: tuple[str | int, ...], where: str, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(VALID, encoding="utf-8")
    top = 'extends = "base.toml"\nname = "y"\n[optimizer]\nlr = 1\n[model]\nmlp = "gelu"'
    experiment = load(tmp_path, top, "train.steps=30", "callback.0.every_seconds=3")
    assert Path(experiment.location(key)).name == where


def test_a_dropped_option_is_noted(tmp_path: Path) -> None:
    (note,) = load(tmp_path, VALID.replace('"cosine"', '"cosine"\nwarmup_steps = 5'), "schedule=constant").notes
    assert note.startswith("schedule: 'constant' (command line) replaces 'cosine' (")
    assert note.endswith("dropped its warmup_steps")


def test_parts_are_all_components_with_their_keys(tmp_path: Path) -> None:
    experiment = load(tmp_path, VALID, "sampler=['top_k', 'temperature']")
    parts = {".".join(map(str, key)): experiment.entry_of(part).name for key, part in experiment.parts()}
    assert parts["model"] == "gpt"
    assert parts["model.norm"] == "layernorm"
    assert (parts["sampler.0"], parts["sampler.1"]) == ("top_k", "temperature")
    assert {key.split(".")[0] for key in parts} == {
        *("dataset", "tokenizer", "order", "model", "init", "optimizer", "schedule", "parallel"),
        *("evaluator", "callback", "sampler"),
    }


REFUSING = """\
from nanogpt_kit.api import Norm, Attention

class Refuses({base}):
    def build(self, ctx): ...

    def refusal_reason(self, ctx):
        return f"not on {{ctx.device}}" if ctx.device == "cpu" else None
"""


def test_components_refuse_a_context_before_anything_is_built_all_at_once(tmp_path: Path) -> None:
    for name, base in {"my_norm": "Norm", "my_attention": "Attention"}.items():
        (tmp_path / f"{name}.py").write_text(REFUSING.format(base=base), encoding="utf-8")
    text = VALID.replace('"x"', '"x"\ncomponents = ["my_norm.py", "my_attention.py"]')
    experiment = load(tmp_path, text, "model.norm=my_norm", "model.attention=my_attention")
    there = RunContext(device="cuda", precision="fp32", world_size=1, splits=("train", "val"), block_size=16)
    experiment.check_context(there)
    with pytest.raises(KitError) as refused:
        experiment.check_context(dataclasses.replace(there, device="cpu"))
    assert [str(fault) for fault in refused.value.faults] == [
        "command line: model.attention: not on cpu",
        "command line: model.norm: not on cpu",
    ]


def test_a_batch_is_counted_in_windows(tmp_path: Path) -> None:
    assert load(tmp_path).step_plan.most_windows == 5


@pytest.mark.parametrize(("most", "steps"), [(79 + 1, 1), (159, 1), (160, 2), (10_000, 20)])
def test_a_budget_of_tokens_is_whole_steps_within_it(most: int, steps: int, tmp_path: Path) -> None:
    assert (
        load(tmp_path, VALID.replace("batch_tokens = 80", f"batch_tokens = 80\nmax_tokens = {most}")).total_steps
        == steps
    )


def test_a_budget_of_less_than_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"train\.max_tokens \(79\) should be at least train\.batch_tokens \(80\)"):
        load(tmp_path, VALID.replace("batch_tokens = 80", "batch_tokens = 80\nmax_tokens = 79"))


def test_nothing_changes_an_experiment_after_it_was_loaded(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    for table, key in itertools.product([experiment, experiment.train, experiment.model], ["name", "steps", "n_head"]):
        with pytest.raises(ValueError, match=r"frozen|has no field"):
            setattr(table, key, 1)
