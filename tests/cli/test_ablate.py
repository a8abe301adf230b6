"""`nanogpt-kit ablate` and `check` on what an ablation would compare; the arms are tested in tests/sweep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.core.errors import DONE, UNDECIDED, WORSE
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep import comparison_preview
from nanogpt_kit.sweep.arms.matching import count_of_model
from nanogpt_kit.sweep.preview import RunSpeed

Command = Callable[..., Any]


class Answer(NamedTuple):
    code: int
    out: str
    err: str


SHORT = ["train.steps=3", "callback=[]", "evaluate.every_steps=3", "checkpoint.every_steps=3", "train.compile=off"]
TABLE = """
[ablate]
seeds = 2
[ablate.vary]
"model.mlp" = ["gelu", "swiglu"]
[ablate.changes.slow]
"optimizer.lr" = 1e-4
"""


@pytest.fixture
def experiment(tiny: Path) -> Path:
    tiny.write_text(tiny.read_text(encoding="utf-8") + TABLE, encoding="utf-8")
    return tiny


@pytest.fixture
def measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison_preview, "estimate_speed", lambda *_: RunSpeed(1000.0, "measured", None))


# Runs


@pytest.fixture
def ablate(command: Command, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """`ablate(path, ...)`: an ablation that runs to its verdict."""

    def ended(*words: object) -> Answer:
        try:
            answer: Answer = command("ablate", *words)
        except SystemExit as verdict:
            answer = Answer(int(verdict.code or 0), *capsys.readouterr())
        assert answer.code in (DONE, UNDECIDED, WORSE), answer.err
        return answer

    return ended


def test_a_factorial_has_effects_and_the_same_command_trains_nothing_again(
    ablate: Callable[..., Answer], tiny: Path
) -> None:
    vary = ["--vary=model.mlp=gelu,relu2", "--vary=model.position=rope"]
    words = [tiny, *SHORT, *vary, "--factorial", "--seeds=1", "--match=parameters"]
    answer = ablate(*words, "--json")
    first = json.loads(answer.out)
    assert [arm["label"] for arm in first["arms"]] == [
        *("tiny", "model.position=rope", "model.mlp=relu2", "model.mlp=relu2 + model.position=rope")
    ]
    assert [(one["arm"], one["seed"]) for one in first["measurements"]] == [(arm, 1337) for arm in range(4)]
    assert [tuple(effect["factors"]) for effect in first["effects"]] == [
        *[("model.mlp",), ("model.position",), ("model.mlp", "model.position")]
    ]
    assert any(note.startswith("model.position=rope: ") and "fewer than the base" in note for note in first["notes"])
    runs = sorted(Path(one["run"]) for one in first["measurements"])
    matched = count_of_model(Experiment.load(tiny), "parameters")
    assert first["measurements"][0]["parameters"] == matched
    repeated = ablate(*words)
    assert repeated.code == answer.code
    assert ": started" in answer.err
    assert ": started" not in repeated.err
    assert f"record: {first['path']}" in repeated.err
    assert f"report: nanogpt-kit report {Path(first['path']).parent}\n" in repeated.err
    assert "model.mlp=relu2 + model.position=rope" in repeated.out
    again = Comparison.read(Path(first["path"]))
    assert sorted(Path(one.run) for one in again.measurements) == runs
    assert len(again.looks) == 1


def test_a_preview_starts_nothing_and_shows_arms_runs_and_time(
    command: Command, experiment: Path, measured_speed: None, tmp_path: Path
) -> None:
    shown = command("ablate", experiment, "--preview", "--seeds=3", "--vary", "model.position=rope")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0] == "4 arms with seeds 1337 to 1339; val/loss is minimized"
    assert lines[1].startswith("  tiny: as written; ")
    assert lines[2].startswith('  model.mlp=swiglu: model.mlp.use = "swiglu" instead of "gelu"; ')
    assert lines[3].startswith('  model.position=rope: model.position.use = "rope" instead of "learned"; ')
    assert lines[4].startswith("  slow: optimizer.lr = 0.0001 instead of 0.003; ")
    assert all(line.endswith(" parameters") for line in lines[1:5])
    assert lines[5] == "12 of 12 runs are to be done; 0 are answered by finished runs"
    assert lines[6] == "19,200 tokens at most"
    assert lines[7].startswith("about ")
    assert not (tmp_path / "runs").exists()


def test_a_preview_for_programs_has_the_same(command: Command, experiment: Path, measured_speed: None) -> None:
    shown = command("ablate", experiment, "--preview", "--json", "--match=parameters", "--match-with=model.n_embd")
    assert shown.code == 0, shown.err
    record = json.loads(shown.out)
    assert [arm["label"] for arm in record["arms"]] == ["tiny", "model.mlp=swiglu", "slow"]
    assert record["arms"][2]["changes"] == {"optimizer.lr": ["0.003", "0.0001"]}
    assert (record["runs"], record["missing_runs"], record["seeds"]) == (6, 6, [1337, 1338])
    assert f"about {record['seconds']:.0f} s" in record["duration"]
    assert len({arm["parameters"] for arm in record["arms"]}) == 1
    assert record["notes"] == []


# Mistakes


def test_without_changes_both_ways_to_write_them_are_shown(command: Command, tiny: Path) -> None:
    answer = command("ablate", tiny)
    assert answer.code == 2
    assert "[ablate.vary]" in answer.err
    assert "--vary model.mlp=gelu,swiglu" in answer.err


def test_check_refuses_what_ablate_refuses(command: Command, experiment: Path) -> None:
    assert command("check", experiment).code == 0
    experiment.write_text(experiment.read_text().replace('"swiglu"]', '"swigl"]'))
    line = experiment.read_text().splitlines().index('"model.mlp" = ["gelu", "swigl"]') + 1
    for verb in ("check", "ablate"):
        answer = command(verb, experiment)
        assert answer.code == 2
        assert f"{experiment}:{line}: model.mlp.use: unknown mlp 'swigl'; did you mean 'swiglu'?" in answer.err


def test_check_reports_what_is_wrong_with_the_sweep_and_with_the_ablation(command: Command, experiment: Path) -> None:
    text = experiment.read_text().replace('"swiglu"]', '"swigl"]')
    experiment.write_text(text + '[sweep]\n[sweep.space]\n"optimizer.lrr" = { choice = [1e-3, 2e-3] }\n')
    answer = command("check", experiment)
    assert answer.code == 2
    assert "model.mlp.use: unknown mlp 'swigl'; did you mean 'swiglu'?" in answer.err
    assert "optimizer.lrr" in answer.err


def test_check_accepts_a_table_without_changes(command: Command, tiny: Path) -> None:
    tiny.write_text(tiny.read_text() + "\n[ablate]\nseeds = 3\n")
    assert command("check", tiny).code == 0


def test_options_of_the_command_replace_those_of_the_table(command: Command, experiment: Path) -> None:
    answer = command("ablate", experiment, "--metric", "val/lss", "--storage", "nope", "--preview")
    assert answer.code == 2
    assert "command line: ablate.metric: " in answer.err
    assert "command line: ablate.storage: 'nope'" in answer.err


# Explanations


def test_explain_has_a_line_for_each_list_and_each_change(command: Command, experiment: Path) -> None:
    experiment.write_text(experiment.read_text() + '[ablate.vary.model]\nposition = ["rope"]\n')
    answer = command("check", experiment, "--explain")
    assert answer.code == 0, answer.err
    lines = {line.partition("  #")[0].strip(): line for line in answer.out.splitlines()}
    rows = experiment.read_text().splitlines()
    for text, written in (
        ('ablate.vary.model.mlp = ["gelu", "swiglu"]', '"model.mlp" = ["gelu", "swiglu"]'),
        ('ablate.vary.model.position = ["rope"]', 'position = ["rope"]'),
        ('ablate.changes.slow = {"optimizer.lr": 0.0001}', "[ablate.changes.slow]"),
        ("ablate.seeds = 2", "seeds = 2"),
    ):
        assert f"{experiment}:{rows.index(written) + 1}" in lines[text]
    values = json.loads(command("check", experiment, "--json").out)["options"]
    assert values["ablate.vary.model.mlp"]["value"] == ["gelu", "swiglu"]


def test_a_password_in_the_storage_is_not_shown(command: Command, experiment: Path) -> None:
    answer = command("check", experiment, "--explain", "ablate.storage=postgresql://me:pass-word@host/x")
    assert "pass-word" not in answer.out + answer.err
    assert "postgresql://me:***@host/x" in answer.out
    base = Experiment.load(experiment, ["ablate.storage=postgresql://me:pass-word@host/x"])
    assert "pass-word" not in base.to_toml() + repr(base.ablate)
