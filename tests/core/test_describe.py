"""Options are described in TOML's words, whatever their types are in Python."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, create_model

from nanogpt_kit.core.describe import component_source, describe_options, number_text
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Norm, Sampler
from nanogpt_kit.core.lookup import all_options
from nanogpt_kit.core.option_schema import inner_options, option_schemas
from nanogpt_kit.core.options import Options, PathStr
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.sections import Sweep, Train

TYPES: list[tuple[Any, str]] = [
    (int, "whole number"),
    (float, "number"),
    (bool, "true or false"),
    (str, "string"),
    (PathStr, "string"),
    (int | None, "whole number"),
    (Literal["a", "b", "c"], '"a", "b" or "c"'),
    (Literal["a"], '"a"'),
    (int | Literal["auto"] | None, 'whole number or "auto"'),
    (tuple[str, ...], "list of strings"),
    (tuple[Literal["a", "b"], ...], 'list of "a" or "b"'),
    (PathStr | tuple[PathStr, ...], "string or list of strings"),
    (tuple[int, int, int], "list of 3 whole numbers"),
    (tuple[int, str], "list: whole number, string"),
    (tuple[tuple[float, ...], ...], "list of lists of numbers"),
    (Norm, "component of kind norm"),
    (tuple[Sampler, ...] | None, "list of components of kind sampler"),
    (dict[str, Any], "table"),
    (Train, "table"),
    (tuple[Train, ...], "list of tables"),
    (Annotated[int, Field(ge=1)] | None, "whole number, at least 1"),
    (Annotated[int, Field(ge=1, le=20)], "whole number, 1 to 20"),
    (Annotated[float, Field(gt=0, lt=1)], "number, above 0 and below 1"),
    (Annotated[float, Field(gt=0, le=0.5)], "number, above 0 and at most 0.5"),
    (Annotated[int, Field(multiple_of=8)], "whole number, a multiple of 8"),
    (Annotated[str, Field(min_length=1)], "string, not empty"),
    (Annotated[str, Field(max_length=5)], "string, at most 5 characters"),
    (Annotated[tuple[int, ...], Field(min_length=2)], "list of whole numbers, at least 2 elements"),
    (tuple[Annotated[float, Field(ge=0, lt=1)], ...], "list of numbers (each at least 0 and below 1)"),
    (Annotated[int, Field(ge=1)] | Literal["auto"], 'whole number (at least 1) or "auto"'),
    (Any, "any value"),
]


@pytest.mark.parametrize(("annotation", "text"), TYPES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_type_is_described_in_the_words_of_toml(annotation: Any, text: str) -> None:
    model = create_model("Model", __base__=Options, option=(annotation, ...))
    (option,) = describe_options(model)
    assert option.type_and_bounds == text


def test_a_type_that_json_schema_cannot_express_accepts_anything() -> None:
    class Odd(Options):
        model_config = {**Options.model_config, "arbitrary_types_allowed": True}
        made: Registry

    (option,) = describe_options(Odd)
    assert option.type == "any value"


def test_a_table_that_contains_itself_is_described() -> None:
    class Tree(Options):
        branches: tuple[Tree, ...] = ()

    (option,) = describe_options(Tree)
    assert option.type == "list of tables"


def test_no_description_shows_how_a_type_is_written_in_python() -> None:
    shown = [found.option.type_and_bounds for found in all_options()]
    assert len(shown) > 150
    words = ("tuple", "None", "str ", "Literal", "Annotated", " at 0x", "int,", "float", "dict", "|")
    assert [text for text in shown if any(word in text for word in words)] == []


def test_large_bounds_are_written_as_powers() -> None:
    assert [number_text(value) for value in (10_000, 2**20, 10**12, 3_000_000, 0.25, 2.0)] == [
        *("10,000", "2^20", "10^12", "3,000,000", "0.25", "2"),
    ]


def test_the_unit_is_that_of_the_name() -> None:
    units = {option.name: option.unit for option in describe_options(Train)}
    assert (units["steps"], units["batch_tokens"], units["max_seconds"]) == ("steps", "tokens", "seconds")
    assert units["seed"] == units["device"] == ""


def test_a_description_says_whether_an_option_may_change_on_resume() -> None:
    train = {option.name: option.may_change_on_resume for option in describe_options(Train)}
    assert (train["steps"], train["batch_tokens"]) == (True, False)
    top = {option.name: option.may_change_on_resume for option in describe_options(Experiment)}
    assert (top["callback"], top["components"], top["optimizer"]) == (True, True, False)
    inside = {".".join(found.key): found.option.may_change_on_resume for found in all_options()}
    assert (inside["checkpoint.keep_last"], inside["sampler.k"], inside["optimizer.lr"]) == (True, True, False)


def test_the_source_of_a_component_is_that_of_its_docstring() -> None:
    registry = Registry.installed()
    assert component_source(registry.load(Norm, "rmsnorm")) == "Zhang & Sennrich 2019, arXiv:1910.07467."
    assert component_source(registry.load(Sampler, "repetition_penalty")).endswith("make the negative ones likelier.")


def test_only_a_section_is_a_table_with_options() -> None:
    assert inner_options(Experiment, "sweep") is Sweep
    assert [inner_options(Experiment, name) for name in ("model", "sampler", "name")] == [None, None, None]

    class Several(Options):
        listed: tuple[Train, ...]
        named: dict[str, Train]

    assert [inner_options(Several, name) for name in ("listed", "named")] == [None, None]


def test_a_schema_has_no_null() -> None:
    assert option_schemas(Train)["max_tokens"] == {"minimum": 1, "type": "integer"}
    assert [branch["type"] for branch in option_schemas(Train)["micro_batch_size"]["anyOf"]] == ["integer", "string"]


def test_every_option_of_an_experiment_has_a_description() -> None:
    """A slot's says what the component is for; a section has that of its class."""
    for option in describe_options(Experiment):
        assert option.description, option.name
        field = Experiment.model_fields[option.name]
        assert field.description or option.type == "table", option.name
        assert "component" not in option.type or option.description[0].islower(), option.name
