"""Every experiment file that is shipped is valid and trains; the documentation's own example does, too."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.shipped import Header, read_header
from nanogpt_kit.interop.importing import import_run
from nanogpt_kit.runs.metrics import read_metrics
from nanogpt_kit.sweep.ablation import ablation_question
from nanogpt_kit.sweep.session import check_sweep
from nanogpt_kit.train import session

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").glob("*.toml"))
RECORDS = sorted((ROOT / "docs" / "records").glob("*.toml"))
SWEEPS = [path for path in (*FILES, *RECORDS) if path.stem.startswith(("sweep", "tune"))]
ABLATIONS = [path for path in (*FILES, *RECORDS) if path.stem.startswith("ablate")]
SHRUNKEN = [
    *("train.steps=2", "train.micro_batch_size=1", "train.batch_tokens=32", "model.block_size=16"),
    *("model.n_layer=1", "model.n_embd=12", "model.n_head=2", "sample.max_new_tokens=5"),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, and a dataset of the hub with two splits; beside them, what is prepared for all tests."""
    folder = tmp_path_factory.mktemp("sources")
    text = (ROOT / "tests" / "data" / "prose.txt").read_text(encoding="utf-8")
    (folder / "beginning.txt").write_text(text[:20_000], encoding="utf-8")
    (folder / "hub").mkdir()
    speeches = text.split("\n\n")
    for split, rows in {"train": speeches[100:], "validation": speeches[:100]}.items():
        pq.write_table(pa.table({"text": rows}), folder / "hub" / f"{split}.parquet")
    return folder


@pytest.fixture
def overrides(
    tmp_path: Path, sources: Path, gpt2_vocabulary: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], list[str]]:
    """What makes an experiment small and offline; a published GPT-2 becomes a random one of that name."""
    monkeypatch.setenv("NANOGPT_KIT_DATA", str(sources / "data"))

    def chosen(path: Path) -> list[str]:
        experiment = Experiment.load(path)
        if experiment.model.init_from:
            transformers = pytest.importorskip("transformers")
            config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=12, n_positions=32)
            transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "hf")
            import_run(str(tmp_path / "hf"), experiment.model.init_from)
        use = experiment.resolved()["dataset"]["use"]
        of_dataset = {
            "shakespeare": sources / "beginning.txt",
            "text": sources / "beginning.txt",
            "openwebtext": sources / "hub" / "train.parquet",
            "huggingface": sources / "hub",
        }
        config = ["dataset.config=default"] if use == "huggingface" else []  # a folder's only one
        return [*SHRUNKEN, *config, *([f"dataset.source={of_dataset[use]}"] if use in of_dataset else [])]

    return chosen


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_takes_two_shrunken_steps(path: Path, overrides: Callable[[Path], list[str]]) -> None:
    folder = session.run(Experiment.load(path, overrides(path)))
    assert folder.status().state == "finished"
    assert len([line for line in read_metrics(folder.metrics) if "train/loss" in line]) == 2


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_has_a_sound_space(path: Path) -> None:
    space, first = check_sweep(Experiment.load(path))
    assert first, "trial 0 has values of its own"
    assert space.options.trials <= 30, "sized for two cores"


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_has_sound_arms(path: Path) -> None:
    question = ablation_question(Experiment.load(path))
    assert 2 <= len(question.arms) <= 6, "sized for two cores"


def test_the_documented_ablation_is_sound(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "guide" / "ablations.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "which_parts.toml"
    path.write_text(table, encoding="utf-8")
    labels = [arm.label for arm in ablation_question(Experiment.load(path)).arms]
    assert labels == [
        *("which-parts", "model.mlp=swiglu", "model.mlp={use=relu2, width=3.0}", "model.position=rope", "muon")
    ]


def test_the_documented_sweep_is_sound(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "guide" / "sweeps.md").read_text(encoding="utf-8")
    (table,) = (block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[sweep]" in block)
    path = tmp_path / "which_optimizer.toml"
    path.write_text(table, encoding="utf-8")
    check_sweep(Experiment.load(path))


def test_an_evaluation_of_gpt2_trains_nothing(overrides: Callable[[Path], list[str]]) -> None:
    path = ROOT / "experiments" / "eval_gpt2_medium.toml"
    folder = session.run(Experiment.load(path, [*overrides(path), "train.steps=0"]))
    assert [line["step"] for line in read_metrics(folder.metrics)] == [0]
    assert not folder.samples.exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_says_in_its_first_lines_what_it_is_and_what_to_expect(path: Path) -> None:
    purpose, expected = path.read_text(encoding="utf-8").splitlines()[:2]
    assert re.fullmatch(r"# \S.*\.", purpose)
    assert re.fullmatch(r"# Expected: .*\d.*\.", expected), "the loss, the time and the device"
    assert read_header(path) == Header(purpose.removeprefix("# "), expected.removeprefix("# Expected: "))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_name_of_every_experiment_is_that_of_its_file(path: Path) -> None:
    assert Experiment.load(path).name == path.stem


def test_the_documented_component_trains_from_a_local_file(tiny: Path) -> None:
    page = ROOT / "docs" / "extending" / "writing-a-component.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    tiny.with_name("glu.py").write_text(code[0], encoding="utf-8")
    options = ["components=['glu.py']", 'model.mlp={use="glu", width=3.0}', "callback=[]", "train.steps=2"]
    folder = session.run(Experiment.load(tiny, options))
    assert 'use = "glu"' in folder.experiment.read_text(encoding="utf-8")
    assert (folder.path / "components" / "glu.py").exists()


def test_the_component_of_the_readme_trains(tiny: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (component,) = (block for block in code if "class Leaky(MLP)" in block)
    tiny.with_name("leaky.py").write_text(component, encoding="utf-8")
    options = ['components=["leaky.py"]', "model.mlp.use=leaky", "model.mlp.slope=0.05", "callback=[]", "train.steps=2"]
    assert session.run(Experiment.load(tiny, options)).status().state == "finished"
