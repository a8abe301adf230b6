"""Slots of a model's layers: lists in files and overrides, the message about a mistake in them, and how they differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from nanogpt_kit.api import MLP, Layered, Mixer, MixerContext, Model, ModelContext
from nanogpt_kit.comparison.arms import changes_between
from nanogpt_kit.components.attention.naive import Naive
from nanogpt_kit.components.attention.sdpa import SDPA
from nanogpt_kit.components.mlp.gelu import GELU
from nanogpt_kit.components.model.gpt import GPT
from nanogpt_kit.components.position.rope import RoPE
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.layered_differences import differing_lists, with_shortest_lists
from nanogpt_kit.core.layered_slots import layers_of_element, listed, of_layer, shortest
from nanogpt_kit.core.override_text import override_text
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.runs.recorded_values import flat_options

BASE = """\
name = "base"
dataset = "python_stdlib"
tokenizer = "byte"
optimizer = "adamw"
schedule = "constant"
train = { steps = 2, batch_tokens = 32 }
[model]
use = "gpt"
n_layer = 3
n_head = 2
n_embd = 8
block_size = 16
"""
ONE = f'{BASE}attention = {{ use = "sdpa", window = 7 }}\n'  # line 13
LIST = f'{BASE}attention = [{{ use = "sdpa", window = 7 }}, "naive"]\n'
TWICE = f'{BASE}attention = [{{ use = "sdpa", window = 7 }}, "sdpa"]\n'
ELEMENTS = "is a list, repeated over the layers, so the next part of the key should be an index from 0 to 1"


def load(folder: Path, text: str, *overrides: str) -> Experiment:
    (folder / "base.toml").write_text(text, encoding="utf-8")
    return Experiment.load(folder / "base.toml", overrides)


def extended(folder: Path, base: str, text: str) -> Experiment:
    (folder / "base.toml").write_text(base, encoding="utf-8")
    (folder / "top.toml").write_text(f'extends = "base.toml"\n{text}\n', encoding="utf-8")
    return Experiment.load(folder / "top.toml")


def faults(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(KitError) as refused:
        load(folder, text, *overrides)
    return [str(fault).removeprefix(f"{folder}/") for fault in refused.value.faults]


def attention(experiment: Experiment) -> object:
    assert isinstance(experiment.model, GPT)
    return experiment.model.attention


WAYS = {  # overrides -> the attention that they make of LIST
    "an option by index": (["model.attention.1.window=5"], (SDPA(window=7), Naive(window=5))),
    "an option by name": (["model.attention.naive.window=5"], (SDPA(window=7), Naive(window=5))),
    "another component": (["model.attention.0=naive"], (Naive(), Naive())),
    "another component with an option": (
        ["model.attention.1.window=2", "model.attention.1.use=sdpa"],
        (SDPA(window=7), SDPA(window=2)),
    ),
    "one component": (["model.attention=naive"], Naive()),
    "one component in a table": (['model.attention={use="naive", window=3}'], Naive(window=3)),
    "one component by its name and an option": (
        ["model.attention.window=3", "model.attention.use=naive"],
        Naive(window=3),
    ),
    "another list": (['model.attention=["naive"]'], (Naive(),)),
}


@pytest.mark.parametrize("way", WAYS)
def test_overrides_address_a_list(way: str, tmp_path: Path) -> None:
    overrides, expected = WAYS[way]
    assert attention(load(tmp_path, LIST, *overrides)) == expected


def test_python_values_address_a_list(tmp_path: Path) -> None:
    experiment = load(tmp_path, ONE)
    assert attention(experiment.with_(model={"attention": [SDPA(), "naive"]})) == (SDPA(), Naive())
    listed = load(tmp_path, LIST)
    assert attention(listed.with_({"model.attention.1.window": 5})) == (SDPA(window=7), Naive(window=5))
    assert attention(listed.with_({"model.attention": SDPA(window=2)})) == SDPA(window=2)


MISTAKES = {  # overrides of LIST, and the message
    "an option without an index": (
        "model.attention.window=5",
        f"model.attention: {ELEMENTS}, got 'window'; write model.attention.0.window for the first component (sdpa)",
    ),
    "a component that the list lacks": (
        "model.attention.flex.window=5",
        f"model.attention: {ELEMENTS}, got 'flex'; write model.attention=flex for all layers, or give a list with it",
    ),
    "an index too high": (
        "model.attention.2.window=5",
        f"model.attention: {ELEMENTS}, got '2'; to add a component, give the whole list",
    ),
    "an index below 0": ("model.attention.-1.window=5", f"model.attention: {ELEMENTS}, got '-1'"),
    "an option that does not exist": (
        "model.attention.1.wndow=5",
        "model.attention.1.wndow: unknown key; did you mean ",
    ),
    "a value out of bounds": (
        "model.attention.1.window=0",
        "model.attention.1.window: should be greater than or equal",
    ),
    "an empty list": (
        "model.attention=[]",
        "model.attention: is an empty list; write a component of kind attention, or a list of at least one",
    ),
    "a list within the list": (
        'model.attention=["sdpa", ["naive"]]',
        "model.attention.1: should be the name of a component of kind attention, or a table with `use`, not a list",
    ),
    "a number": (
        "model.attention=3",
        "model.attention: should be the name of a component of kind attention, a table with `use`, or a list of these,",
    ),
    "an element of one component": (
        "model.mlp.0.width=3",
        (
            "model.mlp: is one component (gelu, the default) for all layers, so it has no element 0; "
            'write model.mlp = {use = "gelu", width = 3}, or give a list of components, as in ["gelu", "gelu"]'
        ),
    ),
    "a list for a slot of the whole model": (
        'model.loss=["cross_entropy"]',
        "model.loss: should be the name of a component of kind loss, or a table with `use`, not a list, got",
    ),
    "a list for a slot of the run": (
        'init=["gpt2"]',
        "init: should be the name of a component of kind init, or a table",
    ),
    "a list longer than the model is deep": (
        'model.mlp=["gelu", "gelu", "gelu", "gelu", "relu2"]',
        "model.mlp: mlp has 5 elements, of which n_layer (3) leaves 2 without a layer; remove some of them, or raise",
    ),
    "a model that is not as deep as a list": (
        "model.n_layer=1",
        "model.attention: attention has 2 elements, of which n_layer (1) leaves 1 without a layer; write one component",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_list_is_told_with_key_and_remedy(mistake: str, tmp_path: Path) -> None:
    override, message = MISTAKES[mistake]
    (found,) = faults(tmp_path, LIST, override)
    assert found.partition(": ")[0] == ("base.toml:13" if mistake.startswith("a model") else "command line")
    assert found.partition(": ")[2].startswith(message)


def test_a_name_that_several_components_have_is_no_address(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, TWICE, "model.attention.sdpa.window=5")
    assert found.endswith("the list has 2 components of this name; write model.attention.0.window")


def test_an_index_into_one_component_is_told_both_ways(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, ONE, "model.attention.0.window=5")
    assert found.endswith(
        'no element 0; write model.attention.window, or give a list of components, as in ["sdpa", "sdpa"]'
    )


def test_all_faults_of_lists_are_reported_at_once_with_their_lines(tmp_path: Path) -> None:
    text = BASE + 'norm = [\n  { use = "layernorm", eps = 0 },\n  "layernom",\n]\nmlp = [["gelu"]]\nposition = []\n'
    found = [fault.split(": ")[:2] for fault in faults(tmp_path, text)]
    assert sorted(found) == [
        ["base.toml:14", "model.norm.0.eps"],
        ["base.toml:15", "model.norm.1"],
        ["base.toml:17", "model.mlp.0"],
        ["base.toml:18", "model.position"],
    ]


def test_every_list_that_is_too_long_is_reported(tmp_path: Path) -> None:
    found = faults(tmp_path, BASE + 'norm = ["rmsnorm", "rmsnorm"]\nmlp = ["gelu", "gelu"]\n', "model.n_layer=1")
    assert len(found) == 2


def test_a_list_over_a_component_and_a_component_over_a_list_note_what_is_dropped(tmp_path: Path) -> None:
    onto_one = extended(tmp_path, ONE, 'model.attention = ["naive", "sdpa"]')
    assert attention(onto_one) == (Naive(), SDPA())
    assert [note.replace(f"{tmp_path}/", "") for note in onto_one.notes] == [
        "model.attention: a list (top.toml:2) replaces 'sdpa' (base.toml:13); dropped its window"
    ]
    onto_list = extended(tmp_path, LIST, 'model.attention = "naive"')
    assert attention(onto_list) == Naive()
    assert [note.replace(f"{tmp_path}/", "") for note in onto_list.notes] == [
        "model.attention: 'naive' (top.toml:2) replaces the list sdpa, naive (base.toml:13); dropped its 0.window"
    ]


def test_a_file_changes_an_element_of_its_base(tmp_path: Path) -> None:
    assert attention(extended(tmp_path, LIST, "model.attention.1.window = 2")) == (SDPA(window=7), Naive(window=2))
    with pytest.raises(KitError, match=r"top\.toml:2: model\.attention: is a list, .* got 'window'"):
        extended(tmp_path, LIST, "model.attention.window = 2")


def test_lists_of_other_lengths_differ_as_a_whole(tmp_path: Path) -> None:
    one, listed = load(tmp_path, ONE), load(tmp_path, LIST)
    short = {"use": "sdpa", "window": 7}
    assert listed.differences(one) == {"model.attention": ([short, "naive"], short)}
    assert listed.differences(load(tmp_path, TWICE)) == {"model.attention.1.use": ("naive", "sdpa")} | {
        "model.attention.1.backend": (None, "auto")
    }


def test_a_list_is_repeated_over_the_layers() -> None:
    parts = (SDPA(window=1), SDPA(window=2), Naive())
    assert [of_layer(parts, layer) for layer in range(5)] == [*parts, *parts[:2]]
    assert [list(layers_of_element(parts, index, 5)) for index in range(3)] == [[0, 3], [1, 4], [2]]
    assert of_layer(Naive(), 4) == Naive()


def test_the_shortest_list_builds_the_same_modules() -> None:
    one, other = SDPA(window=1), SDPA()
    assert shortest((one, one, one), 5) == shortest((one,), 5) == one
    assert shortest((one, other, one, other), 5) == (one, other)
    assert shortest((one, other, one), 3) == (one, other)
    assert shortest((one, other, one), 4) == (one, other, one)
    assert shortest((RoPE(), RoPE()), 2) == (RoPE(), RoPE())  # each position of a list has a module of its own
    assert shortest((RoPE(),), 2) == RoPE()


@pytest.mark.parametrize("slot", ["mixer", "attention", "position", "norm", "mlp"])
def test_an_experiment_with_a_list_of_one_is_that_of_the_component_alone(slot: str, tmp_path: Path) -> None:
    alone = load(tmp_path, BASE)
    one = alone.with_({f"model.{slot}": [getattr(alone.model, slot)]})
    two = alone.with_({f"model.{slot}": [getattr(alone.model, slot)] * 2})
    assert one == alone != two
    assert one.differences(alone) == {} != two.differences(alone)
    assert one.configuration() == alone.configuration() != two.configuration()
    assert one.fingerprint() == alone.fingerprint()
    assert one.to_toml() == alone.to_toml()
    assert [key for key, _ in one.parts()] == [key for key, _ in alone.parts()]


def test_an_option_of_a_list_of_one_is_addressed_by_its_index(tmp_path: Path) -> None:
    one = load(tmp_path, BASE + 'attention = ["sdpa"]\n')
    changed = one.with_("model.attention.0.window=5")
    assert changed == load(tmp_path, BASE, 'model.attention={use="sdpa", window=5}')
    assert changed.location(("model", "attention", 0, "window")) == "with_"


class Recurrence(Mixer):
    """A mixer that uses no attention."""

    def build(self, ctx: MixerContext) -> nn.Module:
        raise NotImplementedError


def test_a_list_differs_from_a_slot_that_no_mixer_uses(tmp_path: Path) -> None:
    listed = load(tmp_path, LIST)
    without = listed.model_copy(update={"model": GPT(n_layer=3, mixer=Recurrence(), position="none")})
    short = [{"use": "sdpa", "window": 7}, "naive"]
    installed = Registry.installed()
    assert differing_lists(listed.model, without.model, installed, installed) == {"attention": (short, None)}
    assert with_shortest_lists(without).model.attention is None


def test_a_layered_slot_may_be_optional() -> None:
    class Net(Model):
        n_layer: int = 2
        extra: Layered[MLP] | None = None

        def build(self, ctx: ModelContext) -> nn.Module:
            raise NotImplementedError

    assert Net(extra="gelu").extra == GELU() == listed(Net(extra=["gelu"]).extra)[0]
    with pytest.raises(ValueError, match="extra has 3 elements, of which n_layer"):
        Net(extra=["gelu"] * 3)


def test_a_list_is_written_as_an_override_that_gives_it_back(tmp_path: Path) -> None:
    (pair,) = load(tmp_path, LIST).differences(load(tmp_path, BASE)).values()
    text = override_text(pair[0])
    assert text == '[{use = "sdpa", window = 7}, "naive"]'
    assert attention(load(tmp_path, BASE, f"model.attention={text}")) == attention(load(tmp_path, LIST))


def test_records_name_the_components_of_a_list_of_parts_by_index(tmp_path: Path) -> None:
    recorded = flat_options(load(tmp_path, LIST).resolved())
    assert recorded["model.attention"] == ["sdpa", "naive"]
    assert recorded["model.attention.0.window"] == 7
    assert recorded["sampler.top_k.k"] == 200  # lists of whole sections by name


def test_a_comparison_names_a_list_in_one_piece(tmp_path: Path) -> None:
    base, other = load(tmp_path, BASE), load(tmp_path, LIST)
    assert changes_between(base, other) == {"model.attention": ('"sdpa"', '[{use = "sdpa", window = 7}, "naive"]')}


@pytest.mark.parametrize(
    "word", ["window_pattern", "layer_types", "layer_pattern", "sliding_window_pattern", "attention_layers"]
)
def test_other_programs_words_for_alternating_layers_are_answered_with_a_list(word: str, tmp_path: Path) -> None:
    (found,) = faults(tmp_path, BASE, f'model.{word}="SSSL"')
    example = found.partition("as in model.attention=")[2].partition(")?")[0]
    assert attention(load(tmp_path, BASE, f"model.attention={example}")) == (SDPA(window=512), SDPA())
