"""An agent cannot fool itself: duplicates are free, no-ops never win, and an edited evaluator is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.research.agent import HALVED, Agent, verdict_of, write_base

Command = Callable[..., Any]
LR = "optimizer.lr=1e-2"
NO_OPS = ("train.log_every_steps=3", "note='again'", "name=other", "train.threads=1")
PROPOSALS = {  # of 20, half: a change -> the same in other words
    LR: "optimizer.lr=0.01",
    "model.mlp=swiglu": "model.mlp.use='swiglu'",
    "model.norm=rmsnorm": "model.norm.use=rmsnorm",
    "model.n_layer=1": "model.n_layer=1",
    "schedule=constant": "schedule.use=constant",
    **{change: change for change in NO_OPS},
    "model.mlp=relu2": "model.mlp=relu2",
}
BETTER, MISTAKE, UNDECIDED, WORSE = 0, 2, 3, 4
CODES = {"better": BETTER, "undecided": UNDECIDED, "worse": WORSE}


def check_proposals(agent: Agent, proposals: dict[str, str]) -> None:
    """Asks each question twice."""
    for change in proposals:
        code, answer, steps = agent.propose(change)
        agent.answers[change] = code, answer
        assert code == CODES[verdict_of(answer)], change
        assert steps % 4 == 0
        if change in NO_OPS:
            assert code == UNDECIDED, change
            assert answer["results"][0]["difference"] == 0, change
            assert steps == 0 or change.startswith("train.log_every_steps"), change
    for change, again in proposals.items():
        code, answer, steps = agent.propose(again)
        before = agent.answers[change][1]
        assert (code, steps) == (agent.answers[change][0], 0), again
        assert answer["results"] == before["results"], again
        assert answer["looks"] == before["looks"], "the same question again is no further look"


def check_edited_evaluator(agent: Agent, command: Command) -> None:
    """The agent halves the loss in the evaluator's file, and compares with what it measured before."""
    _, answer = agent.answers[LR]
    run = answer["measurements"][0]["run"]
    agent.base.with_name("measure.py").write_text(HALVED, encoding="utf-8")
    cheating = Agent(command, Path(run), agent.seeds)
    code, value, steps = cheating.propose(str(agent.base))
    assert (code, value, steps) == (MISTAKE, None, 0)
    assert "evaluator: " in cheating.message
    assert "restore the evaluator of " in cheating.message


def check_ledger(command: Command, tmp_path: Path, questions: int) -> None:
    """Without the cache, the folders give the same ledger."""
    ledger, runs = (command("runs", verb, "--json").out for verb in ("ledger", "list"))
    assert len(json.loads(ledger)) == questions
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert command("runs", "ledger", "--json").out == ledger
    assert command("runs", "list", "--json").out == runs


def test_duplicates_are_free_no_ops_never_win_and_an_edited_evaluator_is_refused(
    tiny: Path, tmp_path: Path, command: Command
) -> None:
    agent = Agent(command, write_base(tiny), seeds=2)
    check_proposals(agent, {change: PROPOSALS[change] for change in (LR, "note='again'")})
    check_edited_evaluator(agent, command)
    check_ledger(command, tmp_path, questions=2)


@pytest.mark.slow
def test_an_agent_of_20_proposals(tiny: Path, tmp_path: Path, command: Command) -> None:
    agent = Agent(command, write_base(tiny), seeds=3)
    check_proposals(agent, PROPOSALS)
    assert agent.propose("optimizer.lrr=1")[::2] == (MISTAKE, 0)
    check_edited_evaluator(agent, command)
    names = {"note='again'", "name=other", "train.threads=1"}  # one question: the base with itself
    check_ledger(command, tmp_path, questions=len(PROPOSALS) - len(names) + 1)
