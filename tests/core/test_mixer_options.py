"""What no mixer of a model uses is refused where it is set, and is no part of the resolved experiment."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment

MINGRU = Path(__file__).parents[1] / "seams" / "components" / "mingru.py"
NO_DOCUMENTS = '''"""Adds nothing."""

from torch import nn

from nanogpt_kit.api import Mixer, MixerContext


class Nothing(Mixer):
    def build(self, ctx: MixerContext) -> nn.Module:
        raise NotImplementedError
'''
EXPERIMENT = f"""
name = "e"
components = ["{MINGRU}", "nothing.py"]
dataset = "python_stdlib"
tokenizer = "byte"
schedule = "constant"
optimizer = {{ use = "adamw", lr = 1e-3 }}
train = {{ steps = 2, batch_tokens = 32 }}

[model]
use = "gpt"
n_layer = 2
n_head = 2
n_embd = 8
block_size = 16
mixer = "mingru"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "nothing.py").write_text(NO_DOCUMENTS, encoding="utf-8")
    (tmp_path / "e.toml").write_text(EXPERIMENT, encoding="utf-8")
    return tmp_path / "e.toml"


def load(file: Path, *overrides: str) -> Experiment:
    return Experiment.load(file, overrides, trust_code=True)


BOTH = 'model.mixer=["mingru", "softmax"]'
WINDOW_OF_MINGRU = 'model.attention=[{ use = "sdpa", window = 3 }, "sdpa"]'
NO_LEAKS = "model.document_mask=true"


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["model.attention=sdpa"], "model.attention", ["uses attention; remove it", "another mixer, such as softmax"]),
        (["model.n_kv_head=1"], "model.n_kv_head", ["uses n_kv_head; remove it"]),
        (["model.qk_norm=false"], "model.qk_norm", ["uses qk_norm"]),
        (["model.position=rope"], "model.position", ["RoPE", "remove it", "softmax"]),
        (["model.position=alibi"], "model.position", ["ALiBi"]),
        (['model.position=["none", "rope"]'], "model.position", ["RoPE", "remove it"]),
        ([BOTH, WINDOW_OF_MINGRU], "model.attention", ["SDPA", "attention.0", 'write "sdpa" in its place']),
        ([BOTH, 'model.position=["rope", "none"]'], "model.position", ["RoPE", "position.0", 'write "none" in its']),
        (["model.mixer=nothing", NO_LEAKS], "model.document_mask", ["Nothing", "set document_mask = false", "softmax"]),
        (['model.mixer=["softmax", "nothing"]', "model.document_mask=true"], "model.document_mask", ["Nothing"]),
    ],
    ids=str,
)
def test_what_the_mixers_do_not_use_is_refused(file: Path, overrides: list[str], key: str, words: list[str]) -> None:
    with pytest.raises(KitError) as caught:
        load(file, *overrides)
    (fault,) = caught.value.faults
    assert (fault.key, fault.location) == (key, "command line")
    for word in words:
        assert word in fault.message


def test_a_pattern_over_all_layers_covers_those_without_attention(file: Path) -> None:
    """Elements 0 and 2 are of recurrent layers only; element 0 equals one that is used, element 2 does not."""
    pattern = 'model.attention=[{use="sdpa", window=2}, {use="sdpa", window=2}, %s, "sdpa"]'
    accepted = load(file, BOTH, "model.n_layer=4", pattern % "{use='sdpa', window=2}")
    assert [part.window for part in accepted.model.attention] == [2, 2, 2, None]  # type: ignore[attr-defined]
    with pytest.raises(KitError, match=r"attention\.2 \(SDPA\) acts within mixers"):
        load(file, BOTH, "model.n_layer=4", pattern % "{use='sdpa', window=3}")


def test_all_of_them_are_reported_at_once(file: Path) -> None:
    with pytest.raises(KitError) as caught:
        load(file, "model.attention=naive", "model.qk_norm=true", "model.n_kv_head=1")
    assert [fault.key for fault in caught.value.faults] == ["model.attention", "model.n_kv_head", "model.qk_norm"]


