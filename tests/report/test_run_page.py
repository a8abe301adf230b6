"""The page of one run: what it says first, what it draws, and what it survives."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from nanogpt_kit.core.shipped import shipped_experiments
from nanogpt_kit.report.page import NO_FIGURES, Page
from nanogpt_kit.report.run_page import runs_page
from nanogpt_kit.report.run_results import ReportedRun, compressors
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.notes import add_note
from nanogpt_kit.runs.samples import add_samples
from tests.runs.listed_runs import make_listed_run

EVIL = "</script><script>alert(1)</script><b onload=x>"


@pytest.fixture
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without figures are small, and quick to search."""
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)


def text_of(page: Page) -> str:
    """The words of a page, without tags, in their order."""
    without_tags = re.sub(r"<[^>]*>", " ", "\n".join(page.parts).replace("<wbr>", ""))
    return re.sub(r"\s+", " ", html.unescape(without_tags))


def page_of(*runs: RunFolder) -> str:
    return text_of(runs_page(runs))


def log(run: RunFolder, *records: dict[str, Any]) -> None:
    run.metrics.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def evaluated(step: int, loss: float | None, **more: float) -> dict[str, Any]:
    return {"step": step, "tokens": 80 * step, "seconds": step / 8, "val/loss": loss, **more}


# Result


@pytest.mark.usefixtures("without_plotly")
def test_the_last_evaluation_comes_first_and_the_best_with_its_step_behind_it() -> None:
    run = make_listed_run("tiny/a")
    log(run, evaluated(4, 2.75), evaluated(8, 2.25), evaluated(12, 2.5))
    text = page_of(run).strip()
    assert text.startswith("val/loss 2.5 at step 12, the last evaluation; the best of 3 was 2.25 at step 8.")
    assert "Finished: 20 of" not in text
    assert "Finished: 20 steps; 960 tokens; 2 s of training." in text


@pytest.mark.usefixtures("without_plotly")
def test_a_last_evaluation_that_is_the_best_is_called_so() -> None:
    run = make_listed_run("tiny/a")
    log(run, evaluated(4, 2.75), evaluated(8, 2.25))
    assert "val/loss 2.25 at step 8, the last evaluation, which is the best one." in page_of(run)


