"""Which component files this user has run by choice. A run that came from elsewhere brings code that was not chosen."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import local_files
from nanogpt_kit.core.layers import Layers


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


def check(layers: Layers, folder: Path) -> None:
    """Raises KitError where the experiment of a run would execute code that this user never ran."""
    strange = [path.name for path in local_files(layers, folder) if path.exists() and content_hash(path) not in known()]
    if strange:
        raise KitError(
            f"{folder} brings its own code ({', '.join(strange)}), and it was never run here; "
            "read it, then add --trust-code"
        )


def is_run(folder: Path) -> bool:
    """Whether an experiment file in this folder was written by a run: then somebody else may have chosen its code."""
    return any((folder / name).exists() for name in ("provenance.json", "status.json", "metrics.jsonl", "checkpoints"))


def known() -> set[str]:
    return set(ledger().read_text(encoding="utf-8").split()) if ledger().exists() else set()


def content_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
