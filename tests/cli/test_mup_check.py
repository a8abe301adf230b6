"""`mup-check` on the command line: its table, its page, its exit code, and the sentences for mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.bench import width_scaling
from nanogpt_kit.bench.width_slopes import WidthScaling
from nanogpt_kit.report.page import NO_FIGURES
from tests.bench.planted_widths import EVEN, UNEVEN
from tests.cli.test_json_output import TABLE
from tests.report.test_run_page import without_plotly as without_plotly  # a fixture

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_plotly: None) -> Path:
    """The current folder, where the page is written. Pages have no figures."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[WidthScaling], list[Any]]:
    """`measured(scaling)`: what the measurement returns; the list has what it was asked for."""

    def plant(scaling: WidthScaling) -> list[Any]:
        asked: list[Any] = []

        def measure(experiment: Any, *arguments: Any) -> WidthScaling:
            asked[:] = arguments
            return scaling

        monkeypatch.setattr(width_scaling, "measure_widths", measure)
        return asked

    return plant


def test_even_features_end_with_0_a_table_and_a_page(
    tiny: Path, command: Command, measured: Callable[[WidthScaling], list[Any]]
) -> None:
    asked = measured(EVEN)
    answer = command("mup-check", tiny, "--widths", "512, 64,128", "--steps", 7, "--seeds", 2)
    assert answer.code == 0, answer.err
    assert asked == [(64, 128, 512), 7, 2], "in rising order"
    lines = answer.out.splitlines()
    assert lines[0].startswith("steps 1 to 3 of a linear warmup of 100 to optimizer.lr = 0.002, 1,280 tokens a step")
    assert lines[1].split() == ["change", "at", "width", "16", "64", "128", "slope", "at", "start", "verdict"]
    assert lines[3].split() == ["h.0.attn", "0.631", "0.578", "0.554", "-0.06", "+0.00", "even"]
    assert lines[-2].startswith("training changes features alike")
    assert lines[-1] == "mup-check.html"
    page = Path("mup-check.html").read_text(encoding="utf-8")
    assert "Even: training changes features alike" in page
    assert "-0.375" not in page
    assert "-0.38" in page
    assert "mup-check" in page
    assert "--widths=64,128,512 --steps=7 --seeds=2" in page
    assert NO_FIGURES in page.replace("&#x27;", "'")
    assert NO_FIGURES in answer.err


def test_uneven_features_end_with_1(
    tiny: Path, command: Command, measured: Callable[[WidthScaling], list[Any]], here: Path
) -> None:
    asked = measured(UNEVEN)
    answer = command("mup-check", tiny, "--output", "features.html")
    assert asked == [(64, 128, 256, 512), 5, 3]
    assert answer.code == 1
    assert "h.0.attn grows with slope +1.25" in answer.out
    assert "init.base_width=48" in answer.out
    assert answer.out.splitlines()[-1] == "features.html"
    assert "Features depend on the width in 2 of 3 places" in (here / "features.html").read_text(encoding="utf-8")


def test_narrow_models_are_trained_more_often_where_no_number_of_seeds_is_given(
    tiny: Path, command: Command, measured: Callable[[WidthScaling], list[Any]]
) -> None:
    asked = measured(EVEN)
    command("mup-check", tiny, "--widths", "64,128")
    assert asked == [(64, 128), 5, 12]


def test_json_has_the_documented_keys_and_null_where_there_is_no_number(
    tiny: Path, command: Command, measured: Callable[[WidthScaling], list[Any]]
) -> None:
    place = UNEVEN.places[1]
    broken = replace(place, changes=(*place.changes[:-1], (0.0, float("nan"), float("nan"), float("nan"))))
    measured(replace(UNEVEN, places=(UNEVEN.places[0], broken), diverged={128: "the loss is nan"}))
    answer = command("mup-check", tiny, "--json")
    assert answer.code == 1
    value = json.loads(answer.out)
    shape, keys = TABLE["mup-check"]
    assert shape == "object"
    assert set(keys) == value.keys()
    assert (value["is_within"], value["worst"], value["widths"]) == (False, "h.0.attn", [16, 64, 128])
    assert value["diverged"] == {"128": "the loss is nan"}
    first, second = value["places"]
    assert (first["verdict"], first["slope"]) == ("shrinks", pytest.approx(-0.125))
    assert (second["verdict"], second["slope"], second["changes"][2][1]) == ("not finite", None, None)


@pytest.mark.parametrize(
    ("widths", "fault"),
    [
        ("64", "a slope needs at least two widths, as in 64,128,256,512"),
        ("", "a slope needs at least two widths"),
        ("64,128,64", "64 is in it more than once"),
        ("64,wide", "'wide' is not a width"),
        ("64,12.5", "'12.5' is not a width"),
        ("0,64", "'0' is not a width"),
        ("-64,64", "'-64' is not a width"),
    ],
)
def test_mistakes_in_the_widths_have_a_sentence(tiny: Path, command: Command, widths: str, fault: str) -> None:
    answer = command("mup-check", tiny, f"--widths={widths}")
    assert (answer.code, answer.out) == (2, "")
    assert f"command line: --widths: {fault}" in answer.err


def test_widths_are_checked_before_any_data_is_prepared(tiny: Path, command: Command, text_file: Path) -> None:
    text_file.unlink()
    answer = command("mup-check", tiny, "--widths", "24,32")
    assert answer.code == 2
    assert "command line: --widths: 32: n_embd (32) should be a multiple of n_head (3)" in answer.err


def test_a_width_beyond_all_memory_is_refused(tiny: Path, command: Command) -> None:
    answer = command("mup-check", tiny, "--widths", "24,999999")
    assert answer.code == 2
    assert "the model needs at least" in answer.err
    assert "n_embd = 999999" in answer.err


def test_a_missing_base_width_is_a_mistake_of_the_experiment(tiny: Path, command: Command) -> None:
    answer = command("mup-check", tiny, "init.use=mup")
    assert answer.code == 2
    assert "init.base_width" in answer.err


def test_a_file_that_would_be_lost_is_refused_before_the_training(tiny: Path, command: Command) -> None:
    answer = command("mup-check", tiny, "--output", tiny)
    assert answer.code == 2
    assert "--output" in answer.err
    assert "not HTML" in answer.err
