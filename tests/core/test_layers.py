"""What holds where several files and the command line speak of the same key, and who said it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_kit.core.errors import Key, KitError
from nanogpt_kit.core.key_rules import KeyRules
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.core.overrides import parse_override
from nanogpt_kit.core.sections import is_free_form


class SpaceKeys(KeyRules):
    """Of the experiment only what concerns a sweep."""

    def is_free_form(self, key: Key, over_list: bool) -> bool:
        return is_free_form(key, over_list)


def layers(folder: Path, top: str, *overrides: str, base: str = "") -> Layers:
    (folder / "base.toml").write_text(base, encoding="utf-8")
    (folder / "top.toml").write_text('extends = "base.toml"\n' + top, encoding="utf-8")
    return Layers.load(folder / "top.toml", overrides, SpaceKeys())


def place(layers: Layers, *key: str | int) -> str:
    return Path(layers.location(key)).name


def test_the_command_line_overrides_the_file_and_the_file_its_base(tmp_path: Path) -> None:
    found = layers(tmp_path, "[train]\nb = 2\nc = 2", "train.c=3", base="\n[train]\na = 1\nb = 1\nc = 1")
    assert found.values == {"train": {"a": 1, "b": 2, "c": 3}}
    places = [place(found, "train", key) for key in "abc"]
    assert places == ["base.toml:3", "top.toml:3", "command line"]


@pytest.mark.parametrize(
    "overrides", list(itertools.permutations(["model.norm.use=b", "model.norm.x=5", "model.norm.y=6"]))
)
def test_another_component_drops_the_old_options_whatever_the_order(overrides: tuple[str, ...], tmp_path: Path) -> None:
    found = layers(tmp_path, '[model.norm]\nuse = "a"\nx = 1\nz = 1', *overrides)
    assert found.values == {"model": {"norm": {"use": "b", "x": 5, "y": 6}}}
    (note,) = found.notes
    assert note.startswith("model.norm: 'b' (command line) ")
    assert f"'a' ({tmp_path / 'top.toml'}:3); dropped its x, z" in note
    assert found.location(("model", "norm", "z")) == "command line"


def test_another_component_in_a_file_is_told_with_both_places(tmp_path: Path) -> None:
    found = layers(tmp_path, '[schedule]\nuse = "b"\nz = 2', base='[schedule]\nuse = "a"\nx = 1\ny = 1')
    assert found.values == {"schedule": {"use": "b", "z": 2}}
    (note,) = found.notes
    assert note.startswith(f"schedule: 'b' ({tmp_path / 'top.toml'}:3) ")
    assert f"'a' ({tmp_path / 'base.toml'}:2); dropped its x, y" in note


def test_slots_within_a_dropped_component_go_with_it(tmp_path: Path) -> None:
    base = '[model]\nuse = "a"\nnorm = { use = "n", eps = 1 }'
    found = layers(tmp_path, "", "model=b", "model.norm.eps=2", base=base)
    assert found.values == {"model": {"use": "b", "norm": {"eps": 2}}}


@pytest.mark.parametrize("same", ['[norm]\nuse = "a"', 'norm = "a"', "[norm]", ""])
def test_the_same_component_keeps_its_options(same: str, tmp_path: Path) -> None:
    found = layers(tmp_path, same, base='[norm]\nuse = "a"\nx = 1')
    assert found.values == {"norm": {"use": "a", "x": 1}}
    assert found.notes == []


def test_a_name_that_replaces_a_name_drops_no_options(tmp_path: Path) -> None:
    found = layers(tmp_path, 'norm = "b"', base='norm = "a"')
    assert found.values == {"norm": "b"}
    assert found.notes == []


def test_a_name_that_replaces_a_table_is_short_for_its_use(tmp_path: Path) -> None:
    found = layers(tmp_path, 'norm = "b"', base='[norm]\nuse = "a"\nx = 1')
    assert found.values == {"norm": {"use": "b"}}
    assert place(found, "norm", "use") == "top.toml:2"
    assert "dropped its x" in found.notes[0]


def test_options_that_follow_a_name_extend_it(tmp_path: Path) -> None:
    found = layers(tmp_path, "[norm]\nx = 2", "norm.y=3", base='norm = "a"')
    assert found.values == {"norm": {"use": "a", "x": 2, "y": 3}}
    assert [place(found, "norm", key) for key in ("use", "x", "y")] == ["base.toml:1", "top.toml:3", "command line"]


def test_a_table_that_names_another_component_replaces_a_name(tmp_path: Path) -> None:
    found = layers(tmp_path, '[norm]\nuse = "b"\nx = 2', base='norm = "a"')
    assert found.values == {"norm": {"use": "b", "x": 2}}
    assert place(found, "norm", "use") == "top.toml:3"
    assert found.notes == []


def test_lists_are_replaced_whole(tmp_path: Path) -> None:
    base = 'betas = [1, 2]\n[[callback]]\nuse = "a"\nx = 1\n[[callback]]\nuse = "b"'
    found = layers(tmp_path, '[[callback]]\nuse = "a"', "betas=[3]", base=base)
    assert found.values == {"betas": [3], "callback": [{"use": "a"}]}
    assert place(found, "callback", 0, "use") == "top.toml:3"
    assert place(found, "callback", 0, "x") == "top.toml:2"
    assert place(found, "callback", 1) == "top.toml:2"
    assert found.notes == []


def test_a_number_addresses_an_element(tmp_path: Path) -> None:
    top = 'betas = [0.9, 0.95]\ncallback = ["a", { use = "b", x = 1 }]'
    found = layers(tmp_path, top, "callback.0.x=5", "callback.1.x=6", "betas.1=0.99")
    assert found.values == {"betas": [0.9, 0.99], "callback": [{"use": "a", "x": 5}, {"use": "b", "x": 6}]}
    assert place(found, "callback", 0, "use") == place(found, "callback", 1, "use") == "top.toml:3"
    assert place(found, "callback", 0, "x") == place(found, "betas", 1) == "command line"


def test_another_component_may_take_an_elements_place(tmp_path: Path) -> None:
    found = layers(tmp_path, '[[callback]]\nuse = "a"\nx = 1', "callback.0.y=2", "callback.0=b")
    assert found.values == {"callback": [{"use": "b", "y": 2}]}
    assert found.notes[0].startswith("callback.0: 'b' (command line) replaces 'a'")


def test_a_file_may_address_an_element_of_its_base(tmp_path: Path) -> None:
    base = '[[callback]]\nuse = "a"\n[[callback]]\nuse = "b"\ninner = [{ x = 1 }, { x = 2 }]'
    found = layers(tmp_path, "[callback.1]\ny = 3\n\ninner.0.x = 4", base=base)
    assert found.values == {"callback": [{"use": "a"}, {"use": "b", "y": 3, "inner": [{"x": 4}, {"x": 2}]}]}
    assert place(found, "callback", 1, "y") == "top.toml:3"
    assert place(found, "callback", 1, "inner", 0, "x") == "top.toml:5"
    assert place(found, "callback", 1, "inner", 1, "x") == "base.toml:5"


@pytest.mark.parametrize(
    ("override", "key", "parts"),
    [
        ("callback.2.x=1", "callback", ["is a list", "from 0 to 1", "got '2'"]),
        ("callback.-1.x=1", "callback", ["from 0 to 1", "got '-1'"]),
        ("callback.x=1", "callback", ["from 0 to 1", "got 'x'"]),
        ("empty.0=1", "empty", ["is a list", "is empty", "got '0'"]),
        ("gone.0.x=1", "gone", ["no earlier layer", "whole list"]),
    ],
)
def test_an_element_that_is_not_there_cannot_be_addressed(
    override: str, key: str, parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(KitError) as refused:
        layers(tmp_path, 'callback = ["a", "b"]\nempty = []', override)
    (fault,) = refused.value.faults
    assert (fault.location, fault.key) == ("command line", key)
    assert [part for part in parts if part not in fault.message] == []


class WithSamplers(KeyRules):
    """A list "sampler" that is ["a", "b"] where no layer sets it; c has two options, d none, e is not loaded yet."""

    def default_list(self, key: Key) -> list[Any] | None:
        return ["a", "b"] if key == ("sampler",) else None

    def component_names(self, key: Key, values: dict[str, Any]) -> Collection[str]:
        return list("abcde") if key == ("sampler",) else []

    def option_names(self, key: Key, name: str) -> Sequence[str] | None:
        return {"a": ["x"], "b": ["y"], "c": ["p", "q"], "d": [], "e": None}[name]


def with_samplers(folder: Path, text: str, *overrides: str) -> Layers:
    (folder / "top.toml").write_text(text, encoding="utf-8")
    return Layers.load(folder / "top.toml", overrides, WithSamplers())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sampler.a=1"], [{"use": "a", "x": 1}, "b"]),
        (["sampler.a.x=1"], [{"use": "a", "x": 1}, "b"]),
        (["sampler.0.x=1", "sampler.b=2"], [{"use": "a", "x": 1}, {"use": "b", "y": 2}]),
        (["sampler.b.y=1", "sampler.b.y=2"], ["a", {"use": "b", "y": 2}]),
        (["sampler.c.q=2", "sampler.c.p=1"], ["a", "b", {"use": "c", "q": 2, "p": 1}]),
        (["sampler.d={}"], ["a", "b", {"use": "d"}]),
        (["sampler.b=1", "sampler=['b']"], [{"use": "b", "y": 1}]),
        (["sampler.0=c", "sampler.c.p=1"], [{"use": "c", "p": 1}, "b"]),
    ],
)
def test_a_component_of_a_list_is_addressed_by_its_name(overrides: list[str], expected: Any, tmp_path: Path) -> None:
    assert with_samplers(tmp_path, "", *overrides).values == {"sampler": expected}


def test_a_name_addresses_an_element_of_the_file_and_has_a_location(tmp_path: Path) -> None:
    text = '[[sampler]]\nuse = "kit/a"\nx = 1\n[[sampler]]\nuse = "c"\np = 2'
    found = with_samplers(tmp_path, text, "sampler.a=7", "sampler.c.q=8")
    assert found.values == {"sampler": [{"use": "kit/a", "x": 7}, {"use": "c", "p": 2, "q": 8}]}
    assert place(found, "sampler", 0, "use") == "top.toml:2"
    assert place(found, "sampler", 0, "x") == place(found, "sampler", 1, "q") == "command line"
    assert found.notes == []


def test_a_table_in_a_file_addresses_the_components_of_the_default_list(tmp_path: Path) -> None:
    found = with_samplers(tmp_path, "[sampler]\na = 3\n\nb.y = 4")
    assert found.values == {"sampler": [{"use": "a", "x": 3}, {"use": "b", "y": 4}]}
    assert place(found, "sampler", 0, "x") == "top.toml:2"
    assert place(found, "sampler", 1, "y") == "top.toml:4"
    assert place(found, "sampler", 1, "use") == "default"


def test_a_component_that_the_list_lacks_is_appended_and_the_list_is_named(tmp_path: Path) -> None:
    (note,) = with_samplers(tmp_path, "", "sampler.c.q=2").notes
    assert note == "sampler: c (command line) appended; the list is now a, b, c"


@pytest.mark.parametrize(
    ("override", "key", "parts"),
    [
        ("sampler.7.x=1", "sampler", ["from 0 to 1 or a component's name", "got '7'", "Allowed: a, b, c, d, e."]),
        ("sampler.A=1", "sampler", ["did you mean 'a'?", "Allowed: a, b, c, d, e."]),
        ("sampler.c=1", "sampler.c", ["several options", "sampler.c.p, sampler.c.q"]),
        ("sampler.d=1", "sampler.d", ["without options", "sampler.d={}"]),
        ("sampler.e=1", "sampler.e", ["name an option", "sampler.e.OPTION"]),
        ("other.0.x=1", "other", ["no earlier layer", "whole list"]),
    ],
)
def test_a_name_that_addresses_nothing_gets_a_remedy(override: str, key: str, parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(KitError) as refused:
        with_samplers(tmp_path, "", override)
    (fault,) = refused.value.faults
    assert (fault.location, fault.key) == ("command line", key)
    assert [part for part in parts if part not in fault.message] == []


def test_of_two_components_of_one_name_the_index_decides(tmp_path: Path) -> None:
    text = 'sampler = ["b", "a", "b"]'
    with pytest.raises(KitError) as refused:
        with_samplers(tmp_path, text, "sampler.b=1")
    (fault,) = refused.value.faults
    assert fault.key == "sampler.b"
    assert "sampler.0 or sampler.2" in fault.message
    assert with_samplers(tmp_path, text, "sampler.2.y=1").values == {"sampler": ["b", "a", {"use": "b", "y": 1}]}


def test_the_layer_that_wrote_a_value_is_known(tmp_path: Path) -> None:
    found = layers(tmp_path, "[train]\nb = 2\nc = 2", "train.c=3", base='norm = "n"\n[train]\na = 1\nb = 1\nc = 1')
    heights = [found.height(("train", key)) for key in "abcd"]
    assert heights == [1, 2, 3, 0]
    assert found.height(("norm", "use")) == 1
    copied = found.copy()
    copied.override(["train.a=5"])
    assert (copied.height(("train", "a")), found.height(("train", "a"))) == (4, 1)


def test_a_use_that_is_tried_in_a_sweep_is_no_component_and_drops_nothing(tmp_path: Path) -> None:
    base = '[sweep.space.optimizer]\nuse = { choice = ["a", "b"] }\nlr = { float = [1, 2] }'
    found = layers(tmp_path, '[sweep.space.optimizer]\nuse = { choice = ["a", "c"] }', base=base)
    space = {"optimizer": {"use": {"choice": ["a", "c"]}, "lr": {"float": [1, 2]}}}
    assert found.values == {"sweep": {"space": space}}
    assert found.notes == []
    assert place(found, "sweep", "space", "optimizer", "lr") == "base.toml:3"


def test_a_number_below_the_space_of_a_sweep_may_be_a_value_or_part_of_a_key(tmp_path: Path) -> None:
    base = '[sweep.space]\n"n_layer".when = {}\noptimizer.lr = { float = [1, 2] }'
    top = '[sweep.space."n_layer".choice.2]\n[sweep.space.optimizer.betas.0]\nfloat = [0.8, 0.9]'
    found = layers(tmp_path, top, base=base)
    betas = {"0": {"float": [0.8, 0.9]}}
    space = {"n_layer": {"when": {}, "choice": {"2": {}}}, "optimizer": {"lr": {"float": [1, 2]}, "betas": betas}}
    assert found.values == {"sweep": {"space": space}}


@pytest.mark.parametrize("lower", ["[1, 2]", "[0, 1, 2, 3]", "[]"])
def test_the_branches_of_a_choice_replace_its_list_and_a_list_its_branches(lower: str, tmp_path: Path) -> None:
    base = f'[sweep.space."n_layer"]\nchoice = {lower}'
    found = layers(tmp_path, '[sweep.space."n_layer".choice]\n2 = {}\n3 = {}', base=base)
    assert found.values == {"sweep": {"space": {"n_layer": {"choice": {"2": {}, "3": {}}}}}}
    assert place(found, "sweep", "space", "n_layer", "choice", "3") == "top.toml:4"
    found = layers(tmp_path, '[sweep.space."n_layer"]\nchoice = [1]', base='[sweep.space."n_layer".choice]\n2 = {}')
    assert found.values == {"sweep": {"space": {"n_layer": {"choice": [1]}}}}


def test_a_bound_of_a_range_may_be_addressed(tmp_path: Path) -> None:
    found = layers(tmp_path, "[sweep.space]\nlr = { float = [1, 2] }", "sweep.space.lr.float.1=3")
    assert found.values == {"sweep": {"space": {"lr": {"float": [1, 3]}}}}


def test_all_faulty_overrides_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(KitError) as refused:
        layers(tmp_path, 'callback = ["a"]', "nonsense", "x=[1", "callback.7=b", "fine=1", "=3")
    assert len(refused.value.faults) == 4


@pytest.mark.parametrize("text", ["lr", "", "=1", "a b=1", "a..b=1", "[a]=1", "a,b=1", "a\nb=1", "a.={}=1", "# a=1"])
def test_an_override_is_a_key_and_a_value(text: str) -> None:
    with pytest.raises(KitError) as refused:
        parse_override(text)
    assert str(refused.value) == f"command line: expected key=value, as in optimizer.lr=3e-4, got {text!r}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3e-4", 3e-4),
        ("a.b=1_000", 1000),
        ("a.b=true", True),
        ("a.b=True", "True"),
        ("a.b=0x10", 16),
        ("a.b=[1, 'x']", [1, "x"]),
        ("a.b={ use = 'x', y = 1 }", {"use": "x", "y": 1}),
        ("a.b=sdpa", "sdpa"),
        ("a.b='1'", "1"),
        ('a.b="x=y"', "x=y"),
        ("a.b=x=y", "x=y"),
        ("a.b=~/data/*.txt", "~/data/*.txt"),
        ("a.b=C:\\texts", "C:\\texts"),
        ("a.b=Once upon a time,", "Once upon a time,"),
        ("a.b=first\nsecond = 2", "first\nsecond = 2"),
        ("a.b=", ""),
        (" a . 'b' = 1 ", 1),
    ],
)
def test_the_value_of_an_override_is_toml_or_else_a_bare_string(text: str, value: Any) -> None:
    assert parse_override(text) == (("a", "b"), value)


@pytest.mark.parametrize("right", ["[1, 2", "{ x = 1", '"open', "'open"])
def test_a_value_that_begins_like_toml_should_be_toml(right: str) -> None:
    with pytest.raises(KitError) as refused:
        parse_override(f"optimizer.betas={right}")
    assert str(refused.value).startswith("command line: optimizer.betas: not a TOML value: ")


NAMES = st.sampled_from("abc")
OPTIONS = st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9), max_size=2)
SLOT = NAMES | st.builds(lambda use, options: {"use": use, **options}, NAMES, OPTIONS)
TREE = st.fixed_dictionaries(
    {},
    optional={
        "model": st.builds(lambda use, slots: {"use": use, **slots}, NAMES, st.dictionaries(NAMES, SLOT, max_size=2)),
        "norm": SLOT,
        "callback": st.lists(SLOT, max_size=2),
        "train": OPTIONS,
    },
)
OVERRIDES = st.lists(
    st.sampled_from(["model=b", "model.use=c", "model.a=a", "model.a.use=b", "norm=a", "norm.use=b", "train.x=10"]),
    max_size=3,
)


def keys(values: Any, at: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return {at}.union(*(keys(value, (*at, key)) for key, value in items))


@settings(deadline=None)
@given(TREE, TREE, OVERRIDES)
def test_every_value_has_a_location_and_dropped_ones_have_none(base: Any, top: Any, overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = layers(Path(folder), tomli_w.dumps(top), *overrides, base=tomli_w.dumps(base))
    assert found.locations.keys() == keys(found.values)
    for key, where in found.locations.items():
        if where != "command line" and key and isinstance(key[-1], str):
            file = {"base": base, "top": top}[Path(where).stem]
            assert key in keys(file) or key[-1] == "use", f"{key} is not in {where}"


@settings(deadline=None)
@given(TREE, TREE)
def test_the_file_overrides_its_base(base: Any, top: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = layers(Path(folder), tomli_w.dumps(top), base=tomli_w.dumps(base)).values

    def laid(lower: Any, upper: Any) -> Any:
        if isinstance(upper, dict):
            below = {"use": lower} if isinstance(lower, str) else lower if isinstance(lower, dict) else {}
            if "use" in upper and below.get("use") != upper["use"]:
                below = {}
            return {key: laid(below.get(key), upper.get(key)) for key in {**below, **upper}}
        if isinstance(upper, str) and isinstance(lower, dict):
            return laid(lower, {"use": upper})
        return lower if upper is None else upper

    assert found == laid(base, top)
