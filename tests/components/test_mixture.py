"""A mixture: its parts, their names and proportions, and what contradicts each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogpt_kit.components.dataset.mixture import Mixture, Part
from nanogpt_kit.components.dataset.python_stdlib import PythonStdlib
from nanogpt_kit.components.dataset.shakespeare import Shakespeare
from nanogpt_kit.components.dataset.text import Text
from nanogpt_kit.components.dataset.token_files import TokenFiles
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.data.prepare import prepare
from nanogpt_kit.testing.dataset import DatasetConformance
from nanogpt_kit.train.before_data import check_source
from tests.data.mixtures import mixture, sentences, write_lines

PROSE = str(Path(__file__).parents[1] / "data" / "prose.txt")


class TestMixture(DatasetConformance):
    component = Mixture(part=(Part(dataset=Text(source=PROSE), weight=2.0), Part(dataset=PythonStdlib(), weight=0.5)))


def refusal(tiny: Path, *parts: Any) -> Any:
    """The only fault of an experiment with these parts."""
    with pytest.raises(KitError) as caught:
        Experiment.load(tiny).with_(dataset={"use": "mixture", "part": list(parts)})
    (fault,) = caught.value.faults
    return fault


def text(**options: Any) -> dict[str, Any]:
    return {"dataset": {"use": "text", "source": PROSE}, **options}


def test_parts_have_the_names_of_their_components_and_numbers_where_these_repeat(tiny: Path) -> None:
    parts = [text(), {"dataset": "python_stdlib"}, text(), text(name="text-2"), text()]
    experiment = Experiment.load(tiny).with_(dataset={"use": "mixture", "part": parts})
    assert list(experiment.dataset.sources) == ["text", "python_stdlib", "text-3", "text-2", "text-4"]
    again = Experiment.load(tiny).with_(experiment.resolved())
    assert list(again.dataset.sources) == list(experiment.dataset.sources)
    in_python = Mixture(part=(Part(dataset=Text(source=PROSE)), Part(dataset=PythonStdlib())))
    assert list(in_python.sources) == ["text", "python_stdlib"]


def test_one_name_for_two_parts_is_refused(tiny: Path) -> None:
    fault = refusal(tiny, text(name="prose"), text(), text(name="prose"))
    assert (fault.key, fault.message) == ("dataset.part.2.name", "2 parts have the name 'prose'; each needs its own")


def test_a_name_that_no_metric_could_have_is_refused(tiny: Path) -> None:
    assert refusal(tiny, text(name="a/b")).key == "dataset.part.0.name"


def test_weights_of_some_parts_only_are_refused(tiny: Path) -> None:
    fault = refusal(tiny, text(), text(weight=3))
    assert fault.key == "dataset.part.0"
    assert fault.message == "part.1 has a weight and part.0 has none; give a weight to every part or to none"


def test_weights_and_repeats_contradict_each_other(tiny: Path) -> None:
    fault = refusal(tiny, text(weight=1), text(weight=3, repeats=2))
    assert fault.key == "dataset.part.1.repeats"
    assert "part.1 has a weight (3) and repeats (2); remove one" in fault.message


@pytest.mark.parametrize(("option", "value"), [("weight", -1), ("repeats", 0), ("max_passes", 0), ("weight", "3")])
def test_an_option_outside_its_bounds_is_refused(option: str, value: Any, tiny: Path) -> None:
    assert refusal(tiny, text(**{option: value})).key == f"dataset.part.0.{option}"


def test_parts_that_all_weigh_nothing_are_refused(tiny: Path) -> None:
    fault = refusal(tiny, text(weight=0), text(weight=0))
    assert (fault.key, fault.message) == (
        "dataset.part",
        "the weights of all parts are 0; at least one should be above 0",
    )


def test_a_mixture_within_a_mixture_is_refused(tiny: Path) -> None:
    fault = refusal(tiny, text(), {"name": "inner", "dataset": {"use": "mixture", "part": [text()]}})
    assert fault.key == "dataset.part.1.dataset"
    assert "'inner' is made of parts itself; list its parts" in fault.message


def test_a_fault_is_at_the_line_of_its_part(tiny: Path) -> None:
    part = f'[[dataset.part]]\ndataset = {{ use = "text", source = "{PROSE}" }}\nweight = 1\nrepeats = 2\n'
    _, _, rest = tiny.read_text().partition("[tokenizer]")
    tiny.write_text(f'name = "x"\n[dataset]\nuse = "mixture"\n{part}[tokenizer]{rest}')
    with pytest.raises(KitError) as caught:
        Experiment.load(tiny)
    assert caught.value.faults[0].location == f"{tiny}:7"


def test_a_weight_is_an_override_by_the_index_of_its_part(tiny: Path) -> None:
    experiment = Experiment.load(tiny).with_(dataset={"use": "mixture", "part": [text(weight=3), text(weight=1)]})
    assert experiment.with_("dataset.part.1.weight=4").dataset.proportions({}) == {"text": 3, "text-2": 4}


@pytest.mark.parametrize("key", ["dataset.weight", "weight"])
def test_an_option_of_a_part_is_proposed_by_the_index_of_the_part(key: str, tiny: Path) -> None:
    experiment = Experiment.load(tiny).with_(dataset={"use": "mixture", "part": [text(weight=3), text(weight=1)]})
    with pytest.raises(KitError, match=r"did you mean dataset\.part\.0\.weight or dataset\.part\.1\.weight\?"):
        experiment.with_(f"{key}=2")


def test_proportions_without_weights_are_windows_times_repeats() -> None:
    parts = Mixture(part=(Part(dataset=Text(source=PROSE)), Part(dataset=PythonStdlib(), repeats=0.1)))
    proportions = parts.proportions({"text": 70, "python_stdlib": 30})
    assert proportions == {"text": 70, "python_stdlib": 3}  # exactly: 0.1 is not what a float of this name is


def test_a_run_may_pass_as_often_as_allowed_and_not_once_more() -> None:
    parts = Mixture(part=(Part(dataset=Text(source=PROSE), max_passes=1.5), Part(dataset=PythonStdlib())))
    windows = {"text": 20, "python_stdlib": 5}
    assert parts.pass_faults({"text": 30, "python_stdlib": 1000}, windows) == {}
    (found,) = parts.pass_faults({"text": 31, "python_stdlib": 1}, windows).items()
    assert found[0] == "part.0.max_passes"
    assert "takes 31 windows from 'text', which has 20: 1.55 passes" in found[1]
    assert "max_passes = 1.5 allows 30 windows" in found[1]


def test_the_text_of_a_part_that_is_missing_is_reported_at_the_option_of_the_part(tiny: Path) -> None:
    """Of every part; messages of a dataset name its options as if it were the only one."""
    experiment = mixture(tiny, here=sentences("here", 9), gone={"dataset": {"use": "text", "source": "no.txt"}})
    (tiny.parent / "here.jsonl").unlink()
    with pytest.raises(KitError) as caught:
        check_source(experiment)
    first, second = caught.value.faults
    assert (first.key, second.key) == ("dataset.part.0.dataset.source", "dataset.part.1.dataset.source")
    assert "'no.txt' matches no file or folder" in second.message


def test_the_remedy_for_a_part_names_its_own_options(tiny: Path) -> None:
    (tiny.parent / "tables").mkdir()
    (tiny.parent / "tables" / "data.json").write_text("{}")
    experiment = mixture(tiny, tables={"dataset": {"use": "text", "source": str(tiny.parent / "tables")}})
    with pytest.raises(KitError, match=r"dataset\.part\.0\.dataset\.suffixes = \[\"\.json\"\]"):
        check_source(experiment)


def write_tokens(folder: Path, meta: dict[str, Any] | None = None) -> dict[str, Any]:
    folder.mkdir()
    for split, count in (("train", 300), ("val", 60)):
        (np.arange(count, dtype=np.uint16) % 11 + 97).tofile(folder / f"{split}.bin")
    return {"dataset": {"use": "token_files", "source": str(folder)}}


def test_tokens_and_text_do_not_mix(tiny: Path) -> None:
    experiment = mixture(tiny, words=sentences("words", 9), ids=write_tokens(tiny.parent / "ids"))
    with pytest.raises(KitError, match="'words' is text, and 'ids' is tokens already; give the text of both") as caught:
        check_source(experiment.with_("dataset.part.1.name=ids"))  # one option from elsewhere
    (fault,) = caught.value.faults
    assert (fault.key, fault.location) == ("dataset.part.1.dataset.use", "with_")


def test_tokens_mix_with_tokens(tiny: Path) -> None:
    one, two = write_tokens(tiny.parent / "one"), write_tokens(tiny.parent / "two")
    experiment = mixture(tiny, one=one, two=two)
    check_source(experiment)
    data = prepare(experiment)
    for split, count in (("train", 300), ("val", 60)):
        assert data.tokens(split).tolist() == 2 * [n % 11 + 97 for n in range(count)]
        assert data.document_starts(split).tolist() == [0, count]
        assert [source.n_tokens for source in data.split(split).sources] == [count, count]
    mixed = experiment.dataset
    of_part = TokenFiles(source=str(tiny.parent / "two")).token_location("val", 1)
    assert (mixed.token_count(), mixed.token_location("val", 61)) == (720, of_part)
    assert data.splits["train"].duplicates == 0
    assert data.splits["val"].sources[0].text_sha256 == data.splits["val"].sources[1].text_sha256


def test_an_id_outside_the_vocabulary_is_reported_in_the_file_of_its_part(tiny: Path) -> None:
    one, two = write_tokens(tiny.parent / "one"), write_tokens(tiny.parent / "two")
    np.array([97, 300, 98] * 20, np.uint16).tofile(tiny.parent / "two" / "val.bin")
    with pytest.raises(KitError, match=r"source 'two': .*two/val\.bin.*1.*id 300.*ends at 256"):
        prepare(mixture(tiny, one=one, two=two))


def test_the_size_of_the_text_is_known_where_that_of_every_part_is(tiny: Path) -> None:
    plain = Mixture(part=(Part(dataset=Text(source=PROSE)), Part(dataset=Text(source=PROSE))))
    assert plain.text_bytes() == 2 * Path(PROSE).stat().st_size
    assert Mixture(part=(*plain.part, Part(dataset=Shakespeare()))).text_bytes() is None


def test_the_fingerprint_is_of_the_contents_in_their_order(tiny: Path) -> None:
    a, b = sentences("a", 5), sentences("b", 6)
    one, other = mixture(tiny, a=a, b=b).dataset, mixture(tiny, b=b, a=a).dataset
    renamed = Mixture(part=tuple(part.model_copy(update={"name": f"{part.name}2", "weight": 7.0}) for part in one.part))
    before = one.fingerprint()
    assert before == renamed.fingerprint() != other.fingerprint()
    write_lines(tiny.parent / "b.jsonl", [*b, "more"])
    assert before != one.fingerprint()
