"""What is tested: an installed distribution, a wheel, a folder with its source, or a local component file."""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from nanogpt_kit.core.entry import GROUP, LOCAL, VERB
from nanogpt_kit.core.errors import Fault, KitError, did_you_mean
from nanogpt_kit.core.local_component import consent_fault, has_consent, read_component_file
from nanogpt_kit.core.registry import Registry

CONFORMANCE = "conformance"  # the module of a package that has the suites of its components


@dataclass(frozen=True)
class Declared:
    """A component that the target declares: an entry point, or the component of a file."""

    kind: str  # empty for that of a file, which its class decides
    name: str
    target: str

    @property
    def label(self) -> str:
        return f"{self.kind}/{self.name}" if self.kind else self.name


@dataclass(frozen=True)
class Target:
    text: str  # as the user wrote it
    distribution: str
    version: str
    components: tuple[Declared, ...]
    verbs: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    source: Path | None = None  # a folder, of which a wheel is built first
    wheel: Path | None = None  # to be installed
    tests: Path | None = None  # a folder or file with its own tests
    file: Path | None = None  # a local component file
    content: str = ""  # SHA-256 of it

    @property
    def packages(self) -> list[str]:
        """Those that have its components."""
        modules = (component.target.partition(":")[0] for component in self.components)
        return sorted({module.partition(".")[0] for module in modules if module})

    @property
    def conformance_modules(self) -> list[str]:
        """Where its packages may have the suites of their components."""
        return [f"{package}.{CONFORMANCE}" for package in self.packages]


def find_target(text: str, trust_code: bool) -> Target:
    """What `text` names; of a source folder only where it is and its tests. Raises KitError."""
    path = Path(text)
    if path.suffix == ".py" and path.is_file():
        return target_of_file(text, path, trust_code)
    if path.suffix == ".whl" and path.is_file():
        return target_of_wheel(text, path)
    if (path / "pyproject.toml").is_file():
        tests = path.resolve() / "tests"
        return Target(text, "", "", (), tests=tests if tests.is_dir() else None, source=path.resolve())
    if path.suffix in (".py", ".whl") or path.exists() or len(path.parts) > 1:
        what = "a folder without pyproject.toml" if path.is_dir() else "not a wheel" if path.exists() else "not found"
        raise KitError(f"{text}: {what}; expected a distribution's name, a wheel, a source folder or a component file")
    try:
        return target_of_distribution(text, metadata.distribution(text))
    except metadata.PackageNotFoundError:
        names = {entry.distribution for entry in Registry.installed().entries}
        kinds = "TARGET is a distribution's name, a wheel, a folder with pyproject.toml or a component file"
        raise KitError(f"no distribution {text!r} is installed{did_you_mean(text, names)}; {kinds}") from None


def target_of_file(text: str, path: Path, trust_code: bool) -> Target:
    """A local component file; the tests beside it are test_NAME.py, there or in a folder `tests`."""
    source = read_component_file(path)
    if not has_consent(path, source, trust_code):
        raise KitError(Fault(consent_fault(path).message))
    near = (path.with_name(f"test_{path.stem}.py"), path.parent / "tests" / f"test_{path.stem}.py")
    tests = next((file.resolve() for file in near if file.is_file()), None)
    content = hashlib.sha256(source).hexdigest()
    component = Declared("", path.stem, "")
    return Target(text, LOCAL, content[:12], (component,), tests=tests, file=path.resolve(), content=content)


def target_of_wheel(text: str, path: Path) -> Target:
    try:
        root = zipfile.Path(path)
        (info,) = [folder for folder in root.iterdir() if folder.name.endswith(".dist-info")]
        distribution = metadata.PathDistribution(info)
        found = target_of_distribution(text, distribution)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise KitError(f"{text} is not a wheel: {error}") from None
    return replace(found, wheel=path.resolve())


def target_of_distribution(text: str, distribution: metadata.Distribution) -> Target:
    points = sorted((point.group, point.name, point.value) for point in distribution.entry_points)
    components = tuple(
        Declared(group.removeprefix(GROUP), name, value)
        for group, name, value in points
        if group.startswith(GROUP) and group != GROUP + VERB
    )
    verbs = tuple(name for group, name, _ in points if group == GROUP + VERB)
    if not components and not verbs:
        raise KitError(
            f"{text} declares nothing: it has no entry point in a group {GROUP}KIND, such as "
            f'[project.entry-points."{GROUP}norm"]'
        )
    name = re.sub(r"[-_.]+", "-", distribution.name).lower()
    requires = tuple(distribution.requires or ())
    return Target(text, name, distribution.version, components, verbs, requires)