def test_they_are_refused_beside_the_mixer(file: Path) -> None:
    """Neither was written later."""
    file.write_text(EXPERIMENT + 'attention = "naive"\n', encoding="utf-8")
    with pytest.raises(KitError) as caught:
        load(file)
    (fault,) = caught.value.faults
    assert (fault.key, fault.location) == ("model.attention", f"{file}:{EXPERIMENT.count(chr(10)) + 1}")
    with pytest.raises(KitError):
        load(file, "model.mixer=softmax").with_("model.attention=naive", "model.mixer=mingru")


@pytest.mark.parametrize("attention", ['"naive"', '{ use = "sdpa", window = 3 }'])
def test_a_mixer_that_is_chosen_later_drops_them_with_a_note(file: Path, attention: str) -> None:
    """As a component drops the options of the one that it replaces."""
    text = EXPERIMENT.replace('"mingru"\n', f'"softmax"\nattention = {attention}\nn_kv_head = 1\n')
    file.write_text(text, encoding="utf-8")
    for experiment in (load(file, "model.mixer=mingru"), load(file).with_("model.mixer=mingru")):
        assert not {"attention", "n_kv_head"} & experiment.resolved()["model"].keys()
        attention_note, heads_note = experiment.notes[-2:]
        for part in ("model.attention (", f"{file.name}:", "model.mixer (", "does not use it"):
            assert part in attention_note
        assert "model.n_kv_head" in heads_note
    again = file.with_name("again.toml")
    again.write_text(load(file).to_toml(), encoding="utf-8")
    assert load(again, "model.mixer=mingru") == load(file, "model.mixer=mingru")


@pytest.mark.parametrize("position", ['"rope"', '["alibi", "none"]', '{ use = "rope", base = 500.0 }'])
def test_it_drops_positions_that_act_within_mixers_too(file: Path, position: str) -> None:
    file.write_text(EXPERIMENT.replace('"mingru"\n', f'"softmax"\nposition = {position}\n'), encoding="utf-8")
    for experiment in (load(file, "model.mixer=mingru"), load(file).with_("model.mixer=mingru")):
        assert experiment.resolved()["model"]["position"]["use"] == "learned"
        assert "model.position (" in experiment.notes[-1]
        assert "is dropped: model.mixer (" in experiment.notes[-1]


def test_attentions_without_options_may_stand_where_a_list_needs_an_element(file: Path) -> None:
    """So that the windows of the other layers differ."""
    windows = 'model.attention=["sdpa", { use = "sdpa", window = 3 }, "sdpa", { use = "sdpa", window = 5 }]'
    experiment = load(file, "model.n_layer=4", BOTH, windows)
    again = file.with_name("again.toml")
    again.write_text(experiment.to_toml(), encoding="utf-8")
    assert load(again) == experiment


@pytest.mark.parametrize(
    "overrides",
    [[], ["model.document_mask=true"], [BOTH], [BOTH, "model.position=rope", "model.attention=naive"]],
    ids=str,
)
def test_a_resolved_experiment_loads_again(file: Path, overrides: list[str]) -> None:
    """That of a run is in its folder."""
    experiment = load(file, *overrides)
    again = file.with_name("again.toml")
    again.write_text(experiment.to_toml(), encoding="utf-8")
    assert load(again) == experiment
    model = tomli.loads(again.read_text(encoding="utf-8"))["model"]
    assert ("attention" in model, "qk_norm" in model) == (BOTH in overrides, BOTH in overrides)


def test_an_option_that_is_removed_comes_back_with_a_mixer_that_uses_it(file: Path) -> None:
    recurrent = load(file)
    attending = recurrent.with_("model.mixer=softmax")
    assert attending.resolved()["model"]["attention"]["use"] == "sdpa"
    assert attending.resolved()["model"]["qk_norm"] is False
    differences = recurrent.differences(attending)
    assert differences["model.attention.use"] == (None, "sdpa")
    assert differences["model.mixer.use"] == ("mingru", "softmax")
    assert "model.attention" not in [".".join(map(str, key)) for key, _ in recurrent.parts()]
