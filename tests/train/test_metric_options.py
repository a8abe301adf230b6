"""An option that names a metric which no evaluator reports is refused where the mistake was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanogpt_kit.core.errors import Fault, KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.train.metric_names import check_metric_options


def only_fault(path: Path, *overrides: str) -> Fault:
    with pytest.raises(KitError) as refused:
        check_metric_options(Experiment.load(path, overrides))
    (fault,) = refused.value.faults
    return fault


def test_it_is_reported_at_the_option(tiny: Path) -> None:
    fault = only_fault(tiny, "checkpoint.keep_best=val_loss")
    assert (fault.location, fault.key) == ("command line", "checkpoint.keep_best")
    assert "did you mean 'val/loss'?" in fault.message


@pytest.mark.parametrize("written", ["evaluator=[]", "evaluator.loss.split=test"])
def test_it_is_reported_at_the_evaluators_that_were_changed_later(tiny: Path, written: str) -> None:
    text = tiny.read_text(encoding="utf-8").replace("[checkpoint]", '[checkpoint]\nkeep_best = "val/loss"')
    tiny.write_text(text, encoding="utf-8")
    line = 1 + text.splitlines().index('keep_best = "val/loss"')
    fault = only_fault(tiny, written)
    assert (fault.location, fault.key) == ("command line", "evaluator")
    assert f"checkpoint.keep_best names it ({tiny}:{line})." in fault.message


def test_an_option_that_was_written_with_the_evaluators_is_the_one_that_is_reported(tiny: Path) -> None:
    assert only_fault(tiny, "evaluator=[]", "checkpoint.keep_best=val/loss").key == "checkpoint.keep_best"
