"""Whether an installed distribution of components was made for this version of the kit, by its own metadata."""

from __future__ import annotations

import functools
import logging
import re
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement

logger = logging.getLogger(__name__)

KIT_DISTRIBUTION = "nanogpt-kit"  # its bare names always mean the built-ins


@functools.cache
def unmet_requirement(distribution: str, version: str) -> str | None:
    """Why a distribution was not made for this kit, as a sentence; None where its metadata does not say so."""
    try:
        requirements = metadata.requires(distribution) or []
    except Exception:  # it was removed meanwhile, or its metadata is damaged
        return None
    mine = [text for text in requirements if is_of_kit(text)]
    if not mine or distribution == KIT_DISTRIBUTION:
        return None
    installed = metadata.version(KIT_DISTRIBUTION)
    for text in mine:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # it names no version that could be compared
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and not requirement.specifier.contains(installed, prereleases=True):
            needed = f"{distribution} {version} requires {KIT_DISTRIBUTION}{requirement.specifier}"
            remedy = f"pip install --upgrade {KIT_DISTRIBUTION} {distribution}"
            return f"{needed}, and {installed} is installed: {remedy}"
    return None


def is_of_kit(requirement: str) -> bool:
    """Whether "nanogpt_kit[plots]>=0.2; ..." and the like name the kit."""
    match = re.match(r"\s*([A-Za-z0-9._-]+)", requirement)
    return match is not None and re.sub(r"[._-]+", "-", match[1]).lower() == KIT_DISTRIBUTION


@functools.cache
def warn_once(message: str) -> None:
    logger.warning("%s", message)
