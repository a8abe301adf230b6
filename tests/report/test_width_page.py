"""The page of `mup-check` as a browser shows it."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

pytest.importorskip("plotly")

from nanogpt_kit.report.width_page import width_page
from tests.bench.planted_widths import UNEVEN, make_place, make_scaling
from tests.report.pictures import PHONE, Browser
from tests.report.pictures import browser as browser  # a fixture

KINDS = (("h.{}.attn", 0.75), ("h.{}.mlp", 1.0), ("h.{}", 0.875))
DEEP = make_scaling(
    make_place("input", -0.25),
    *(make_place(name.format(layer), slope + layer / 16, 0.5) for layer in range(4) for name, slope in KINDS),
    make_place("logits", 0.5, -0.5),
)


def test_the_page_is_readable_wide_and_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(width_page(DEEP, "nanogpt-kit mup-check deep.toml --widths=16,64,128").html(), encoding="utf-8")
    view = browser.open(path)
    assert view.unreadable() == {}
    entries = view.evaluate("[...document.querySelectorAll('#figure-1 .legendtext')].map((one) => one.textContent)")
    assert entries == ["input", "h.attn", "h.mlp", "h", "logits"], "layers of a kind share one"
    view.resize(PHONE)
    assert view.unreadable() == {}
    assert view.complaints == []


def test_values_that_are_not_finite_are_gaps_and_empty_cells() -> None:
    place = UNEVEN.places[1]
    broken = dataclasses.replace(place, changes=(*place.changes[:-1], (0.0, math.nan, math.nan, math.nan)))
    scaling = dataclasses.replace(UNEVEN, places=(broken,), diverged={128: "the loss is nan at step 1"})
    page = "\n".join(width_page(scaling, "").parts)
    assert "Training failed at width 128: the loss is nan at step 1." in page
    assert re.search(r"<td></td>.*not finite", page)
