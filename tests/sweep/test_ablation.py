"""The arms of an ablation: from [ablate] and from --vary; one change at a time or combined; every mistake at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_kit.comparison.question import Question
from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep.ablation import ablation_question, ablation_seeds

WriteTable = Callable[..., Path]

TABLE = """
[ablate]
seeds = 4
metric = "val/bits_per_byte"

[ablate.vary]
"model.mlp" = ["gelu", "swiglu", { use = "relu2", width = 3.0 }]

[ablate.vary.model]
position = ["rope"]

[ablate.changes.muon]
"optimizer" = { use = "muon", lr = 0.02 }
"schedule.warmup_steps" = 3
"""


@pytest.fixture
def write_table(tiny: Path) -> WriteTable:
    """`write_table(text)`: the tiny experiment with tables at its end."""
    tables = tiny.read_text(encoding="utf-8")

    def written(text: str) -> Path:
        tiny.write_text(tables + text, encoding="utf-8")
        return tiny

    return written


def labels(question: Question) -> list[str]:
    return [arm.label for arm in question.arms]


def test_each_change_is_an_arm_and_a_value_of_the_base_is_the_base(write_table: WriteTable) -> None:
    base = Experiment.load(write_table(TABLE), ["note=which parts help?"])
    question = ablation_question(base)
    assert question.text == "which parts help?"
    assert (question.kind, question.metric, question.direction) == ("ablate", "val/bits_per_byte", "minimize")
    assert labels(question) == [
        "tiny",
        "model.mlp=swiglu",
        "model.mlp={use=relu2, width=3.0}",
        "model.position=rope",
        "muon",
    ]
    assert question.base.experiment == base
    assert not any(arm.levels for arm in question.arms)
    swiglu, relu2, rope, muon = question.arms[1:]
    assert swiglu.changes["model.mlp.use"] == ('"gelu"', '"swiglu"')
    assert swiglu.changes["model.mlp.approximate"] == ('"none"', None)  # the old component's options are dropped
    assert relu2.changes["model.mlp.width"] == ("4.0", "3.0")
    assert rope.changes["model.position.use"] == ('"learned"', '"rope"')
    assert muon.changes["optimizer.lr"] == ("0.003", "0.02")
    assert muon.changes["schedule.warmup_steps"] == ("5", "3")
    assert muon.changes["optimizer.betas.0"] == ("0.9", None)
    assert list(ablation_seeds(base)) == [1337, 1338, 1339, 1340]


def test_the_table_is_no_part_of_a_run(write_table: WriteTable, tiny: Path) -> None:
    plain = Experiment.load(tiny)
    table = Experiment.load(write_table(TABLE))
    assert table.ablate is not None
    assert "ablate" not in table.resolved()
    assert table == plain
    assert table.fingerprint() == plain.fingerprint()
    assert table.configuration() == plain.configuration()


def test_the_table_of_a_base_file_is_extended(write_table: WriteTable, tmp_path: Path) -> None:
    write_table(TABLE)
    upper = tmp_path / "upper.toml"
    upper.write_text(
        'extends = "tiny.toml"\nname = "upper"\n[ablate]\nseeds = 2\n[ablate.vary]\n"model.mlp" = ["relu2"]\n'
        '[ablate.changes.muon]\noptimizer.lr = 0.03\n"schedule.warmup_steps" = 4\n'
    )
    question = ablation_question(Experiment.load(upper))
    assert labels(question) == ["upper", "model.mlp=relu2", "model.position=rope", "muon"]
    assert question.arms[3].changes["optimizer.lr"] == ("0.003", "0.03")
    assert question.arms[3].changes["schedule.warmup_steps"] == ("5", "4")
    assert len(ablation_seeds(Experiment.load(upper))) == 2


def test_vary_adds_keys_and_replaces_those_of_the_table(write_table: WriteTable) -> None:
    base = Experiment.load(write_table(TABLE))
    question = ablation_question(base, ["model.position=alibi,none", "train.grad_clip=0.5"])
    assert labels(question)[3:] == ["model.position=alibi", "model.position=none", "train.grad_clip=0.5", "muon"]


def test_no_table_is_needed(tiny: Path) -> None:
    question = ablation_question(Experiment.load(tiny), ["model.mlp=gelu,swiglu", "model.mlp.width=3.0"])
    assert labels(question) == ["tiny", "model.mlp=swiglu", "model.mlp.width=3.0"]
    assert question.arms[2].changes == {"model.mlp.width": ("4.0", "3.0")}


def test_the_id_is_that_of_the_arms_whatever_their_order_and_labels(write_table: WriteTable) -> None:
    base = Experiment.load(write_table('[ablate.changes.gated]\n"model.mlp" = "swiglu"\n'))
    one = ablation_question(base, ["model.position=rope"])
    other = ablation_question(Experiment.load(write_table("")), ["model.position=rope", "model.mlp=swiglu"])
    assert one.id() == other.id()
    assert one.folder() == other.folder()
    assert one.id() != ablation_question(base).id()


# Combinations


def test_a_factorial_has_every_combination_with_its_levels(write_table: WriteTable) -> None:
    base = Experiment.load(write_table(TABLE), ["ablate.factorial=true"])
    question = ablation_question(base)
    levels = [tuple(arm.levels.values()) for arm in question.arms]
    mlp = ["gelu", "swiglu", "{use=relu2, width=3.0}"]
    assert list(question.base.levels) == ["model.mlp", "model.position", "muon"]
    assert levels == [(a, b, c) for a in mlp for b in ("learned", "rope") for c in ("no", "yes")]
    assert labels(question)[-1] == "model.mlp={use=relu2, width=3.0} + model.position=rope + muon"
    last = question.arms[-1].changes
    assert (last["model.mlp.width"], last["model.position.use"][1], last["optimizer.lr"][1]) == (
        ("4.0", "3.0"),
        '"rope"',
        "0.02",
    )


def test_a_factorial_sets_components_before_their_options(tiny: Path) -> None:
    base = Experiment.load(tiny, ["ablate.factorial=true"])
    question = ablation_question(base, ["model.mlp.width=3.0", "model.mlp=relu2"])
    both = question.arms[-1].experiment.resolved()["model"]["mlp"]
    assert both == {"use": "relu2", "width": 3.0}


def test_too_many_combinations_are_refused_with_their_count(tiny: Path) -> None:
    base = Experiment.load(tiny, ["ablate.factorial=true"])
    vary = [f"{key}=1,2,3,4" for key in ("sample.max_new_tokens", "train.log_every_steps", "train.grad_clip")]
    with pytest.raises(KitError) as caught:
        ablation_question(base, vary)
    (fault,) = caught.value.faults
    assert (fault.key, fault.location) == ("ablate.factorial", "command line")
    assert "5 x 4 x 4 = 80 arms" in fault.message
    assert "at most 64" in fault.message


def test_factors_of_one_option_have_no_combination(write_table: WriteTable) -> None:
    base = Experiment.load(write_table(TABLE), ["ablate.factorial=true"])
    with pytest.raises(KitError) as caught:
        ablation_question(base, ["schedule.warmup_steps=2"])
    assert [fault.key for fault in caught.value.faults] == ["ablate.changes.muon"]
    assert "schedule.warmup_steps=2 and muon both set schedule.warmup_steps" in caught.value.faults[0].message


# Mistakes

WRONG = """
[ablate]
metric = "val/lss"
storage = "nope"
workers = 4000
[ablate.vary]
"model.mlp" = ["gelu", "swiglue"]
"modl.mlp" = ["gelu"]
"model.n_layer" = ["2", 3,
3]
"model.n_embd" = 7
"model.bias" = []
"train.seed" = [1, 2]
"train.threads" = [3]
"a b" = [1]
"model.n_head" = [5]
[ablate.changes]
whole = 3
empty = {}
[ablate.changes.same]
"model.n_layer" = 2
"model.mlp.use" = "gelu"
[ablate.changes.other]
"schedule.warmup_stepss" = 50
optimizer.lrr = 4
name = "x"
"""


def fault_at(faults: tuple[Fault, ...], path: Path, line: str) -> Fault:
    number = path.read_text().splitlines().index(line) + 1
    (found,) = [fault for fault in faults if fault.location == f"{path}:{number}"]
    return found


def test_everything_that_is_wrong_is_reported_at_once(write_table: WriteTable) -> None:
    path = write_table(WRONG)
    with pytest.raises(KitError) as caught:
        ablation_question(Experiment.load(path))
    faults = caught.value.faults
    expected = {
        'metric = "val/lss"': ("ablate.metric", "'val/lss'", "'val/loss'"),
        'storage = "nope"': ("ablate.storage", "'nope'", "journal"),
        "workers = 4000": ("ablate.workers", "4000", "too many"),
        '"model.mlp" = ["gelu", "swiglue"]': ("model.mlp.use", "'swiglue'", "'swiglu'"),
        '"modl.mlp" = ["gelu"]': ("modl", "unknown key", "'model'"),
        '"model.n_layer" = ["2", 3,': ("model.n_layer", "'2'", "write 2 without quotes"),
        "3]": ("ablate.vary.model.n_layer", "model.n_layer=3", "same experiment"),
        '"model.n_embd" = 7': ("ablate.vary.model.n_embd", "7", "list of values"),
        '"model.bias" = []': ("ablate.vary.model.bias", "[]", "list of values"),
        '"train.seed" = [1, 2]': ("ablate.vary.train.seed", "train.seed + 1", "ablate.seeds"),
        '"train.threads" = [3]': ("ablate.vary.train.threads", "train.threads=3", "changes nothing"),
        '"a b" = [1]': ("ablate.vary.a b", "not a dotted key", ""),
        '"model.n_head" = [5]': ("model.n_head", "n_embd (24)", "n_head (5)"),
        "whole = 3": ("ablate.changes.whole", "3", "table"),
        "empty = {}": ("ablate.changes.empty", "{}", "table"),
        "[ablate.changes.same]": ("ablate.changes.same", "same changes nothing", "remove it"),
        "optimizer.lrr = 4": ("optimizer.lrr", "unknown key", "'lr'"),  # of the change that also sets the name
        '"schedule.warmup_stepss" = 50': ("schedule.warmup_stepss", "unknown key", "'warmup_steps'"),
        'name = "x"': ("ablate.changes.other.name", "cannot be changed", "recorded under"),
    }
    for line, (key, *parts) in expected.items():
        fault = fault_at(faults, path, line)
        assert fault.key == key
        assert all(part in fault.message for part in parts), fault
    assert len(faults) == len(expected)


def test_misspelt_options_of_a_change_are_reported_at_their_lines(write_table: WriteTable) -> None:
    table = '[ablate.changes.other]\n"schedule.warmup_stepss" = 50\noptimizer.lrr = 4\n"model.n_layer" = 1\n'
    path = write_table(table)
    with pytest.raises(KitError) as caught:
        ablation_question(Experiment.load(path))
    faults = caught.value.faults
    for line, key, near in (
        ('"schedule.warmup_stepss" = 50', "schedule.warmup_stepss", "'warmup_steps'"),
        ("optimizer.lrr = 4", "optimizer.lrr", "'lr'"),
    ):
        fault = fault_at(faults, path, line)
        assert fault.key == key
        assert near in fault.message
    assert len(faults) == 2


def test_a_relation_that_a_change_breaks_names_the_change(write_table: WriteTable) -> None:
    path = write_table('[ablate.changes.long]\n"model.block_size" = 48\n')
    with pytest.raises(KitError) as caught:
        ablation_question(Experiment.load(path))
    fault = fault_at(caught.value.faults, path, '"model.block_size" = 48')
    assert "train.batch_tokens (80)" in fault.message
    assert "model.block_size (48)" in fault.message


def test_an_unknown_key_of_the_table_has_its_suggestion(write_table: WriteTable) -> None:
    path = write_table("[ablate]\nsedes = 3\n")
    with pytest.raises(KitError) as caught:
        Experiment.load(path)
    fault = fault_at(caught.value.faults, path, "sedes = 3")
    assert (fault.key, "'seeds'" in fault.message) == ("ablate.sedes", True)


def test_nothing_to_compare_shows_both_ways(tiny: Path) -> None:
    with pytest.raises(KitError) as caught:
        ablation_question(Experiment.load(tiny, ["ablate.seeds=3"]))
    message = str(caught.value)
    assert "[ablate.vary]" in message
    assert "--vary model.mlp=gelu,swiglu" in message
    with pytest.raises(KitError, match=r"command line: ablate\.vary: every value is the experiment's own"):
        ablation_question(Experiment.load(tiny), ["model.mlp=gelu"])


def test_a_fault_of_the_base_is_reported_once(write_table: WriteTable, text_file: Path) -> None:
    path = write_table(TABLE)
    base = Experiment.load(path)
    text_file.unlink()
    with pytest.raises(KitError) as caught:
        ablation_question(base)
    assert [fault.key for fault in caught.value.faults] == ["dataset.source"]
