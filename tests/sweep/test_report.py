"""report.html: what it says of a sweep, that it is one file, and that a browser draws it."""

from __future__ import annotations

import builtins
import html
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from nanogpt_kit.report.page import NO_FIGURES, Page
from nanogpt_kit.sweep.space.parameters import Parameter
from tests.sweep.planted_study import PLACE, Fetched, one_trial, page_of, rates, realistic, shown, sweep_of


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two optimizers, confirmed."""
    return page_of(*realistic(20), tmp_path_factory.mktemp("page"))


def test_the_page_refers_to_nothing_outside_of_itself(page: str) -> None:
    found = Fetched(page)
    assert found.addresses, "the links to its own sections"
    assert all(re.fullmatch(r"#section-\d+", address) for address in found.addresses)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(found.tags)
    assert "@import" not in found.styles
    assert "url(" not in found.styles


def test_the_script_of_the_figures_is_in_the_page_once(page: str) -> None:
    assert page.count("plotly.js v") == 1
    assert page.count("Plotly.newPlot(") > 10


def test_words_of_others_are_taken_literally(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    space = [Parameter("model.norm", (), PLACE, "choice", choices=(evil, "b & c"), name="model.norm")]
    trials = [one_trial(at, {"model.norm": (evil, "b & c")[at % 2]}, 3.0 + at, space=space) for at in range(12)]
    trials.append(one_trial(12, {"model.norm": evil}, None, TrialState.FAIL, space, reason=f"no such {evil}"))
    page = page_of(*sweep_of(trials, name=f"a {evil}", space=space), tmp_path)
    assert evil not in page
    assert '"\\u003cscript' not in page, "plotly takes tags for tags"
    assert html.escape(f"no such {evil}") in page
    assert f"Sweep of a {evil}" in shown(page)
    assert page.count("<script") == page.count("</script>"), "plotly's own"


def test_the_headline_says_what_was_found_and_how_to_run_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    trials = [*rates([3.5, 3.25, 3.75], seconds=3600.0, tokens=2_000_000)]
    words = shown(page_of(*sweep_of(trials), folder))
    assert "val/loss, lower is better. Of 3 trials: 3 complete" in words
    assert "6 million tokens and 3.0 hours" in words
    assert "The best is trial 1 with val/loss = 3.25. Trial 0, the experiment as written, has 3.5." in words
    assert f"nanogpt-kit run '{folder}/best.toml'" in words


def failing(at: int) -> FrozenTrial:
    return one_trial(at, {"optimizer.lr": 1e-3}, None, TrialState.FAIL, reason="no")


SWEEPS: dict[str, list[FrozenTrial]] = {
    "no trial": [],
    "one trial": rates([3.0], reports={500: 3.5, 1_000: 3.0}),
    "all failed": [failing(at) for at in range(12)],
    "all the same": rates([3.0] * 12),
    "one of them far off": rates([3.0 + 0.01 * at for at in range(11)] + [1e30]),
    "refused before it had values": [
        one_trial(0, {}, None, TrialState.PRUNED, cause="refused"),
        *rates([3.0, 3.1])[1:],
    ],
    "at work": [*rates([3.0]), one_trial(1, {"optimizer.lr": 1e-3}, None, TrialState.RUNNING, reports={500: 4.0})],
    "only pruned": [one_trial(0, {"optimizer.lr": 1e-3}, 4.0, TrialState.PRUNED, reports={500: 4.0})],
}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("trials", SWEEPS.values(), ids=SWEEPS)
def test_a_sweep_of_any_kind_has_a_report(trials: list[FrozenTrial], direction: str, tmp_path: Path) -> None:
    words = shown(page_of(*sweep_of(trials, direction=direction), tmp_path))
    assert "Sweep of planted" in words
    assert ("All trials" in words) == bool(trials)


def test_equal_values_make_no_best(tmp_path: Path) -> None:
    words = shown(page_of(*sweep_of(SWEEPS["all the same"]), tmp_path))
    assert "All 12 complete trials have the same val/loss" in words


def test_with_one_seed_a_trial_no_line_claims_a_gain(tmp_path: Path) -> None:
    words = shown(page_of(*sweep_of(rates([2.62, 2.40, 2.41])), tmp_path))
    before_sections = words[: words.index("The best is trial 1")]
    assert "No verdict" in before_sections, "the page begins with it"
    for claim in ("better than", "worse than", "beats", "0.22"):
        assert claim not in words


def test_where_more_is_better_the_most_is_the_best(tmp_path: Path) -> None:
    page = page_of(*sweep_of(rates([0.5, 0.75, 0.25]), direction="maximize", metric="val/accuracy"), tmp_path)
    assert "The best is trial 1 with val/accuracy = 0.75." in shown(page)
    table = page[page.index("All trials</h2>") :]
    assert re.findall(r'<tr[^>]*><td class="number">(\d+)</td><td>complete', table) == ["1", "0", "2"]


def test_without_plotly_the_page_has_all_but_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_import = builtins.__import__

    def without_plotly(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "plotly":
            raise ImportError(name)
        return really_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_plotly)
    page = page_of(*realistic(), tmp_path)
    assert page.count(html.escape(NO_FIGURES)) == 1
    assert "<script" not in page
    words = shown(page)
    for told in ("Confirmation", "gave no result", "out of memory", "optimizer.use = muon", "trial-0022-s7"):
        assert told in words


@pytest.mark.slow
def test_a_thousand_trials_make_a_page_that_is_small_and_quick(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    summary, study = realistic(1_000, 100)
    began = time.monotonic()
    page = page_of(summary, study, tmp_path)
    assert time.monotonic() - began < 30
    assert len(page) < 10e6


def test_columns_of_a_table_are_written_with_as_many_decimals_a_cell() -> None:
    page = Page("a")
    page.table(["a", "b", "c"], [[2.981, 0.001, 1], [2.9528, 0.00025, "x"], [None, None, None]], marked=1)
    assert "2.9810" in page.html()
    assert "0.00025" in page.html()
    assert "<th>c</th>" in page.html(), "a column with a word in it is one of words"


def test_a_browser_without_a_network_draws_the_figures(page: str, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not on this machine")
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
    offline = ["--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND"]
    found = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *quiet, *offline),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom"),
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert found.stdout.count('class="main-svg"') > 10
