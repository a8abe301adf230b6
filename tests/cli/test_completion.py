"""What completion offers for a command that is being typed, and what the shells make of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import click
import pytest

from nanogpt_kit.cli import main, option_cache
from nanogpt_kit.cli.completion import (
    COMPLETE,
    BashCompletion,
    FishCompletion,
    KitCompletion,
    ZshCompletion,
)
from nanogpt_kit.cli.shell_words import split_command
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.kinds import load_entry
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.shipped import shipped_experiments

OLDER, NEWER = "20260101-000000000-s1-aaaaaa", "20260202-000000000-s2-bbbbbb"
UNSAFE = ["new\nline", "esc\x1b[31m", "tab\tx", "bell\a", os.fsdecode(b"\xff"), "-option"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    option_cache.words_of_distribution.cache_clear()
    return here


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Of two experiments; one has two runs, with two checkpoints each."""
    root = tmp_path / "runs"
    for run in (f"first/{OLDER}", f"first/{NEWER}", "second/20260303-000000000-s3-cccccc"):
        for step in (500, 1000):
            (root / run / f"checkpoints/step-{step:08d}").mkdir(parents=True)
        shutil.copy(shipped_experiments()["quickstart"], root / run / "experiment.toml")
    return root


def candidates(line: str) -> dict[str, str]:
    """Words that complete the last one of a command, with their help."""
    words, _ = split_command(f"nanogpt-kit {line}")
    completion = KitCompletion(main, {}, "nanogpt-kit", COMPLETE)
    return {item.value: item.help or "" for item in completion.candidates(words[1:-1], words[-1])}


def words(line: str) -> list[str]:
    return list(candidates(line))


def test_runs_list_offers_experiments_keys_and_the_values_that_runs_have(runs: Path) -> None:
    assert words("runs list fir") == ["first"]
    assert words("runs list optimizer.l") == ["optimizer.lr="]
    assert words("runs list experiment=") == ["experiment=quickstart"]
    assert words("runs list --sort optimizer.l") == ["optimizer.lr"]
    assert words("runs list --columns run,optimizer.l") == ["run,optimizer.lr"]


@pytest.mark.parametrize("verb", ["show", "diff first", "note", "rm", "rm first"])
def test_the_verbs_of_runs_offer_runs_at_any_depth(verb: str, runs: Path) -> None:
    trial = runs / "first/sweep/trial-0000-s1"
    shutil.copytree(runs / f"first/{OLDER}", trial)
    assert words(f"runs {verb} ") == ["first", "second"]
    assert words(f"runs {verb} first/sw") == ["first/sweep/trial-0000-s1"]
    assert words(f"runs {verb} 2026010") == [OLDER]


def write_experiment(path: str, text: str = "") -> None:
    Path(path).write_text(f'extends = "quickstart"\n{text}', encoding="utf-8")


def test_verbs_and_options_complete() -> None:
    assert words("ru") == ["run", "runs"]
    assert words("plugins s") == ["show"]
    assert words("sweep stat") == ["status"]
    assert words("run quickstart --res") == ["--resume"]
    assert words("export x --format=h") == ["--format=huggingface"]
    assert words("completion ") == ["bash", "zsh", "fish"]


def test_the_components_of_a_list_of_parts_complete_by_index() -> None:
    write_experiment("mine.toml", '[model]\nattention = [{ use = "sdpa", window = 8 }, "naive"]\n')
    assert words("run mine model.attention.") == [f"model.attention.{part}" for part in ("0=", "0.", "1=", "1.")]
    assert words("run mine model.attention.0.w") == ["model.attention.0.window="]
    assert words("run mine model.attention.naive.w") == ["model.attention.naive.window="]
    assert words("run mine model.attention.1=s") == ["model.attention.1=sdpa"]
    assert words("run mine model.attention.2.") == []
    assert words("run mine model.attention=n") == ["model.attention=naive"]


def test_compare_completes_experiments_runs_and_changes_of_its_base(runs: Path) -> None:
    assert "quickstart" in words("compare qui")
    assert "first" in words("compare quickstart fi")
    assert "model.mlp=swiglu" in words("compare quickstart model.mlp=s")
    assert "model.mlp=swiglu optimizer.lr=" in words("compare quickstart 'model.mlp=swiglu optimizer.l")


