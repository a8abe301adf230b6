"""Whether a run may continue with the plugins that are installed: with those that it was made with, or if accepted."""

from __future__ import annotations

import logging
import os

from nanogpt_kit.core.errors import Fault, KitError, dotted
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.other_versions import OtherPluginVersion, other_versions, recorded_by

logger = logging.getLogger(__name__)

ACCEPT = "--accept-versions"


def check_versions(experiment: Experiment, accepted: bool) -> None:
    """Raises KitError with a fault for each plugin of another version than the run was made with, unless `accepted`.

    Warns of each that is accepted, of trackers, and of code that has changed within a version, as it does under
    development.
    """
    changes = other_versions(experiment)
    refused = [change for change in changes if change.decides and change.recorded != change.installed]
    if refused and not accepted:
        raise KitError(*(version_fault(change, experiment) for change in refused))
    for change in changes if os.environ.get("RANK", "0") == "0" else ():
        logger.warning("%s; its next steps are computed by the installed code", change)


def version_fault(change: OtherPluginVersion, experiment: Experiment) -> Fault:
    install = recorded_by(experiment).remedy(change.distribution).removeprefix(": ")
    exact = f"`{install}` continues it as it began; " if install else ""
    reason = f"{change}; {exact}{ACCEPT} (in Python: accept_versions=True) continues it with {change.installed}"
    return Fault(reason, dotted(change.key), experiment.location((*change.key, "use")))
