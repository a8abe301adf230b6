"""Filters of runs: operators, numbers and texts, missing values, and mistakes."""

from __future__ import annotations

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.runs.filters import key_of, select_runs
from nanogpt_kit.runs.index import index_runs
from tests.runs.listed_runs import make_listed_run


@pytest.fixture(autouse=True)
def three_runs() -> None:
    make_listed_run("quick/one", {"optimizer.lr": 1e-3}, loss=2.5, started="2026-01-01T00:00:00Z")
    swiglu = {"optimizer.lr": 3e-2, "model.mlp": {"use": "swiglu"}, "train.grad_clip": 1.0, "model.bias": True}
    make_listed_run("quick/two", swiglu, loss=1.75, started="2026-01-03T00:00:00Z")
    sgd = {"optimizer": {"use": "sgd", "lr": 1.0}, "sampler": [{"use": "greedy"}]}
    make_listed_run("wide/sweep/trial-0000-s7", sgd, loss=None, state="failed", started="2026-01-05T00:00:00Z")


def names(*filters: str) -> list[str]:
    return [run.reference.rpartition("/")[2] for run in select_runs(index_runs(), filters)]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), ["one", "two", "trial-0000-s7"]),
        (("optimizer.lr>=1e-3",), ["one", "two", "trial-0000-s7"]),
        (("optimizer.lr>1e-3",), ["two", "trial-0000-s7"]),
        (("optimizer.lr<=0.001",), ["one"]),
        (("optimizer.lr < 1",), ["one", "two"]),
        (("optimizer.lr=1",), ["trial-0000-s7"]),
        (("optimizer.lr!=1", "val/loss<2"), ["two"]),
        (("val/loss<100",), ["one", "two"]),  # what is not finite is missing
        (("val/loss!=2.5",), ["two"]),
        (("train.grad_clip>0",), ["two"]),
        (("train.grad_clip!=7",), ["two"]),
        (("model.mlp=swiglu",), ["two"]),
        (("model.mlp.use=*elu",), ["one", "trial-0000-s7"]),
        (("model.bias=true",), ["two"]),
        (("model.bias=True",), ["two"]),
        (("model.bias=1",), []),
        (("model.bias=*",), ["two"]),
        (('model.mlp="swiglu"',), ["two"]),
        (("optimizer.lr='1.0'",), ["trial-0000-s7"]),
        (("sampler=top_k",), ["one", "two"]),
        (("sampler.top_k.k==200",), ["one", "two"]),
        (("optimizer.betas=[0.9, 0.95]",), ["one", "two"]),
        (("optimizer.betas=0.95",), ["one", "two"]),
        (("state=fin*",), ["one", "two"]),
        (("experiment=quick", "state!=failed"), ["one", "two"]),
        (("started>2026-01-02", "started<2026-01-04"), ["two"]),
        (("started=2026-01-05*",), ["trial-0000-s7"]),
        (("run=wide/*",), ["trial-0000-s7"]),
        (("quick",), ["one", "two"]),
        (("q*k", "val/loss<2"), ["two"]),
        (("wide/sweep",), ["trial-0000-s7"]),
        (("wide/sweep/",), ["trial-0000-s7"]),
        (("wide/sw*",), ["trial-0000-s7"]),
        (("two",), ["two"]),
    ],
)
def test_a_run_is_listed_if_it_matches_every_filter(filters: tuple[str, ...], expected: list[str]) -> None:
    assert names(*filters) == expected


def test_a_folder_may_be_named_by_its_path(tmp_path: object) -> None:
    assert names(f"{tmp_path}/runs/quick") == ["one", "two"]


@pytest.mark.parametrize(
    ("filter_", "parts"),
    [
        ("optimizer.lr<abc", ["optimizer.lr is a number", "optimizer.lr<1.0"]),
        ("qiuck", ["'qiuck'", "did you mean 'quick'?"]),
        ("optimizer.lr", ["needs an operator", "quotes", "'optimizer.lr>=1e-3'"]),
        ("val/loss", ["needs an operator", "'val/loss<2'"]),
        ("state", ["needs an operator"]),
        ("optimizer.lr=>1e-3", ["the operator is >=, as in optimizer.lr>=1e-3"]),
        ("optimizer.lr=<1", ["the operator is <=, as in optimizer.lr<=1"]),
        ("wide/sw", ["no experiment and no run has this name"]),
    ],
)
def test_a_mistake_gets_what_to_write_instead(filter_: str, parts: list[str]) -> None:
    with pytest.raises(KitError) as error:
        names(filter_)
    assert filter_ in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_folder_is_not_one_whose_name_begins_alike() -> None:
    make_listed_run("wide/sweep2/trial-0000-s7", started="2026-01-06T00:00:00Z")
    make_listed_run("wide/[a]*/three", started="2026-01-07T00:00:00Z")
    assert names("wide/sweep") == ["trial-0000-s7"]
    assert names("wide/[a]*") == ["three"]


def test_a_path_may_contain_an_operator() -> None:
    make_listed_run("quick/compare/12ab/optimizer.lr=0.1-s7", started="2026-01-06T00:00:00Z")
    assert names("quick/compare/12ab/optimizer.lr=0.1-s7") == ["optimizer.lr=0.1-s7"]
    assert key_of("quick/compare/12ab/optimizer.lr=0.1-s7", index_runs()) == ""


def test_the_key_of_a_filter_is_what_stands_before_its_operator() -> None:
    texts = ["a.b >= 3", "val/loss<2", "quick", "x=y=z", "seed=7"]
    assert [key_of(text, index_runs()) for text in texts] == ["a.b", "val/loss", "", "x", "seed"]