def test_report_completes_runs_sweeps_comparisons_and_paths(runs: Path) -> None:
    for place in ("first/ablate/0a1b2c3d4e5f/comparison.json", "swept/sweep/sweep.json"):
        (runs / place).parent.mkdir(parents=True)
        (runs / place).write_text("{}")
    assert {"first", "swept", "0a1b2c3d4e5f"} <= {*words("report ")}
    assert words("report 0a1") == ["0a1b2c3d4e5f"]
    assert words("report sw") == ["swept"]
    Path("folder").mkdir()
    assert words("report ./fol") == ["./folder/"]


# words that are the user's; the last: no plugin is installed
EMPTY = ("sample overrides", "runs note text", "plugins new name", "plugins doctor distributions")


def test_every_argument_completes(runs: Path) -> None:
    write_experiment("mine.toml")

    def arguments(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, int]]:
        if isinstance(command, click.Group):
            return [one for name, verb in command.commands.items() for one in arguments(verb, (*path, name))]
        context = click.Context(command, info_name=path[-1])
        positional = [param for param in command.params if isinstance(param, click.Argument)]
        return [(f"{' '.join(path)} {p.name}", len(p.shell_complete(context, ""))) for p in positional]

    found = arguments(main)
    assert len(found) > 15
    assert [name for name, count in found if not count and name not in EMPTY] == []


def test_experiments_complete_by_name_local_ones_first() -> None:
    write_experiment("quick_mine.toml", "# not a header\n")
    Path("quickstart.toml").write_text("# Another start.\n# Expected: nothing.\nextends = 'quickstart'\n")
    Path("quick_other.toml").write_text("[tool.other]\nx = 1\n")  # not an experiment
    assert candidates("run quick") == {"quick_mine": "", "quickstart": "Another start."}
    assert set(shipped_experiments()) < set(words("run "))
    assert words("new a.toml --from fineweb_e") == ["fineweb_edu_gpt2"]
    assert words("bench quickstart --vs quick_m") == ["quick_mine"]


def test_files_complete_where_no_name_does() -> None:
    Path("configs/deep").mkdir(parents=True)
    Path("configs/.hidden").mkdir()
    for name in ("configs/a.toml", "configs/b.txt", "alone.toml"):
        write_experiment(name)
    assert words("run con") == ["configs/"]
    assert words("run configs/") == ["configs/a.toml", "configs/deep/"]
    assert words("run ./al") == ["./alone.toml"]
    assert words("run alone.t") == ["alone.toml"]
    assert words("new x --source configs/b") == ["configs/b.txt"]
    Path("configs/train_x.py").touch()
    assert words("new x --from-nanogpt configs/") == ["configs/deep/", "configs/train_x.py"]


def test_paths_complete_behind_a_home_folder_and_variables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "data").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    assert words("run quickstart dataset.use=text dataset.source=~/da") == ["dataset.source=~/data/"]
    assert words("run quickstart --into=$HOME/da") == ["--into=$HOME/data/"]


def test_runs_complete(runs: Path) -> None:
    for verb in ("sample", "export", "eval", "eval first", "run x --resume"):
        assert candidates(f"{verb} ") | candidates(f"{verb} f") == candidates(f"{verb} ")
        assert candidates(f"{verb} f")["first"] == "runs: 2"
        assert words(f"{verb} 2026010") == [OLDER]
    assert candidates("run 2026")[NEWER] == "first"
    assert words("run 2026")[1:] == [NEWER, OLDER]  # the newest first
    assert words(f"sample {os.path.relpath(runs)}/fir") == [f"{os.path.relpath(runs)}/first/"]


def test_the_checkpoints_of_a_run_complete(runs: Path) -> None:
    assert words("sample first@") == ["first@best", "first@1000", "first@500"]
    assert words("sample first@best@") == []  # none of its runs was evaluated
    assert words(f"sample {OLDER}@5") == [f"{OLDER}@500"]
    assert words("sample first --step ") == ["1000", "500"]
    assert words("eval first --step=5") == ["--step=500"]


