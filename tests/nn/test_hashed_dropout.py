"""Dropout by a hash: masks that look drawn, and depend on nothing but seed, step, layer, call, window and element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanogpt_kit.nn import dropout_masks
from nanogpt_kit.nn.dropout_masks import LEVELS, drop_threshold, kept_scale, numpy_mask, row_keys, torch_mask
from nanogpt_kit.nn.hashed_dropout import HashedDropout, hash_dropouts
from nanogpt_kit.nn.training_pass import TrainingPass
from nanogpt_kit.train.recomputation import with_recomputation

W, T, C = 6, 40, 30  # windows, tokens, features: 1200 elements of each window
LEAST = 1e-4  # probability of a chance finding, in each of some hundred trials with fixed seeds


def hashed(rate: float, **names: str) -> dict[str, HashedDropout]:
    holder = nn.ModuleDict({name: nn.Dropout(rate) for name in names or ("one",)})
    hash_dropouts(holder)
    return dict(holder.items())  # type: ignore[arg-type]


def mask(rate: float = 0.25, seed: int = 1, step: int = 0, first: int = 0, layer: str = "one", call: int = 0) -> Tensor:
    """(W, T, C) bool: what is kept."""
    (module,) = hashed(rate, **{layer: ""}).values()
    with TrainingPass(seed, step, first, W).entered():
        for _ in range(call):
            module(torch.ones(W, T, C))
        kept: Tensor = module(torch.ones(W, T, C)) != 0
    return kept


def dependence(one: Tensor, other: Tensor) -> float:
    """The probability of masks as dependent as these two by chance: chi-square of their four combinations."""
    counts = np.bincount((one.long() * 2 + other.long()).flatten().numpy(), minlength=4).reshape(2, 2)
    return float(stats.chi2_contingency(counts, correction=False).pvalue)


@pytest.mark.parametrize("rate", [1 / 65536, 0.001, 0.1, 0.2, 0.5, 0.9, 65535 / 65536])
def test_as_many_elements_are_dropped_as_the_rate_says(rate: float) -> None:
    elements, threshold = 1_000_001, drop_threshold(rate)
    keys = row_keys(call_key=9, first_window=4, n_windows=3, rows=3)
    for kept in numpy_mask(keys, elements, threshold):
        dropped = elements - int(kept.sum())
        assert stats.binomtest(dropped, elements, threshold / LEVELS).pvalue > LEAST
        assert abs(threshold / LEVELS - rate) <= 0.5 / LEVELS


def test_what_is_kept_is_divided_by_exactly_its_probability() -> None:
    for rate in (0.1, 0.2, 0.37):
        threshold = drop_threshold(rate)
        assert kept_scale(threshold) * (1 - threshold / LEVELS) == pytest.approx(1, rel=1e-15)
        (module,) = hashed(rate).values()
        with TrainingPass(3, 0, 0, W).entered():
            y = module(torch.full((W, T, C), 2.0))
        assert set(y.unique().tolist()) == {0.0, float(np.float32(2 * kept_scale(threshold)))}


def test_values_of_sixteen_bits_are_uniform_in_both_halves_of_a_word() -> None:
    """At any threshold: the masks of all thresholds at once are the values themselves."""
    keys = row_keys(call_key=5, first_window=0, n_windows=1, rows=1)
    counts = np.zeros((2, 64))
    edges = range(0, LEVELS, LEVELS // 64)
    kept = np.stack([numpy_mask(keys, 200_000, edge)[0] for edge in edges])  # (64, N)
    for half in (0, 1):
        counts[half] = np.bincount(kept[:, half::2].sum(axis=0, dtype=np.int64) - 1, minlength=64)
        assert stats.chisquare(counts[half]).pvalue > LEAST


def test_a_torch_generator_and_the_hash_draw_from_one_distribution() -> None:
    """The number of elements that a row of 30 keeps, against torch's own: two samples of 7,200 rows."""
    ours = torch.cat([mask(0.3, step=step) for step in range(30)]).sum(-1).flatten().numpy()
    torch.manual_seed(0)
    theirs = (nn.functional.dropout(torch.ones(30 * W, T, C), 0.3) != 0).sum(-1).flatten().numpy()
    table = np.stack([np.bincount(sample, minlength=C + 1) for sample in (ours, theirs)])
    assert stats.chi2_contingency(table[:, table.sum(axis=0) >= 10]).pvalue > LEAST


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_neighbours_are_independent(rate: float) -> None:
    kept = torch.stack([mask(rate, step=step) for step in range(20)]).view(-1, T * C)
    for distance in (1, 2, 3, 4, 8, 16, C, 2 * C, 64, 512):
        assert dependence(kept[:, :-distance], kept[:, distance:]) > LEAST
    rows = kept.view(20, W, T, C)
    assert dependence(rows[:, :-1], rows[:, 1:]) > LEAST  # windows
    assert dependence(rows[:, :, :-1], rows[:, :, 1:]) > LEAST  # tokens
    assert dependence(rows[:-1], rows[1:]) > LEAST  # steps


OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 2},
    "step": {"step": 1},
    "window": {"first": W},
    "layer": {"layer": "two"},
    "call": {"call": 1},
}


@pytest.mark.parametrize("what", OTHERS)
def test_each_of_what_masks_depend_on_gives_independent_masks(what: str) -> None:
    kept, other = mask(), mask(**OTHERS[what])
    assert not torch.equal(kept, other)
    assert dependence(kept, other) > LEAST
    assert not any(torch.equal(mine, theirs) for mine in kept for theirs in other)


def test_a_step_and_a_window_are_not_exchanged() -> None:
    """Sums of keys would make the mask of one step and window that of the next step and the window before."""
    masks = [mask(step=step, first=first)[0] for step in range(4) for first in range(4)]
    assert len({tuple(one.flatten().tolist()) for one in masks}) == len(masks)


def test_the_masks_of_a_version_stay_those_of_the_next() -> None:
    """A run is resumed with another version: its masks are part of its results."""
    expected = "1110111111101011011111101110010111111011"
    assert "".join(str(int(kept)) for kept in mask(0.25).flatten()[:40]) == expected


@pytest.mark.parametrize("shape", [(3, 5), (6, 7, 9), (4, 1, 33), (2, 70_001), (6,)])
def test_torch_computes_the_masks_of_numpy(shape: tuple[int, ...]) -> None:
    keys = row_keys(call_key=77, first_window=2, n_windows=1, rows=shape[0])
    like = torch.empty(shape)
    for threshold in (1, 13_107, 65_535, 65_536):
        expected = numpy_mask(keys, like[0].numel(), threshold).reshape(shape)
        found = torch_mask(torch.from_numpy(keys.view(np.int32)), like, threshold)
        assert torch.equal(found, torch.from_numpy(expected).bool())


