"""Every block of TOML on a page is an experiment or a part of one: names, types, bounds and relations of values."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.sweep.ablation import ablation_question, has_changes
from nanogpt_kit.sweep.space.endpoints import check_endpoints
from nanogpt_kit.sweep.space.space import Space
from nanogpt_kit.sweep.study.allocation import check_allocation
from tests.handbook.pages import PAGES, ROOT, Block, blocks_of

OTHER_FILES = {"project", "tool", "plugin"}  # keys of pyproject.toml and of docs/extending/plugins.toml
WITH_TOML = [page for page in PAGES if any(block.language == "toml" for block in blocks_of(page))]


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", WITH_TOML, ids=ids)
def test_every_block_of_toml_is_part_of_an_experiment(page: Path, tmp_path: Path) -> None:
    blocks = blocks_of(page)
    for block in blocks:
        if name := block.marker("file"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(block.text, encoding="utf-8")
    wrong = [f"{block}: {problem}" for block in blocks if (problem := problem_of(block, tmp_path))]
    assert not wrong, "\n".join(wrong)


def problem_of(block: Block, folder: Path) -> str:
    """Why a block is no experiment over quickstart; "" where it is one, or no experiment file is meant."""
    if (
        block.language != "toml"
        or block.generated
        or block.marker("needs")
        or OTHER_FILES & tomli.loads(block.text).keys()
    ):
        return ""
    path = folder / f"line_{block.line}.toml"
    extends = "" if {"extends", "tokenizer"} & tomli.loads(block.text).keys() else 'extends = "quickstart"\n'
    path.write_text(extends + block.text, encoding="utf-8")
    try:
        experiment = Experiment.load(path, trust_code=True)
        if experiment.sweep is not None and experiment.sweep.space:
            space = Space(experiment)
            check_allocation(space)
            check_endpoints(space)
        if has_changes(experiment):
            ablation_question(experiment)
    except KitError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[optimizer]\nlr = -1\n", "optimizer.lr"),
        ("[optimizer]\nlr = 'fast'\n", "optimizer.lr"),
        ("[model]\nn_embd = 100\nn_head = 3\n", "n_head"),
        ("model.mlp = 'swigul'\n", "swiglu"),
        ("[train]\nstepps = 1\n", "steps"),
        ("[[schedule]]\nuse = 'piecewise'\nknots = [[0, 1], [0.5, -1]]\n", "knots"),
        ("[sweep.space]\n'optimizer.lr' = { float = [-1.0, 1.0] }\n", "optimizer.lr"),
        ("[sweep.space]\n'optimizer.rl' = { float = [0.1, 1.0] }\n", "lr"),
        ("[ablate.vary]\n'model.mlp' = ['gelu', 'swigul']\n", "swiglu"),
        ("[ablate.changes.wide]\n'model.n_embd' = 130\n", "n_head"),
    ],
)
def test_a_wrong_value_is_reported(text: str, word: str, tmp_path: Path) -> None:
    assert word in problem_of(Block(ROOT / "docs" / "page.md", 1, "toml", text), tmp_path)