def test_keys_complete_part_by_part() -> None:
    assert words("run quickstart trai") == ["train."]
    assert "number of optimizer updates" in candidates("run quickstart train.st")["train.steps="]
    assert words("run quickstart model.atte") == ["model.attention=", "model.attention."]
    assert words("run quickstart model.attention.us") == ["model.attention.use="]
    assert words("run quickstart nothing.here.") == []
    assert words("sweep quickstart sweep.tria") == ["sweep.trials="]


def test_keys_and_values_to_vary_complete() -> None:
    assert words("ablate quickstart --vary model.ml") == ["model.mlp=", "model.mlp."]
    assert words("ablate quickstart --vary model.mlp=") == ["model.mlp=gelu", "model.mlp=relu2", "model.mlp=swiglu"]
    assert words("ablate quickstart --vary model.mlp=gelu,") == ["model.mlp=gelu,relu2", "model.mlp=gelu,swiglu"]
    assert words("ablate quickstart --vary=model.mlp=gelu,s") == ["--vary=model.mlp=gelu,swiglu"]
    assert words("ablate quickstart optimizer=muon --vary optimizer.nes") == ["optimizer.nesterov="]
    assert words("ablate quickstart ablate.ma") == ["ablate.match=", "ablate.match_with="]


def test_values_complete() -> None:
    assert words("run quickstart train.compile=") == [
        *("train.compile=auto", "train.compile=off", "train.compile=default", "train.compile=max-autotune")
    ]
    assert words("run quickstart model.bias=") == ["model.bias=true", "model.bias=false"]
    assert words("run quickstart model.attention=na") == ["model.attention=naive"]
    assert words("run quickstart optimizer.use=mu") == ["optimizer.use=muon"]
    assert words("run quickstart train.steps=") == []
    assert words("run quickstart train.micro_batch_size=") == ["train.micro_batch_size=auto"]


def test_options_are_those_of_the_component_that_is_chosen() -> None:
    write_experiment("mine.toml", 'optimizer = "muon"\n')
    assert words("run quickstart optimizer.bet") == ["optimizer.betas="]
    assert words("run quickstart optimizer.nest") == []
    for line in ("run mine ", "run quickstart optimizer=muon ", "run quickstart optimizer.use=muon train.steps=1 "):
        assert words(f"{line}optimizer.mom") == ["optimizer.momentum="], line
    assert words("run quickstart train.steps=x=1 mistake optimizer.bet") == ["optimizer.betas="]


def test_components_of_a_list_complete_by_name_and_index() -> None:
    assert words("run quickstart callback.early") == ["callback.early_stopping."]
    assert "callback.early_stopping.patience=" in words("run quickstart callback.early_stopping.")
    assert words("run quickstart sampler.temp") == ["sampler.temperature="]  # its only option
    assert words("run quickstart sampler.1.") == ["sampler.1.use=", "sampler.1.k="]
    assert words("run quickstart sampler.top_k.k=7 sampler.top_p=0.5 train.st") == ["train.steps="]
    assert words("run quickstart sampler.0=min") == ["sampler.0=min_p"]


def test_only_what_a_verb_may_change_completes(runs: Path) -> None:
    assert words("sample first sample.see") == ["sample.seed="]
    assert words("sample first mode") == words("sample first train.") == []
    assert words("eval first ev") == ["evaluate.", "evaluator."]
    assert words("eval first second train.") == ["train.precision="]
    assert words("eval first train.precision=b") == ["train.precision=bf16"]


def test_a_run_completes_where_an_option_takes_one(runs: Path) -> None:
    assert words("run quickstart model.init_from=fir") == ["model.init_from=first"]
    assert words("run quickstart model.init_from=first@5") == ["model.init_from=first@500"]
    assert words(f"run {NEWER} train.st") == ["train.steps="]


