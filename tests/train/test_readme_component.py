"""A component written as the README shows is computed like a built-in one: in the same chunks, by the same threads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.options import RunContext
from nanogpt_kit.train.cores import CoreAllocation

ROOT = Path(__file__).parents[2]
LEAKY = ('components=["leaky.py"]', "model.mlp.use=leaky", "model.mlp.slope=0.05")


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    """The experiment quickstart, with the README's component beside it."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (component,) = (block for block in code if "class Leaky(MLP)" in block)
    (tmp_path / "leaky.py").write_text(component, encoding="utf-8")
    path = tmp_path / "quickstart.toml"
    path.write_bytes((ROOT / "experiments" / "quickstart.toml").read_bytes())
    return path


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_component_of_the_readme_runs_in_as_many_threads_as_a_built_in(
    quickstart: Path, precision: str, threads: int
) -> None:
    def allocation(*overrides: str) -> CoreAllocation:
        experiment = Experiment.load(quickstart, [f"train.threads={threads}", *overrides], trust_code=True)
        ctx = RunContext(
            device="cpu",
            precision=precision,
            world_size=1,
            splits=experiment.dataset.splits,
            block_size=experiment.model.block_size,
        )
        return CoreAllocation.choose(experiment, ctx, vocab_size=257)

    readme, built_in = allocation(*LEAKY), allocation("model.mlp=relu2")
    assert readme == built_in == allocation()
    assert readme.chunks == threads  # else the comparison says nothing
    assert not readme.unsplit_reason
