"""The products that decoding uses are those that are fastest on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate import product_choice, products
from nanogpt_kit.generate.decoding_model import DecodingModel
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.generate.packed_linear import PackedLinear
from nanogpt_kit.generate.products import Product, Way
from nanogpt_kit.nn import calibration, measured_choices
from nanogpt_kit.nn.measured_choices import calibration_file, current_conditions
from nanogpt_kit.train import session

WIDTH, SIZE = 256, 65_536  # layers of so many weights are measured here


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are measured, and other work of the machine that runs the tests does not matter."""
    monkeypatch.delenv("NANOGPT_KIT_CALIBRATION")
    monkeypatch.setattr(product_choice, "MIN_MEASURED_SIZE", SIZE)
    monkeypatch.setattr(measured_choices, "spent", 0.0)
    monkeypatch.setattr(measured_choices, "BUDGET_SECONDS", 20.0)
    monkeypatch.setattr(calibration, "MAX_WAITING", 1e9)
    monkeypatch.setattr(calibration, "MAX_SPREAD", 1e9)


def taking(way: Way, seconds: Callable[[Tensor], float]) -> Way:
    """A way that sleeps as long as is said of a weight."""

    def make(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
        product = way.make(weight, bias, rows)

        def call(x: Tensor) -> Tensor:
            time.sleep(seconds(weight))
            return product(x)

        return call

    return replace(way, make=make)


def names_of_ways(model: DecodingModel) -> set[str]:
    """Of layers that are large enough to be measured."""
    parts = [part for part in model.modules() if isinstance(part, PackedLinear)]
    return {part.way.name for part in parts if part.weight.numel() >= SIZE}


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_slow_product_writes_no_text(
    tiny: Path, measures: None, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways_of_type, slow = products.ways_of_type, set()

    def planted(dtype: torch.dtype, *sizes: int) -> list[Way]:
        first, *others = ways_of_type(dtype, *sizes)
        slow.add(first.name)
        return [taking(first, lambda weight: 0.003), *others]

    monkeypatch.setattr(products, "ways_of_type", planted)
    session.run(
        Experiment.load(
            tiny, ["callback=[]", "train.steps=1", "model.n_layer=1", "model.n_head=4", f"model.n_embd={WIDTH}"]
        )
    )
    generator = load_run("tiny", overrides=[f"sample.precision={precision}"])
    generator.generate("1", max_new_tokens=2)
    (model,) = generator.decoding_models.values()
    used = names_of_ways(model)
    assert used
    assert not used & slow
    record = json.loads(calibration_file(current_conditions()).read_text(encoding="utf-8"))
    assert sum(name.startswith("decoding, 1 x") for name in record["tasks"]) >= 3


def test_on_a_processor_whose_fp16_products_are_slow_others_are_used(
    measures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"fbgemm": 6e9, "fbgemm on threads": 6e9, "bf16": 11e9, "onednn bf16": 8e9}  # bytes/s of a Xeon with AMX
    ways_of_type = products.ways_of_type

    def planted(dtype: torch.dtype, size: int, rows: int, threads: int) -> list[Way]:
        return [
            taking(way, lambda weight, way=way: 40 * weight.numel() * way.dtype.itemsize / rates.get(way.name, 16e9))
            for way in ways_of_type(dtype, size, rows, 2)
        ]

    monkeypatch.setattr(products, "ways_of_type", planted)
    layers = [nn.Linear(512, 512)]
    dtypes = [torch.float16, torch.bfloat16, torch.float32]
    (way,) = product_choice.choose_ways(layers, dtypes, 1, 2).values()
    assert way.name == "bf16"


def test_logits_are_not_rounded_to_16_bits_where_another_product_is_faster() -> None:
    dtypes = [torch.float16, torch.bfloat16, torch.float32]
    head, inner = (
        list(product_choice.possible_ways(torch.Size([512, 256]), is_head, dtypes, 1, 2).values())
        for is_head in (True, False)
    )
    assert any(way.rounds_results for way in inner)
    assert not any(way.rounds_results for way in head[1:])
