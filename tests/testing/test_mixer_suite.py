"""The suite of mixers fails where a mixer is broken, and names the remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import PrivateAttr
from torch import Tensor, nn

from nanogpt_kit.api import KVCache, Mixer, MixerContext, Positional, View
from nanogpt_kit.components.mixer.softmax import Softmax
from nanogpt_kit.core.kinds.mixer_options import USABLE
from nanogpt_kit.testing.mixer import MixerConformance
from tests.seams.components.mingru import MinGRU

UNEVEN, SINGLE = [2, 1, 2], [1, 1, 1, 1, 1]
PADDED = [2, 3, 1, 2]

Break = Callable[[nn.Module, Tensor, Positional, View, KVCache | None], Any]


class Broken(Mixer):
    """A mixer whose module is called by another function, `_call`."""

    uses = USABLE
    _sound: Mixer = PrivateAttr()
    _call: Break = PrivateAttr()

    def build(self, ctx: MixerContext) -> nn.Module:
        return Called(self._sound.build(ctx), self._call)


class Called(nn.Module):
    def __init__(self, sound: nn.Module, call: Break) -> None:
        super().__init__()
        self.sound, self.call = sound, call

    def forward(self, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Any:
        return self.call(self.sound, x, position, view, cache)


class BrokenRecurrence(Broken):
    uses = ("document_mask",)


def later_tokens(sound: nn.Module, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
    y: Tensor = sound(x, position, view, cache)
    return y + y.roll(-1, 1)


def earlier_tokens_alone(sound: nn.Module, x: Tensor, *call: Any) -> Tensor:
    return F.pad(sound(x, *call), (0, 0, 1, 0))[:, :-1]  # type: ignore[no-any-return]


def no_cache(sound: nn.Module, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
    return sound(x, position, View.causal(torch.arange(x.size(1))[None]), None)  # type: ignore[no-any-return]


def memory_of_the_module(sound: Any, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
    if cache is not None:
        if cache.length:
            cache.states = {(sound.layer, ""): sound.memory}
        y: Tensor = sound(x, position, view, cache)
        sound.memory = cache.states.pop((sound.layer, ""))
        return y
    return sound(x, position, view, None)  # type: ignore[no-any-return]


def padding_as_text(sound: nn.Module, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
    return sound(x, position, replace(view, padding=None), cache)  # type: ignore[no-any-return]


def one_layer(sound: Any, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
    sound.layer = 0
    return sound(x, position, view, cache)  # type: ignore[no-any-return]


def one_document(sound: nn.Module, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
    view = replace(view, query_segments=None, key_segments=None, results=[])
    return sound(x, position, view, cache)  # type: ignore[no-any-return]


def no_positions(sound: nn.Module, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
    return sound(x, Positional(), replace(view, slopes=None, results=[]), cache)  # type: ignore[no-any-return]


def in_fp32(sound: nn.Module, x: Tensor, *call: Any) -> Tensor:
    return sound(x, *call).float()  # type: ignore[no-any-return]


def one_feature_less(sound: nn.Module, x: Tensor, *call: Any) -> Tensor:
    return sound(x, *call)[..., :-1]  # type: ignore[no-any-return]


def dropout_in_eval_mode(sound: nn.Module, x: Tensor, *call: Any) -> Tensor:
    return F.dropout(sound(x, *call), 0.5)


def dropout_never(sound: nn.Module, x: Tensor, *call: Any) -> Tensor:
    return sound.eval()(x, *call)  # type: ignore[no-any-return]


def extra_by_token(sound: nn.Module, x: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
    y = sound(x, *call)
    return y, y.square().sum(dim=(0, 2))


def extra_in_bf16(sound: nn.Module, x: Tensor, *call: Any) -> tuple[Tensor, dict[str, Tensor]]:
    y = sound(x, *call)
    return y, {"energy": y.square().sum().bfloat16()}


def mean_extra(sound: nn.Module, x: Tensor, *call: Any) -> tuple[Tensor, Tensor]:
    y = sound(x, *call)
    return y, y.float().square().mean()


def in_place(sound: nn.Module, x: Tensor, *call: Any) -> Tensor:
    return sound(x.mul_(0.5), *call)  # type: ignore[no-any-return]


def keys_of_the_pass(sound: Any, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
    return sound(x, position, view, None)  # type: ignore[no-any-return]


def growing_state(sound: Any, x: Tensor, position: Positional, view: View, cache: KVCache | None) -> Tensor:
    if cache is not None:
        earlier = cache.state(sound.layer, x[:, :0], "inputs")
        cache.set_state(sound.layer, torch.cat([earlier, x], dim=1), "inputs")
    return sound(x, position, view, cache)  # type: ignore[no-any-return]


FP32 = (torch.float32,)
SOFTMAX, RECURRENCE = (Broken, Softmax()), (BrokenRecurrence, MinGRU())
BREAKS: list[tuple[Break, Any, str, tuple[Any, ...], str]] = [  # the break, of what, the test, the remedy
    (later_tokens, SOFTMAX, "a_later_token_never_changes_an_earlier_result", (), "mix earlier positions only"),
    (later_tokens, RECURRENCE, "a_later_token_never_changes_an_earlier_result_through_a_cache", (UNEVEN,), "earlier"),
    (earlier_tokens_alone, SOFTMAX, "a_later_token_never_changes_an_earlier_result", (), "include it"),
    (no_cache, SOFTMAX, "cached_results_are_those_of_one_pass", (SINGLE,), "by `extend`, a state by `set_state`"),
    (no_cache, RECURRENCE, "cached_results_are_those_of_one_pass", (UNEVEN,), "by `extend`, a state by `set_state`"),
    (
        memory_of_the_module,
        RECURRENCE,
        "two_caches_and_two_layers_stay_independent",
        (),
        "nothing is kept in the module",
    ),
    (padding_as_text, RECURRENCE, "padding_on_the_left_changes_nothing", (PADDED,), "True in view.padding"),
    (one_layer, SOFTMAX, "two_caches_and_two_layers_stay_independent", (), "ctx.layer"),
    (one_layer, RECURRENCE, "two_caches_and_two_layers_stay_independent", (), "ctx.layer"),
    (one_document, SOFTMAX, "documents_are_kept_apart", (), 'remove "document_mask" from uses'),
    (one_document, RECURRENCE, "documents_are_kept_apart", (), "equal view.query_segments only"),
    (no_positions, SOFTMAX, "positions_act_where_it_uses_them", ("rope",), "rotate queries and keys"),
    (no_positions, SOFTMAX, "positions_act_where_it_uses_them", ("alibi",), "add view.slopes"),
    (in_fp32, RECURRENCE, "shape_and_dtype_are_kept", (torch.bfloat16,), "return y.type_as"),
    (one_feature_less, SOFTMAX, "shape_and_dtype_are_kept", (torch.float32,), "project it to n_embd"),
    (dropout_in_eval_mode, SOFTMAX, "eval_mode_is_deterministic", (), ""),
    (dropout_in_eval_mode, SOFTMAX, "dropout_is_for_training_only", (), "in training mode only, with nn.Dropout"),
    (dropout_never, RECURRENCE, "dropout_is_for_training_only", (), "use nn.Dropout"),
    (extra_by_token, SOFTMAX, "extras_are_scalars_in_fp32", FP32, "of shape (5,) in float32; it should be the sum"),
    (extra_in_bf16, SOFTMAX, "extras_are_scalars_in_fp32", FP32, "'energy' of mixer is a tensor of shape () in bf"),
    (mean_extra, SOFTMAX, "extras_of_rows_add_up_and_so_do_their_gradients", (), "return a sum over the tokens"),
    (in_place, SOFTMAX, "its_inputs_are_not_modified", (), "input 1 was modified in place: make a new tensor"),
    (keys_of_the_pass, SOFTMAX, "cached_results_are_those_of_one_pass", (UNEVEN,), "that cache.extend returns"),
    (growing_state, RECURRENCE, "cached_results_are_those_of_one_pass", (UNEVEN,), "a state keeps its shape"),
]


@pytest.mark.parametrize(
    ("call", "of", "test", "arguments", "remedy"), BREAKS, ids=[f"{row[0].__name__}-{row[2]}" for row in BREAKS]
)
def test_a_broken_mixer_is_caught(
    call: Break, of: tuple[type[Broken], Mixer], test: str, arguments: tuple[Any, ...], remedy: str
) -> None:
    kind, sound = of
    component = kind()
    component._sound, component._call = sound, call
    suite: Any = type("Suite", (MixerConformance,), {"component": component})()
    with pytest.raises(AssertionError) as caught:
        getattr(suite, f"test_{test}")(*arguments)
    assert remedy in str(caught.value).partition("\n")[0]


@pytest.mark.parametrize("option", ["attention", "n_kv_head", "qk_norm"])
def test_an_option_that_is_declared_and_ignored_is_caught(option: str) -> None:
    class Declares(MinGRU):
        uses = (option,)

    suite: Any = type("Suite", (MixerConformance,), {"component": Declares()})()
    with pytest.raises(AssertionError, match=f'"{option}", which changes nothing: remove it from uses'):
        suite.test_an_option_that_it_uses_changes_it(option)


def test_an_attention_that_is_used_and_not_declared_is_caught() -> None:
    class Declares(Mixer):
        uses = ("n_kv_head",)

        def build(self, ctx: MixerContext) -> nn.Module:
            return ctx.attention.build(ctx)  # type: ignore[union-attr]

    suite: Any = type("Suite", (MixerConformance,), {"component": Declares()})()
    with pytest.raises(
        AssertionError, match=r"^build fails with what `uses` names \(n_kv_head\): name all that it uses"
    ):
        suite.test_eval_mode_is_deterministic()


def test_positions_that_are_used_and_not_declared_are_caught() -> None:
    class Declares(Softmax):
        uses = ("attention",)

    suite: Any = type("Suite", (MixerConformance,), {"component": Declares()})()
    with pytest.raises(AssertionError, match='add "position" to uses'):
        suite.test_positions_act_where_it_uses_them("alibi")


@pytest.mark.parametrize(
    ("uses", "message"),
    [(("attention", "heads"), "Bad.uses names 'heads'"), ("attention", r"should be a tuple, as in uses = \(")],
)
def test_what_no_mixer_can_use_fails_where_its_class_is_created(uses: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        type("Bad", (Mixer,), {"uses": uses, "__module__": __name__})
