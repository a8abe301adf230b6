"""Models that are imported by their name: OpenAI's GPT-2 on the Hugging Face hub."""

from __future__ import annotations

import logging
from pathlib import Path

from nanogpt_kit.core.errors import KitError

logger = logging.getLogger(__name__)

PUBLISHED_FORMAT = "huggingface"  # of all of them


def download_gpt2(name: str) -> Path:
    """The folder of a published GPT-2 in the hub's cache. Raises KitError if it cannot be downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    logger.info("fetching %s from the Hugging Face hub, unless it is cached", name)
    try:
        found = snapshot_download(f"openai-community/{name}", allow_patterns=["config.json", "*.safetensors"])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        cause = str(error).partition("\n")[0]
        raise KitError(
            f"{name} cannot be downloaded from the Hugging Face hub ({cause}); "
            "put its config.json and model.safetensors into a folder, and import that instead"
        ) from None
    return Path(found)
