"""`python installed.py SITE WHEELS`: checks that each wheel is installed in SITE, and is what Python imports."""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path


def main(site: Path, wheels: Path) -> None:
    for wheel in sorted(wheels.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        found = distribution(name)
        place = Path(str(found.locate_file(""))).resolve()
        print(f"{name} {found.version} in {place}")
        assert (found.version, place) == (version, site.resolve()), f"expected {version} in {site}"
    spec = find_spec("nanogpt_kit")
    origin = Path(spec.origin or "") if spec else Path()
    assert origin.is_relative_to(site), f"nanogpt_kit is imported from {origin}"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
