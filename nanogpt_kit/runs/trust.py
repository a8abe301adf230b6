"""Which component files this user has run by choice. A run that came from elsewhere brings code that was not chosen."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from nanogpt_kit.core.errors import KitError


def ledger() -> Path:
    """Hashes of the component files that this user has named in an experiment and run."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "nanogpt-kit" / "trusted-code"


def remember(files: Sequence[Path]) -> None:
    """A home that cannot be written to only means being asked for --trust-code later."""
    new = {content_hash(file) for file in files} - known()
    if new:
        try:
            ledger().parent.mkdir(parents=True, exist_ok=True)
            with ledger().open("a", encoding="utf-8") as file:
                file.writelines(f"{entry}\n" for entry in sorted(new))
        except OSError:
            pass


def check_experiment(experiment_file: Path) -> None:
    """Raises KitError where the file lies in a run folder whose code this user never ran: it came from elsewhere."""
    folder = experiment_file.parent
    if (folder / "provenance.json").exists():
        strange = [
            file.name for file in sorted((folder / "components").glob("*.py")) if content_hash(file) not in known()
        ]
        if strange:
            raise KitError(
                f"{folder} brings its own code ({', '.join(strange)}), and it was never run here; "
                "read it, then add --trust-code"
            )


def known() -> set[str]:
    return set(ledger().read_text(encoding="utf-8").split()) if ledger().exists() else set()


def content_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
