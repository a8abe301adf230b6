"""A deprecated name works, with a warning that says what to write instead and which version no longer has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from nanogpt_kit import __version__, api
from nanogpt_kit.core import registry
from nanogpt_kit.core.deprecation import DEPRECATED_COMPONENTS, Deprecation
from nanogpt_kit.core.kinds import KINDS, Norm, load_entry
from nanogpt_kit.core.options import Options
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION, warn_once


@pytest.fixture(autouse=True)
def warned_before() -> None:
    warn_once.cache_clear()


class Renamed(Options):
    """A section in which `size` was called `width`."""

    deprecated_options: ClassVar[Mapping[str, Deprecation]] = {"width": Deprecation("size", "0.4")}

    size: int = 3
    other: float = 0.5


def test_a_deprecated_option_sets_the_one_that_replaces_it(caplog: pytest.LogCaptureFixture) -> None:
    assert Renamed.model_validate({"other": 2, "width": 5}) == Renamed(size=5, other=2.0)
    assert caplog.messages == ["option width is deprecated: write size; nanogpt-kit 0.4 does not have option width"]
    Renamed.model_validate({"width": 6})
    assert len(caplog.messages) == 1


def test_the_new_name_is_not_warned_about_and_both_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    assert Renamed.model_validate({"size": 5}).size == 5
    with pytest.raises(ValidationError, match="width"):
        Renamed.model_validate({"size": 5, "width": 5})
    with pytest.raises(ValidationError, match="size"):
        Renamed.model_validate({"width": "x"})
    assert "width" not in Renamed.model_json_schema()["properties"]


def test_a_deprecated_option_works_in_an_experiment(
    tiny: Path, command: Callable[..., Any], install: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    source = """
from typing import ClassVar

from nanogpt_kit.api import Field, Norm
from nanogpt_kit.core.deprecation import Deprecation


class Renamed(Norm):
    deprecated_options: ClassVar = {"width": Deprecation("size", "0.4")}
    size: int = Field(3, description="d")

    def build(self, ctx): ...
"""
    install("renames", "[nanogpt_kit.norm]\nrenamed = renamed_norm:Renamed\n", renamed_norm=source)
    answer = command("check", tiny, "model.norm={use='renamed', width=7}", "--explain")
    assert answer.code == 0, answer.err
    assert "model.norm.size = 7" in answer.out
    assert "option width is deprecated: write size" in caplog.text


def test_a_deprecated_component_is_the_one_that_replaces_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(DEPRECATED_COMPONENTS, ("norm", "root_mean_square"), Deprecation("rmsnorm", "0.4"))
    assert registry.DEPRECATED_COMPONENTS is DEPRECATED_COMPONENTS
    for name in ("root_mean_square", "nanogpt-kit/root_mean_square"):
        assert Registry.installed().find("norm", name).name == "rmsnorm"
    assert Registry.installed().load(Norm, "root_mean_square").__name__ == "RMSNorm"
    assert caplog.messages[0] == (
        "norm root_mean_square is deprecated: write rmsnorm; nanogpt-kit 0.4 does not have norm root_mean_square"
    )


def test_a_deprecated_name_of_the_api_is_the_one_that_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(api.DEPRECATED, "Normalisation", Deprecation("Norm", "0.4"))
    with pytest.warns(
        DeprecationWarning,
        match=r"nanogpt_kit\.api\.Normalisation is deprecated: write "
        r"nanogpt_kit\.api\.Norm; nanogpt-kit 0\.4 does not have",
    ) as caught:
        from nanogpt_kit.api import Normalisation  # type: ignore[attr-defined]
    assert Normalisation is Norm
    assert caught[0].filename == __file__


def deprecations() -> dict[str, tuple[Deprecation, bool]]:
    """Every deprecation of the kit by its old name, and whether its replacement exists."""
    found = {f"api.{old}": (one, one.replacement in api.__all__) for old, one in api.DEPRECATED.items()}
    for (kind, old), one in DEPRECATED_COMPONENTS.items():
        found[f"{kind} {old}"] = one, any(entry.name == one.replacement for entry in Registry.installed().of_kind(kind))
    classes = [load_entry(entry) for entry in Registry.installed().entries if entry.distribution == KIT_DISTRIBUTION]
    for owner in (*subclasses(Options), *classes, *KINDS.values()):
        for old, one in owner.deprecated_options.items() if owner is not Renamed else ():
            found[f"{owner.__name__}.{old}"] = (
                one,
                one.replacement in owner.model_fields and old not in owner.model_fields,
            )
    return found


def subclasses(owner: type[Options]) -> list[type[Options]]:
    return [one for below in owner.__subclasses__() for one in (below, *subclasses(below)) if is_of_the_kit(one)]


def is_of_the_kit(owner: type[Options]) -> bool:
    return owner.__module__.startswith("nanogpt_kit.")


def test_each_deprecated_name_has_a_replacement_and_is_removed_when_it_is_due() -> None:
    version = tuple(map(int, __version__.split(".")[:2]))
    for old, (deprecation, exists) in deprecations().items():
        assert exists, f"{old}: {deprecation.replacement} does not exist"
        due = tuple(map(int, deprecation.removed_in.split(".")))
        assert version < due, f"{old} was to be removed in {deprecation.removed_in}"
