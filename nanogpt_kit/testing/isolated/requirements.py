"""Which requirements of a target the environment of the command does not meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from nanogpt_kit import __version__
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION


def missing_requirements(name: str, requires: Iterable[str], extras: tuple[str, ...] = ()) -> list[str]:
    """Those that pip has to install, those of `extras` included. Raises KitError where it needs another nanogpt-kit."""
    missing = []
    for requirement in dict.fromkeys(requirements_of(requires, extras)):
        is_kit = canonicalize_name(requirement.name) == KIT_DISTRIBUTION
        if is_kit and not requirement.specifier.contains(__version__, prereleases=True):
            raise KitError(
                f"{name} requires {KIT_DISTRIBUTION}{requirement.specifier}, and {__version__} tests it: "
                f"install another {KIT_DISTRIBUTION}, or change the range in the dependencies of its pyproject.toml"
            )
        if is_kit:
            missing += missing_requirements(name, metadata.requires(KIT_DISTRIBUTION) or (), tuple(requirement.extras))
        elif not is_met(requirement):
            missing.append(str(Requirement(f"{requirement.name}{extras_text(requirement)}{requirement.specifier}")))
    return list(dict.fromkeys(missing))


def requirements_of(requires: Iterable[str], extras: tuple[str, ...]) -> Iterator[Requirement]:
    """The requirements that apply here with some extras."""
    for text in requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise KitError(f"the requirement {text!r} cannot be read: {error}") from None
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def extras_text(requirement: Requirement) -> str:
    return f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""


def is_met(requirement: Requirement) -> bool:
    """Whether an installed version fits, with the requirements of the extras that are named."""
    try:
        installed = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    if not requirement.specifier.contains(installed.version, prereleases=True):
        return False
    if not requirement.extras:
        return True
    of_extras = requirements_of(installed.requires or (), tuple(requirement.extras))
    return all(other.name == requirement.name or is_met_alone(other) for other in of_extras)


def is_met_alone(requirement: Requirement) -> bool:
    """Whether an installed version fits, whatever the extras: an extra may name another one of its own distribution."""
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False