def test_explained_keys_and_components_complete() -> None:
    assert words("explain trai") == ["train", "train."]
    assert words("explain optimizer.muon.mom") == ["optimizer.muon.momentum"]
    assert "rope" in words("explain ro")
    assert words("plugins show norm:r") == ["norm:rmsnorm"]
    assert sorted(words("plugins new mine --kind mo")) == ["model"]
    assert "ema" in words("sample x --weights e")
    assert words("eval x --evaluator perp") == ["perplexity"]


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
def test_names_that_a_shell_or_terminal_would_interpret_are_left_out(name: str, tmp_path: Path) -> None:
    write_experiment(f"{name}.toml")
    run = tmp_path / "runs" / name / OLDER
    run.mkdir(parents=True)
    shutil.copy(f"{name}.toml", run / "experiment.toml")
    for line in ("run ", "sample ", "new ", "plugins show ", "sample runs/"):
        assert not [word for word in words(line) if name in word], line
    for shell in (BashCompletion, ZshCompletion, FishCompletion):  # the help of a run has the name of its experiment
        completion = shell(main, {}, "nanogpt-kit", COMPLETE)
        lines = completion.answer(list(completion.candidates(["sample"], "2026")), "2026")
        assert len(lines) == 2 - (shell is FishCompletion)
        assert all(line.replace("\t", "").isprintable() for line in lines)


def test_only_what_is_shipped_is_offered_where_the_current_folder_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("nanogpt_kit.cli.candidates.os.scandir", lambda path: refuse())
    monkeypatch.setattr("nanogpt_kit.cli.candidates.local_experiments", refuse)
    monkeypatch.setattr("nanogpt_kit.cli.candidates.shipped_experiments", lambda: {"quickstart": Path("absent.toml")})
    assert words("run quick") == ["quickstart"]
    assert words("run ./") == words("sample ") == []


def test_a_component_file_is_not_executed() -> None:
    Path("own.py").write_text("open('executed', 'w')\nfrom nanogpt_kit.api import Norm\nclass Own(Norm): pass\n")
    write_experiment("mine.toml", 'components = ["own.py"]\nmodel.norm = "own"\n')
    assert words("run mine model.n_h") == ["model.n_head="]
    assert words("run mine model.norm.") == ["model.norm.use="]
    assert not Path("executed").exists()


def test_options_of_components_come_from_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Entry] = []

    def load_and_count(entry: Entry) -> type:
        loads.append(entry)
        return load_entry(entry)

    def fresh_words() -> tuple[list[str], int]:
        """As another process finds them, and how many components it imports."""
        loads.clear()
        option_cache.words_of_distribution.cache_clear()
        return words("run quickstart optimizer.l"), len(loads)

    monkeypatch.setattr(option_cache, "load_entry", load_and_count)
    count = sum(entry.distribution == "nanogpt-kit" for entry in Registry.installed().entries)
    assert fresh_words() == (["optimizer.lr="], count)
    assert fresh_words() == (["optimizer.lr="], 0)
    [file] = (tmp_path / "cache/nanogpt-kit/completion").iterdir()
    whole = file.read_text()
    record = json.loads(whole)
    for damaged in (
        "",
        "{}",
        "[]",
        whole[:-9],
        json.dumps(record | {"identity": 0}),
        json.dumps(record | {"options": 3}),
    ):
        file.write_text(damaged)
        assert fresh_words() == (["optimizer.lr="], count), damaged[:50]
        assert fresh_words() == (["optimizer.lr="], 0)
    file.write_text(json.dumps(record | {"options": {"optimizer:adamw": {"lr": 1}}}))
    assert fresh_words() == ([], 0)  # somebody edited it
    monkeypatch.setattr(option_cache, "change_time", lambda target: 1)
    assert fresh_words() == (["optimizer.lr="], count)
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))  # not a folder
    assert fresh_words() == (["optimizer.lr="], count)


def test_a_component_that_cannot_be_imported_has_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(entry: Entry) -> type:
        if entry.name == "muon":
            raise SystemError("it is broken")
        return load_entry(entry)

    monkeypatch.setattr(option_cache, "load_entry", refuse)
    assert words("run quickstart optimizer.l") == ["optimizer.lr="]
    assert words("run quickstart optimizer=muon optimizer.") == ["optimizer.use="]


def test_formats_are_completed_by_name_and_as_files(folder: Path) -> None:
    (folder / "mine.py").touch()
    for line in ("export first out --format ", "import model --format "):
        assert {"huggingface", "nanogpt", "safetensors"} <= set(words(line))
        assert words(f"{line}saf") == ["safetensors"]
        assert words(f"{line}./m") == ["./mine.py"]


def test_options_of_the_format_complete_in_export() -> None:
    assert words("export a b format.d") == ["format.dtype="]
    assert "format.dtype=bf16" in words("export a b format.dtype=b")
    assert words("export a b --format safetensors format.") == []
