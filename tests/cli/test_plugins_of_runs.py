"""Runs whose plugins were uninstalled or replaced by another version since: what still works, and what is said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tomli

from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.made_with import MadeWith
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import RunFolder
from nanogpt_kit.runs.recorded_experiment import load_recorded
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.search import SearchPlan
from nanogpt_kit.system.json_files import read_json
from nanogpt_kit.train import run as train_run
from nanogpt_kit.train import session
from tests.cli.made_plugins import (
    ATTENTION,
    CALLBACK,
    OPTIMIZER,
    RENAMED_ATTENTION,
    SOURCES,
    TRACKER,
    WITH_WEIGHTS,
    Site,
)


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]
ALL = [
    *("dataset=own", "tokenizer=own", "model.attention=own", "optimizer=own", "init=own", "schedule=own", "order=own"),
    *('callback=["own"]', 'evaluator=["loss", "own"]', 'sampler=["own"]', "optimizer.lr=0.01"),
]
SHORT = ["train.steps=4", "evaluate.every_steps=4", "checkpoint.every_steps=2", "checkpoint.keep_every_steps=2"]
UNNEEDED = ("optimizer", "callback", "evaluator", "schedule", "order", "init", "dataset")
OF_KEY = {"attention": "model.attention", "callback": "callback.0", "evaluator": "evaluator.1", "sampler": "sampler.0"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # a file that is replaced within a second has its old bytecode
    site = Site(folder)
    site.install_all()
    yield site
    for kind in SOURCES:
        site.forget(f"ngk_{kind}")
    Registry.installed.cache_clear()


@pytest.fixture
def run(tiny: Path, site: Site, made: Path) -> RunFolder:
    """A run in which every component is one of a plugin: trained once, and copied for each test."""
    runs = Path(os.environ["NANOGPT_KIT_RUNS"])
    if not (made / "runs").exists():
        session.run(Experiment.load(tiny, [*ALL, *SHORT]))
        shutil.copytree(runs, made / "runs")
    else:
        shutil.copytree(made / "runs", runs)
    return find_run("tiny").folder


@pytest.fixture
def kit(command: Callable[..., Answer], caplog: pytest.LogCaptureFixture) -> Command:
    """A command in this process, with what it logs after what it prints on standard error."""

    def call(verb: str, *words: object) -> Answer:
        caplog.clear()
        prompt = ["--prompt=1", "--max-new-tokens=3"] if verb == "sample" else []
        answer = command(verb, *words, *prompt)
        return replace(answer, err="\n".join([answer.err, *caplog.messages]))

    return call


def without(text: str, *words: str) -> bool:
    return not any(word in text for word in words)


def test_a_run_names_the_distribution_of_each_component_that_is_not_built_in(run: RunFolder) -> None:
    values = tomli.loads(run.experiment.read_text(encoding="utf-8"))
    assert values["optimizer"]["use"] == "ngk-optimizer/own"
    assert values["model"]["attention"]["use"] == "ngk-attention/own"
    assert [table["use"] for table in values["evaluator"]] == ["loss", "ngk-evaluator/own"]
    assert values["model"]["use"] == "gpt"


def test_a_bare_name_stays_equal_to_the_qualified_one(run: RunFolder, tiny: Path, kit: Command) -> None:
    bare = Experiment.load(tiny, [*ALL, *SHORT])
    recorded = load_recorded(run)
    assert (bare.fingerprint(), bare.configuration()) == (recorded.fingerprint(), recorded.configuration())
    assert not bare.differences(recorded)
    for text in ("model.attention=own", "model.attention=ngk-attention/own", "callback=own", "callback.own.every=3"):
        listed = kit("runs", "list", text, "--json")
        assert len(json.loads(listed.out)) == 1, text
    assert json.loads(kit("runs", "list", "model.attention!=own", "--json").out) == []


def test_another_distribution_of_the_same_name_changes_no_old_run(run: RunFolder, site: Site, kit: Command) -> None:
    site.install("attention", name="ngk-other", source=ATTENTION.format(scale=9.0))
    assert kit("sample", "tiny").code == 0
    site.uninstall("attention")
    refused = kit("sample", "tiny")
    assert refused.code == 2
    assert "made with ngk-attention 0.1.0, which is not installed: pip install ngk-attention==0.1.0" in refused.err


@pytest.mark.parametrize("kind", UNNEEDED)
def test_what_sampling_and_exporting_do_not_need_may_be_missing(
    kind: str, run: RunFolder, site: Site, kit: Command, tmp_path: Path
) -> None:
    before = kit("sample", "tiny", "--json")
    values = load_recorded(run).resolved()
    site.uninstall(kind)
    after = kit("sample", "tiny", "--json")
    assert (after.code, after.out) == (0, before.out), after.err
    exported = kit("export", "tiny", tmp_path / "out", "--format=safetensors")
    assert exported.code == 0, exported.err
    assert load_recorded(run, needs=()).resolved() == values
    assert tomli.loads((tmp_path / "out" / "experiment.toml").read_text(encoding="utf-8"))[kind] == values[kind]
    if kind != "init":  # an export has no record of what its init had chosen
        assert kit("sample", tmp_path / "out").code == 0


@pytest.mark.parametrize("kind", SOURCES)
def test_whoever_needs_what_is_missing_is_told_how_to_install_it(
    kind: str, run: RunFolder, site: Site, kit: Command
) -> None:
    site.uninstall(kind)
    key = f"{OF_KEY.get(kind, kind)}.use"
    expected = f"{key}: made with ngk-{kind} 0.1.0, which is not installed: pip install ngk-{kind}==0.1.0"
    needing = {
        "sample": ("attention", "tokenizer", "sampler"),
        "eval": ("attention", "tokenizer", "dataset", "evaluator"),
        "run": tuple(SOURCES),
    }
    for verb, kinds in needing.items():
        words = ["--extend", "2"] if verb == "run" else ["--json"]
        answer = kit(verb, run.path, *words)
        if kind not in kinds:
            assert answer.code == 0, answer.err
            json.loads(answer.out.splitlines()[0] if verb == "sample" else answer.out)
            continue
        assert answer.code == 2, (verb, answer.err)
        line = next(line for line in answer.err.splitlines() if expected in line)
        assert "experiment.toml:" in line
        assert answer.out == ""
        assert without(answer.err, "did you mean", "Traceback")


def test_a_sampler_that_is_missing_can_be_replaced(run: RunFolder, site: Site, kit: Command) -> None:
    site.uninstall("sampler")
    assert kit("sample", "tiny", 'sampler=["temperature"]').code == 0
    generator = load_run("tiny")
    assert generator.generate("1", 2, samplers="greedy")
    with pytest.raises(KitError, match=r"made with ngk-sampler 0\.1\.0, which is not installed: pip install"):
        generator.generate("1", 2)


def test_an_evaluator_and_a_callback_that_are_missing_can_be_replaced(run: RunFolder, site: Site, kit: Command) -> None:
    site.uninstall("evaluator")
    site.uninstall("callback")
    evaluated = kit("eval", "tiny", "--evaluator", "loss", "--json")
    assert list(json.loads(evaluated.out)["tiny"]) == ["val/loss"]
    assert train_run.open_run("tiny").evaluate("loss").keys() == {"val/loss"}
    continued = kit("run", f"{run.path}", "callback=[]", 'evaluator=["loss"]', "train.max_seconds=1000")
    assert "already finished" in continued.err
    assert continued.code == 0


def test_the_kept_values_of_a_missing_component_can_be_read(run: RunFolder, site: Site) -> None:
    site.uninstall("optimizer")
    experiment = train_run.open_run("tiny").experiment
    assert experiment.optimizer.lr == 0.01
    assert "own" in repr(experiment)
    with pytest.raises(KitError, match=r"'ngk-optimizer/own': made with ngk-optimizer 0\.1\.0, which is not installed"):
        experiment.optimizer.build([])


def test_runs_show_needs_no_plugin(run: RunFolder, site: Site, kit: Command) -> None:
    for kind in SOURCES:
        site.uninstall(kind)
    shown = kit("runs", "show", "tiny")
    assert shown.code == 0
    assert "ngk-attention 0.1.0" in shown.out
    assert json.loads(kit("runs", "show", "tiny", "--json").out)["options"]["optimizer.use"] == "ngk-optimizer/own"


def test_another_version_gets_one_line_where_it_is_used(run: RunFolder, site: Site, kit: Command) -> None:
    site.install("attention", "0.3.0", ATTENTION.format(scale=2.0))
    site.install("optimizer", "0.4.0")
    before = (run.path / "provenance.json").read_bytes()
    for verb in ("sample", "eval"):
        answer = kit(verb, "tiny", "--json")
        assert answer.code == 0
        lines = [line for line in answer.err.splitlines() if "was made with" in line]
        assert len(lines) == 1, lines
        assert "made with ngk-attention 0.1.0, and 0.3.0 is installed" in lines[0]
        assert "pip install ngk-attention==0.1.0" in lines[0]
        for line in answer.out.splitlines() if verb == "sample" else [answer.out]:
            json.loads(line)
    assert (run.path / "provenance.json").read_bytes() == before


def test_a_run_continues_with_another_version_only_if_that_is_accepted(
    run: RunFolder, site: Site, kit: Command
) -> None:
    site.install("attention", "0.3.0", ATTENTION.format(scale=2.0))
    for words in (["--extend", 2], ["train.steps=6"]):
        refused = kit("run", run.path, *words)
        assert refused.code == 2
        line = next(line for line in refused.err.splitlines() if "was made with" in line)
        for part in (
            "experiment.toml:",
            "model.attention: the run was made with ngk-attention 0.1.0, and 0.3.0 is installed",
            "`pip install ngk-attention==0.1.0`",
            "--accept-versions",
            "accept_versions=True",
        ):
            assert part in line
    accepted = kit("run", run.path, "--extend", 2, "--accept-versions", "--json")
    assert accepted.code == 0, accepted.err
    assert json.loads(accepted.out)["state"] == "finished"
    warned = [line for line in accepted.err.splitlines() if "was made with" in line]
    assert len(warned) == 1
    origin = read_json(run.path / "provenance.json")
    assert origin["distributions"]["ngk-attention"] == "0.3.0"
    (change,) = origin["version_changes"]
    assert (change["step"], change["before"], change["after"]) == (4, "0.1.0", "0.3.0")
    assert origin["changed_at_step"] == 4
    assert kit("run", run.path, "--extend", 2).code == 0  # it is made with 0.3.0 now
    assert "made with" not in kit("sample", "tiny").err
    assert "made with ngk-attention 0.1.0, and 0.3.0" in kit("sample", f"{run.path}@2").err


def test_a_branch_needs_the_versions_of_its_checkpoint(run: RunFolder, site: Site, kit: Command) -> None:
    site.install("order", "0.2.0")
    refused = kit("run", f"{run.path}@2", "--extend", 3)
    assert refused.code == 2
    assert "order: the run was made with ngk-order 0.1.0, and 0.2.0 is installed" in refused.err
    branched = kit("run", f"{run.path}@2", "--extend", 3, "--accept-versions")
    assert branched.code == 0, branched.err


def test_python_accepts_versions_as_the_command_line_does(run: RunFolder, site: Site) -> None:
    site.install("schedule", "0.2.0")
    longer = load_recorded(run, ["train.steps=6"])
    with pytest.raises(KitError, match=r"schedule: the run was made with ngk-schedule 0\.1\.0, and 0\.2\.0"):
        longer.run(resume=run)
    assert longer.run(resume=run, accept_versions=True).status == "finished"


def test_code_that_changed_within_a_version_is_a_warning(run: RunFolder, site: Site, kit: Command) -> None:
    site.install("optimizer", source=f"{OPTIMIZER}\n# edited\n")
    continued = kit("run", run.path, "--extend", 2)
    assert continued.code == 0, continued.err
    assert "the code of ngk-optimizer 0.1.0 is not that which the run was made with" in continued.err
    assert "code of ngk-optimizer" not in kit("run", run.path, "--extend", 2).err


def test_a_tracker_of_another_version_is_no_reason_to_refuse(run: RunFolder, site: Site, kit: Command) -> None:
    site.install("callback", "0.2.0", TRACKER)
    continued = kit("run", run.path, "--extend", 2)
    assert continued.code == 0, continued.err
    assert "made with ngk-callback 0.1.0, and 0.2.0 is installed" in continued.err


def test_an_option_that_a_newer_version_has_dropped_names_both_versions(
    run: RunFolder, site: Site, kit: Command
) -> None:
    site.install("attention", "0.3.0", RENAMED_ATTENTION.format(scale=1.0))
    refused = kit("sample", "tiny")
    assert refused.code == 2
    line = next(line for line in refused.err.splitlines() if "model.attention.scale" in line)
    assert "experiment.toml:" in line
    assert "unknown key" in line
    assert "made with ngk-attention 0.1.0, and 0.3.0 is installed: pip install ngk-attention==0.1.0" in line

    site.install("attention")
    site.install("callback", "0.3.0", CALLBACK.replace("every", "each"))
    assert kit("sample", "tiny").code == 0
    continued = kit("run", run.path, "--extend", 2)
    assert continued.code == 2
    assert "callback.0.every: unknown key" in continued.err
    assert "made with ngk-callback 0.1.0, and 0.3.0 is installed" in continued.err


def test_a_component_that_a_newer_version_no_longer_has_is_named(run: RunFolder, site: Site, kit: Command) -> None:
    site.install("attention", "0.3.0", entry="renamed")
    refused = kit("sample", "tiny")
    assert refused.code == 2
    expected = "made with ngk-attention 0.1.0, and the installed 0.3.0 has no attention 'own': pip install"
    assert expected in refused.err


def test_a_plugin_that_cannot_be_imported_blocks_only_what_needs_it(run: RunFolder, site: Site, kit: Command) -> None:
    site.install("optimizer", "0.2.0", "raise RuntimeError('no such luck')")
    assert kit("sample", "tiny").code == 0
    refused = kit("run", run.path, "--extend", 2)
    assert refused.code == 2
    line = next(line for line in refused.err.splitlines() if "optimizer.use" in line)
    assert "no such luck" in line
    assert "made with ngk-optimizer 0.1.0, and 0.2.0 is installed: pip install ngk-optimizer==0.1.0" in line


def test_weights_that_no_longer_fit_name_both_versions(run: RunFolder, site: Site, kit: Command) -> None:
    site.install("attention", "0.3.0", WITH_WEIGHTS.format(scale=1.0))
    refused = kit("sample", "tiny")
    assert refused.code == 2
    assert "do not fit the model" in refused.err
    assert refused.err.count("made with ngk-attention 0.1.0, and 0.3.0 is installed") == 2  # the warning, and the cause
    refused = kit("run", run.path, "--extend", 2, "--accept-versions")
    assert refused.code == 2
    assert "made with ngk-attention 0.1.0, and 0.3.0 is installed" in refused.err


def test_training_from_the_weights_of_a_run_needs_its_model_alone(
    tiny: Path, run: RunFolder, site: Site, kit: Command
) -> None:
    for kind in ("optimizer", "callback", "evaluator", "schedule", "order", "sampler", "dataset"):
        site.uninstall(kind)
    site.install("attention", "0.2.0")
    changes = ["tokenizer=own", "init=own", "model.attention=own", f"model.init_from={run.path}", *SHORT]
    trained = kit("run", tiny, *changes)
    assert trained.code == 0, trained.err
    assert "made with ngk-attention 0.1.0, and 0.2.0 is installed" in trained.err


def test_names_that_mean_something_to_pip_are_not_proposed(run: RunFolder, site: Site, kit: Command) -> None:
    text = run.experiment.read_text(encoding="utf-8")
    run.experiment.write_text(text.replace("ngk-attention/own", "--index-url=evil/own"), encoding="utf-8")
    (run.path / "provenance.json").unlink()
    refused = kit("sample", "tiny")
    assert refused.code == 2
    assert "which is not installed" in refused.err
    assert "pip install" not in refused.err


def test_a_run_without_provenance_names_the_distribution_alone(run: RunFolder, site: Site, kit: Command) -> None:
    (run.path / "provenance.json").unlink()
    site.uninstall("tokenizer")
    refused = kit("sample", "tiny")
    assert "made with ngk-tokenizer, which is not installed: pip install ngk-tokenizer\n" in refused.err


def test_options_of_a_sampler_of_a_plugin_are_set_by_its_bare_name(run: RunFolder, kit: Command) -> None:
    assert kit("sample", "tiny", "sampler.own.value=0.2").code == 0


def interrupted(run: RunFolder) -> None:
    """Makes the run one that was killed after its last checkpoint."""
    run.set_status("interrupted", cause="died", step=4, total_steps=4)


def test_the_file_of_a_run_that_continues_may_say_the_bare_name(
    tiny: Path, run: RunFolder, site: Site, kit: Command
) -> None:
    words = [tiny, *ALL, *SHORT]
    forms = (["--resume"], [f"--resume={run.path}"], [f"--into={run.path}"])
    for form in forms:
        interrupted(run)
        site.install("optimizer", name="ngk-other")
        continued = kit("run", *words, *form)
        assert continued.code == 0, continued.err
        interrupted(run)
        site.uninstall("optimizer")
        refused = kit("run", *words, *form)
        assert refused.code == 2
        missing = "made with ngk-optimizer 0.1.0, which is not installed: pip install ngk-optimizer==0.1.0"
        assert "command line: optimizer.use: 'ngk-other/own' now, 'ngk-optimizer/own' in" in refused.err
        assert missing in refused.err
        site.uninstall("optimizer", "ngk-other")
        assert f"command line: optimizer.use: {missing}" in kit("run", *words, *form).err
        site.install("optimizer")


@pytest.mark.parametrize("form", [["--resume"], ["--into=RUN"], ["--seeds=1", "--resume"]], ids=" ".join)
def test_every_form_of_continuing_compares_versions(
    form: list[str], tiny: Path, run: RunFolder, site: Site, kit: Command
) -> None:
    interrupted(run)
    site.install("init", "0.2.0")
    words = [tiny, *ALL, *SHORT, *(text.replace("RUN", str(run.path)) for text in form)]
    refused = kit("run", *words)
    assert refused.code == 2
    assert "init: the run was made with ngk-init 0.1.0, and 0.2.0 is installed" in refused.err
    continued = kit("run", *words, "--accept-versions")
    assert continued.code == 0, continued.err
    assert "plugins changed   ngk-init 0.2.0 in place of 0.1.0 from step 4" in kit("runs", "show", "tiny").out


def test_versions_are_accepted_only_of_a_run_that_continues(tiny: Path, kit: Command) -> None:
    refused = kit("run", tiny, "--accept-versions")
    assert refused.code == 2
    assert "--accept-versions is for a run that continues" in refused.err


def test_the_name_of_a_component_with_its_distribution_replaces_nothing(run: RunFolder, tiny: Path) -> None:
    recorded = load_recorded(run, ["model.attention.scale=7.0"])
    for name in ("own", "ngk-attention/own"):
        changed = recorded.with_({"model.attention": name})
        assert changed.model.attention.scale == 7.0
        assert not changed.notes
    own = Experiment.load(
        tiny, ["model.attention=ngk-attention/own", "model.attention.scale=7.0", "model.attention=own"]
    )
    assert own.model.attention.scale == 7.0


def test_a_tokenizer_of_another_version_continues_where_its_tokens_are_equal(
    run: RunFolder, site: Site, kit: Command
) -> None:
    site.install("tokenizer", "0.2.0")
    assert "tokenizer: the run was made with ngk-tokenizer 0.1.0" in kit("run", run.path, "--extend", 2).err
    continued = kit("run", run.path, "--extend", 2, "--accept-versions")
    assert continued.code == 0, continued.err


def second_arm(run: RunFolder) -> Path:
    """A copy of the run with another learning rate."""
    other = run.path.parents[1] / "other" / "run"
    shutil.copytree(run.path, other)
    file = other / "experiment.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("lr = 0.01", "lr = 0.02"), encoding="utf-8")
    return other


@pytest.mark.parametrize("kind", SOURCES)
def test_runs_that_have_ended_are_compared_without_what_trained_them(
    kind: str, run: RunFolder, site: Site, kit: Command
) -> None:
    other = second_arm(run)
    site.uninstall(kind)
    compared = kit("compare", run.path, other, "--json")
    if kind in ("attention", "tokenizer", "evaluator"):
        assert compared.code == 2
        assert f"made with ngk-{kind} 0.1.0, which is not installed: pip install ngk-{kind}==0.1.0" in compared.err
    else:
        assert compared.code == 3, compared.err
        assert list(json.loads(compared.out)["arms"][1]["changes"]) == ["optimizer.lr"]


def test_a_comparison_of_runs_warns_of_other_versions(run: RunFolder, site: Site, kit: Command) -> None:
    other = second_arm(run)
    site.install("optimizer", "0.2.0")
    compared = kit("compare", run.path, other)
    assert compared.code == 3, compared.err
    assert compared.err.count("made with ngk-optimizer 0.1.0, and 0.2.0 is installed") == 2


def test_the_processes_of_a_run_accept_what_it_accepts(
    run: RunFolder, site: Site, kit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("nanogpt_kit.launch.processes.run_ranks", lambda _n, words, **_: started.append(words) or 2)
    with pytest.raises(SystemExit):
        kit("run", run.path, "--extend=2", "--nproc=2", "--accept-versions")
    assert "--accept-versions" in started[0]


@pytest.mark.parametrize("kind", ["optimizer", "attention", "order"], ids=["base", "choice", "setting of a branch"])
def test_a_sweep_is_continued_by_the_versions_that_it_began_with(kind: str, tiny: Path, site: Site) -> None:
    def plan(version: str) -> SearchPlan:
        site.install(kind, version)
        branch = 'space."model.attention" = { choice = { sdpa = { }, own = { order = "own" } } }'
        space = f'space."optimizer.lr" = {{ choice = [0.1, 0.2] }}\n{branch}'
        text = tiny.read_text(encoding="utf-8").replace('use = "adamw"', 'use = "own"')
        file = tiny.with_name("swept.toml")
        file.write_text(f"{text}\n[sweep]\ntrials = 2\n{space}\n", encoding="utf-8")
        return SearchPlan(Space(Experiment.load(file)), {"optimizer.lr": 0.1})

    before = plan("0.1.0").facts()
    with pytest.raises(KitError) as refused:
        plan("0.2.0").check_facts(before)
    assert refused.value.faults[0].message == (
        f"the trials were made with ngk-{kind} 0.1.0, and 0.2.0 is installed: pip install ngk-{kind}==0.1.0"
    )
    plan("0.1.0").check_facts(before)


@pytest.fixture
def nested(tiny: Path, site: Site, made: Path) -> RunFolder:
    """A run with plugins within built-in components, and with one that shapes its batches: trained once."""
    runs = Path(os.environ["NANOGPT_KIT_RUNS"])
    if not (made / "nested").exists():
        parts = f"part=[{{dataset='own'}}, {{dataset={{use='text', source='{tiny.parent / 'text.txt'}'}}}}]"
        changes = [f"dataset={{use='mixture', {parts}}}", "optimizer={use='muon', others='own'}", "train.max_tokens=99"]
        ramps = "{use='own', target='optimizer.others.lr'}, {use='own', target='train.batch_tokens'}"
        session.run(Experiment.load(tiny, [*changes, f"schedule=['constant', {ramps}]", *SHORT]))
        shutil.copytree(runs, made / "nested")
    else:
        shutil.copytree(made / "nested", runs)
    return find_run("tiny").folder


def test_what_is_missing_where_an_export_is_imported_has_no_version(
    run: RunFolder, site: Site, kit: Command, tmp_path: Path
) -> None:
    assert kit("export", "tiny", tmp_path / "out", "--format=safetensors").code == 0
    for kind in ("sampler", "optimizer"):
        site.uninstall(kind)
    assert kit("import", tmp_path / "out", "name=imported").code == 0
    assert "made with ngk-sampler, which is not installed: pip install ngk-sampler\n" in kit("sample", "imported").err
    site.install("sampler", "0.2.0")
    sampled = kit("sample", "imported")
    assert sampled.code == 0, sampled.err
    assert "made with" not in sampled.err


def test_plugins_within_built_in_components_may_be_missing_too(
    nested: RunFolder, site: Site, kit: Command, tmp_path: Path
) -> None:
    before = kit("sample", "tiny", "--json")
    values = load_recorded(nested).resolved()
    for kind in ("dataset", "optimizer", "schedule"):
        site.uninstall(kind)
    after = kit("sample", "tiny", "--json")
    assert (after.code, after.out) == (0, before.out), after.err
    assert kit("export", "tiny", tmp_path / "out", "--format=safetensors").code == 0
    assert kit("sample", tmp_path / "out").code == 0
    experiment = train_run.open_run("tiny").experiment
    assert experiment.resolved() == values
    assert "muon lr=0.002, at most 4 steps" in repr(experiment)
    refused = kit("run", nested.path, "train.max_tokens=200")
    for key in ("dataset.part.0.dataset.use: made with ngk-dataset", "optimizer.others.use: made with ngk-optimizer"):
        assert f"{key} 0.1.0, which is not installed: pip install" in refused.err
    with pytest.raises(KitError, match=r"^dataset 'ngk-dataset/own': made with ngk-dataset 0\.1\.0, which is not"):
        train_run.open_run("tiny").evaluate()


def test_a_schedule_that_shaped_the_batches_is_not_needed_to_use_the_model(
    nested: RunFolder, tiny: Path, site: Site, kit: Command
) -> None:
    before = kit("eval", "tiny", "--json")
    other = second_arm(nested)
    (other / "metrics.jsonl").touch()
    site.uninstall("schedule")
    after = kit("eval", "tiny", "--json")
    assert (after.code, after.out) == (0, before.out), after.err
    assert kit("compare", nested.path, other, "--json").code == 3
    schedules = "schedule=['constant', {use='constant', target='optimizer.weight_decay'}]"
    trained = kit("run", tiny, f"model.init_from={nested.path}", schedules, *SHORT)
    assert trained.code == 0, trained.err


def test_an_option_that_a_newer_version_lets_no_schedule_change_names_both_versions(
    tiny: Path, site: Site, kit: Command
) -> None:
    build = "own = Own(self.scale); own.options = self; return own"
    source = ATTENTION.format(scale=2.0).replace("return Own(self.scale)", build)
    site.install("attention", source=source.replace("    scale:", "    schedulable = ('scale',)\n    scale:"))
    schedules = "schedule=['constant', {use='own', target='model.attention.scale'}]"
    session.run(Experiment.load(tiny, ["model.attention=own", schedules, *SHORT]))
    site.install("attention", "0.2.0", source)
    refused = kit("sample", "tiny")
    line = next(
        line for line in refused.err.splitlines() if "schedule.1.target: 'model.attention.scale' is not" in line
    )
    assert "made with ngk-attention 0.1.0, and 0.2.0 is installed: pip install ngk-attention==0.1.0" in line


def test_the_path_of_a_file_is_not_taken_for_the_name_of_a_plugin() -> None:
    values = {"dataset": {"use": "ngk-data/own", "source": "books/a.txt"}}
    registry = Registry([Entry("dataset", "own", "ngk-data", "0.2.0", "")])
    (fault,) = MadeWith({"ngk-data": "0.1.0"}).with_versions([Fault("no", "dataset.source")], values, registry)
    assert fault.message.startswith("no; the run was made with ngk-data 0.1.0, and 0.2.0 is installed")


def test_a_default_that_a_newer_version_has_changed_names_both_versions(
    tiny: Path, run: RunFolder, site: Site, kit: Command
) -> None:
    interrupted(run)
    site.install("attention", "0.3.0", ATTENTION.format(scale=2.0))
    refused = kit("run", tiny, *ALL, *SHORT, "--resume")
    line = next(line for line in refused.err.splitlines() if "model.attention.scale: 2.0 now, 1.0 in" in line)
    assert "made with ngk-attention 0.1.0, and 0.3.0 is installed: pip install ngk-attention==0.1.0" in line


def test_a_new_run_of_a_recorded_experiment_is_told_the_version_too(run: RunFolder, site: Site, kit: Command) -> None:
    site.uninstall("order")
    for verb in ("check", "run"):
        refused = kit(verb, run.experiment)
        assert refused.code == 2
        assert (
            "order.use: made with ngk-order 0.1.0, which is not installed: pip install ngk-order==0.1.0" in refused.err
        )


def test_multipliers_that_no_network_has_are_passed_over(run: RunFolder, site: Site, kit: Command) -> None:
    site.uninstall("init")
    origin = run.provenance()
    run.write_provenance(origin.model_copy(update={"multipliers": {"logits": 3.0, "evil": 2.0}}))
    assert kit("sample", run).code == 0
