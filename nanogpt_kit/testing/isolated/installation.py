"""Puts a target into an isolated environment: a wheel is built of a source folder, and installed with what it needs."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import tomli

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.testing.isolated.environment import IsolatedEnvironment, run_pip
from nanogpt_kit.testing.isolated.requirements import missing_requirements
from nanogpt_kit.testing.isolated.target import Target, target_of_wheel

TESTS = ("test",)  # the extras that a target's own tests need


def install_target(target: Target, environment: IsolatedEnvironment) -> Target:
    """What it declares, now that it is installed. Raises KitError where it cannot be built or installed."""
    if target.source:
        wheel = build_wheel(target.text, target.source, environment.folder / "wheels")
        target = replace(target_of_wheel(target.text, wheel), tests=target.tests)
    missing = missing_requirements(target.distribution, target.requires, TESTS if target.tests else ())
    if target.wheel:
        environment.install("--no-deps", "--no-index", "--ignore-installed", str(target.wheel))
    if missing:
        try:
            environment.install(*missing)
        except KitError as error:
            raise KitError(
                f"{target.text} needs {', '.join(missing)}, which cannot be installed ({error}): "
                f"install what it needs, or test it where there is a network"
            ) from None
    return target


def build_wheel(text: str, source: Path, folder: Path) -> Path:
    """A wheel of a source folder, by what is installed where that suffices, else by an environment of pip's."""
    try:
        project = tomli.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
        requires = project.get("build-system", {}).get("requires", ["setuptools"])
        is_ready = not missing_requirements(text, requires)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise KitError(f"{source / 'pyproject.toml'}: {error}") from None
    alone = ["--no-build-isolation", "--no-index"] if is_ready else []
    try:
        run_pip(["wheel", "--quiet", "--no-deps", *alone, "--wheel-dir", str(folder), str(source)])
    except KitError as error:
        raise KitError(f"{text} cannot be built: {error}") from None
    (wheel,) = folder.glob("*.whl")
    assert zipfile.is_zipfile(wheel)
    return wheel