@pytest.mark.usefixtures("without_plotly")
def test_bits_per_byte_stand_beside_what_compressors_reach_on_the_same_text(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    manifest = {"splits": {"val": {"sha256": "hash", "references": {"gzip -9": 2.625, "xz -9": 2.5}}}}
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    data = {"folder": "data", "dataset": "d", "splits": {"val": "hash"}}
    run = make_listed_run("tiny/a", data=data)
    record = json.loads((run.path / "provenance.json").read_text()) | {"folder": str(tmp_path)}
    (run.path / "provenance.json").write_text(json.dumps(record), encoding="utf-8")
    log(run, evaluated(8, 2.25, **{"val/bits_per_byte": 3.125}))
    assert "Bits per byte of text 3.125 at step 8; compressors on the same text: gzip -9 2.625, xz -9 2.5." in page_of(
        run
    )
    manifest["splits"]["val"]["sha256"] = "another"
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert compressors(ReportedRun.read(run).row) == {}, "the data were prepared again from another text"


@pytest.mark.usefixtures("without_plotly")
@pytest.mark.parametrize(
    ("state", "more", "sentence"),
    [
        ("failed", {"reason": "the loss is NaN"}, "The run failed at step 7: the loss is NaN"),
        ("interrupted", {"reason": "Ctrl-C"}, "The run was interrupted at step 7: Ctrl-C"),
        ("running", {}, "The run was interrupted at step 7: its process exited without reporting a status"),
        ("failed", {}, "The run failed at step 7: no reason is recorded"),
    ],
)
def test_a_run_that_is_not_finished_has_its_state_and_reason(state: str, more: dict[str, str], sentence: str) -> None:
    run = make_listed_run("tiny/a", state=state, step=7)
    status = json.loads((run.path / "status.json").read_text())
    (run.path / "status.json").write_text(json.dumps(status | more), encoding="utf-8")
    assert sentence in page_of(run)


@pytest.mark.usefixtures("without_plotly")
def test_a_run_in_progress_shows_what_it_has_logged() -> None:
    run = make_listed_run("tiny/a", state="running", step=7)
    with run.lock():
        text = page_of(run)
    assert "This page has what was logged until now" in text
    assert "Running: 7 of 20 steps" in text


@pytest.mark.usefixtures("without_plotly")
def test_a_run_without_evaluations_says_so() -> None:
    run = make_listed_run("tiny/a")
    log(run, {"step": 1, "tokens": 80, "train/loss": 3.5})
    assert "There is no evaluation of val/loss." in page_of(run)


@pytest.mark.usefixtures("without_plotly")
def test_an_imported_model_without_metrics_has_a_page() -> None:
    run = make_listed_run("gpt2/a", imported={"source": "gpt2", "files": {}})
    run.metrics.unlink()
    status = {"format": 2, "state": "finished", "time": 0.0, "imported": True, "parameters": 124}
    (run.path / "status.json").write_text(json.dumps(status), encoding="utf-8")
    text = page_of(run)
    assert "An imported model: it was not trained here, so it has no metrics." in text
    assert "imported from gpt2" in text


@pytest.mark.usefixtures("without_plotly")
def test_a_last_loss_that_is_not_finite_is_called_so() -> None:
    run = make_listed_run("tiny/a")
    log(run, evaluated(4, 2.75), evaluated(8, None))
    text = page_of(run)
    assert "val/loss not finite at step 8, the last evaluation; the best of 2 was 2.75 at step 4." in text


@pytest.mark.usefixtures("without_plotly")
def test_a_folder_whose_records_are_all_damaged_has_a_page() -> None:
    run = make_listed_run("tiny/a")
    for name in ("experiment.toml", "status.json", "provenance.json", "metrics.jsonl"):
        (run.path / name).write_bytes(b"\xff{[\0")
    assert "There is no evaluation of val/loss." in page_of(run)


# Sections


@pytest.mark.usefixtures("without_plotly")
def test_missing_plotly_leaves_the_tables_and_says_how_to_get_figures() -> None:
    text = page_of(make_listed_run("tiny/a"))
    assert NO_FIGURES in text
    assert "Evaluations step tokens val/loss 20 1,600 2.5" in text


@pytest.mark.usefixtures("without_plotly")
def test_long_runs_have_thirty_rows_of_evaluations_with_the_last_one() -> None:
    run = make_listed_run("tiny/a")
    log(run, *(evaluated(step, 3 - step / 1000) for step in range(1, 502)))
    text = page_of(run)
    assert "30 of 501, evenly spaced; the last one included." in text
    assert " 501 40,080 2.499 " in text


@pytest.mark.usefixtures("without_plotly")
def test_options_that_differ_from_the_defaults_are_listed_with_them() -> None:
    text = page_of(make_listed_run("tiny/a", {"optimizer.weight_decay": 0.5, "model.mlp.width": 4.0}))
    assert "optimizer.weight_decay 0.5 0.1" in text
    assert "model.mlp.width" not in text, "it has its default"
    assert "sampler.top_k.k" not in text
    assert "sampler.temperature.value" not in text


@pytest.mark.usefixtures("without_plotly")
def test_a_run_of_a_shipped_experiment_is_compared_with_it_first() -> None:
    assert "quickstart" in shipped_experiments()
    text = page_of(make_listed_run("quickstart/a", {"schedule": {"use": "cosine", "warmup_steps": 33}}))
    assert "or from the shipped experiment quickstart, those first" in text
    assert "schedule.warmup_steps 33 200 100" in text
    assert text.index("schedule.warmup_steps 33") < text.index("model.use gpt gpt")


@pytest.mark.usefixtures("without_plotly")
def test_options_of_components_that_are_not_installed_are_listed_without_defaults() -> None:
    text = page_of(make_listed_run("tiny/a", {"model.mlp": {"use": "of-a-colleague", "secret_sauce": 3}}))
    assert "model.mlp.secret_sauce 3 " in text


@pytest.mark.usefixtures("without_plotly")
def test_the_newest_samples_are_side_by_side_as_they_are() -> None:
    run = make_listed_run("tiny/a")
    add_samples(run.samples, 10, ["early"])
    add_samples(run.samples, 20, ["late  text", "\x1b[31mred\n  and more"])
    page = runs_page([run])
    text = text_of(page)
    assert "early" not in text
    assert "step 20, sample 1 late text step 20, sample 2 \\u001b[31mred and more" in text
    assert "red\n  and more</pre>" in "".join(page.parts), "whitespace is kept"


@pytest.mark.usefixtures("without_plotly")
def test_provenance_has_what_repeats_the_run_and_no_password() -> None:
    run = make_listed_run(
        "tiny/a",
        {"note": "to learn"},
        command="nanogpt-kit sweep x --storage postgresql://me:hunter2@host/db",
        git={"commit": "abc123", "dirty": True},
        machine={"host": "box", "gpu": "H200", "cores": 2, "device": "cuda", "threads": 1, "python": "3.11"},
        distributions={"torch": "2.13", "local file": ""},
        components={"model": "nanogpt-kit/gpt", "model.mlp": "local file/leaky"},
        data={"folder": "d", "dataset": "1" * 64, "tokenizer": "2" * 64, "splits": {"val": "3" * 64}},
        configuration="4" * 64,
    )
    add_note(run.path, "worth a look")
    text = page_of(run)
    assert "hunter2" not in text
    assert "command nanogpt-kit sweep x --storage postgresql://***@host/db" in text
    for part in (
        "note to learn",
        "UTC worth a look",
        "seed 7",
        "commit abc123, with changes, see dirty.patch in its folder",
        "packages torch 2.13 ",
        "model.mlp = local file/leaky",
        "machine box, H200, 2 cores, Python 3.11",
        "computed in cuda, 1 thread",
        "dataset 111111111111, tokenizer 222222222222, tokens of val 333333333333",
        "configuration 444444444444",
    ):
        assert part in text


def test_text_of_others_never_becomes_html() -> None:
    run = make_listed_run(
        f"{EVIL.replace('/', '')}/{'n' * 200}",
        {"note": EVIL, "dataset": {"use": "text", "source": EVIL}, "name": EVIL},
        command=EVIL,
        machine={"host": EVIL},
        distributions={EVIL: EVIL},
    )
    add_samples(run.samples, 20, [EVIL])
    add_note(run.path, EVIL)
    log(run, evaluated(10, 2.5, **{f"val/{EVIL}": 2.5}), {"step": 10, "tokens": 1, "train/loss": 2.0, EVIL: 1.0})
    plain = make_listed_run("plain/a")
    log(plain, evaluated(10, 2.5, **{"val/x": 2.5}), {"step": 10, "tokens": 1, "train/loss": 2.0, "x": 1.0})
    evil, fine = runs_page([run]).html(), runs_page([plain]).html()
    assert evil.count("<script") == fine.count("<script")
    assert "<b onload" not in evil
    assert evil.count("&lt;script&gt;alert(1)") >= 7
    both = runs_page([run, plain]).html()
    assert "<b onload" not in both
    assert both.count("<script") >= fine.count("<script")
    assert "<script>alert" not in both