@pytest.mark.parametrize("columns", [1, 7, 12, 13, 40])
def test_rows_that_are_hashed_together_have_the_masks_of_each_alone(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = row_keys(call_key=3, first_window=0, n_windows=5, rows=5)
    alone = np.concatenate([numpy_mask(key[None], columns, 20_000) for key in keys])
    assert np.array_equal(numpy_mask(keys, columns, 20_000), alone)
    monkeypatch.setattr(dropout_masks, "BLOCK_WORDS", 12)  # some rows, or less than one
    assert np.array_equal(numpy_mask(keys, columns, 20_000), alone)


def test_however_windows_are_divided_each_has_its_mask() -> None:
    whole = mask()
    (module,) = hashed(0.25).values()
    for sizes in ([1] * W, [2, 4], [5, 1]):
        parts, first = [], 0
        for size in sizes:
            with TrainingPass(1, 0, 0, W).part(first, size).entered():
                parts.append(module(torch.ones(size, T, C)) != 0)
            first += size
        assert torch.equal(torch.cat(parts), whole)


def test_rows_of_tokens_belong_to_their_windows_and_rows_of_no_window_are_the_same_for_all() -> None:
    (module,) = hashed(0.25).values()

    def kept(first: int, windows: int, *shape: int) -> Tensor:
        with TrainingPass(1, 0, first, windows).entered():
            return module(torch.ones(shape)) != 0

    tokens = kept(0, W, W * T, C)
    assert torch.equal(kept(2, 3, 3 * T, C), tokens[2 * T : 5 * T])
    assert not torch.equal(tokens[:T], tokens[T : 2 * T])
    assert torch.equal(kept(0, W, 1, T, C), kept(4, 2, 1, T, C))


class Network(nn.Module):
    """With a layer that is called three times, once on the same input as before."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop, self.last = nn.Linear(8, 8), nn.Dropout(0.3), nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.linear(x))
        return self.last(torch.cat([self.drop(x), self.drop(x)], dim=1))  # type: ignore[no-any-return]


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    network = Network()
    hash_dropouts(network)
    return network


def results(network: nn.Module, function: Callable[[Tensor], Tensor], step: int = 0) -> list[Tensor]:
    network.zero_grad()
    x = torch.linspace(-1, 1, 4 * 5 * 8).view(4, 5, 8).requires_grad_()
    with TrainingPass(1, step, 3, len(x)).entered():
        y = function(x)
        y.square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


def test_calls_of_a_layer_have_masks_of_their_own(network: Network) -> None:
    y, *_ = results(network, network)
    assert not torch.equal(y[:, :5], y[:, 5:])


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_component_computes_again_has_the_same_masks(network: Network, reentrant: bool) -> None:
    again = results(network, lambda x: checkpoint(network, x, use_reentrant=reentrant))  # type: ignore[no-any-return]
    assert all(map(torch.equal, again, results(network, network)))


def test_activation_checkpointing_computes_the_same_masks_of_a_layer_used_twice(network: Network) -> None:
    def twice(x: Tensor) -> Tensor:
        return network(network(x))  # type: ignore[no-any-return]

    expected = results(network, twice)
    network.forward = with_recomputation(network.forward, drops=True)  # type: ignore[method-assign]
    assert all(map(torch.equal, results(network, twice), expected))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("recomputes", [False, True])
def test_compiled_code_has_the_same_masks_in_each_step_and_is_compiled_once(
    network: Network, recomputes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [results(network, network, step) for step in range(3)]
    compiled = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return torch._dynamo.lookup_backend("aot_eager_decomp_partition")(graph, inputs)

    if recomputes:
        network.forward = with_recomputation(network.forward, drops=True)  # type: ignore[method-assign]
    function = torch.compile(network, backend=backend, fullgraph=True)
    for step, wanted in enumerate(expected):
        for one, other in zip(results(network, function, step), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert compiled == 1
    torch._dynamo.reset()


def test_outside_the_passes_of_a_run_it_is_torchs_dropout() -> None:
    (module,) = hashed(0.25).values()
    x = torch.randn(W, T, C)
    torch.manual_seed(5)
    expected = nn.functional.dropout(x, 0.25)
    torch.manual_seed(5)
    assert torch.equal(module(x), expected)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_without_dropout_nothing_is_computed(rate: float) -> None:
    (module,) = hashed(rate).values()
    module.train(rate == 0)
    x = torch.randn(W, T, C)
    with TrainingPass(1, 0, 0, W).entered():
        assert module(x) is x


def test_a_rate_of_one_drops_everything_and_in_place_changes_the_input() -> None:
    all_dropped, some_dropped = nn.Dropout(1.0), nn.Dropout(0.25, inplace=True)
    holder = nn.ModuleList([all_dropped, some_dropped])
    hash_dropouts(holder)
    with TrainingPass(1, 0, 0, W).entered():
        assert not all_dropped(torch.ones(W, T, C)).any()
        x = torch.ones(W, T, C)
        assert some_dropped(x) is x
        assert 0.7 < (x != 0).double().mean() < 0.8


def test_modules_stay_those_that_others_refer_to_and_subclasses_keep_their_own_draws() -> None:
    class Own(nn.Dropout):
        pass

    plain, own = nn.Dropout(0.5), Own(0.5)
    calls: list[object] = []
    plain.register_forward_hook(lambda *args: calls.append(args))
    holder = nn.ModuleDict({"a": plain, "b": plain, "c": own})
    hash_dropouts(holder)
    assert isinstance(plain, HashedDropout)
    assert type(own) is Own
    assert not holder.state_dict()
    holder["b"](torch.ones(3))
    assert len(calls) == 1


def test_what_gpu_kernels_draw_is_a_function_of_seed_step_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    device = type("device", (), {"manual_seed": staticmethod(seeds.append)})
    monkeypatch.setattr(torch, "get_device_module", lambda name: device)
    for of_pass in ((1, 0, 0, 4), (1, 0, 4, 4), (1, 1, 0, 4), (2, 0, 0, 4), (1, 0, 0, 4)):
        TrainingPass(*of_pass).seed_generator("cuda")
    TrainingPass(1, 0, 0, 4).seed_generator("cpu")
    assert len(seeds) == 5
    assert seeds[4] == seeds[0]
    assert len(set(seeds)) == 4
