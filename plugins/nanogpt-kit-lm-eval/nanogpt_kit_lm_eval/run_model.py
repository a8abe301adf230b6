"""The model `nanogpt-kit` of lm-evaluation-harness: a run by its name, loaded when the harness asks for it.

Importing this module registers it: `lm_eval.simple_evaluate("nanogpt-kit", "run=quickstart", tasks=[...])`.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from lm_eval.api.registry import model_registry

from nanogpt_kit.api import KitError, load_run
from nanogpt_kit_lm_eval.harness_model import KitLM

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@model_registry.register("nanogpt-kit")
class RunModel(KitLM):
    """The newest checkpoint of a run, or of an exported model."""

    def __init__(
        self,
        run: str,
        device: str | None = None,
        batch_size: int | str | None = None,
        precision: str = "fp32",
        min_context: int = 1,
        max_batch_size: Any = None,
    ) -> None:
        """`run` is any name that `nanogpt-kit eval` takes; `precision` is fp32, bf16 or fp16. Raises KitError."""
        if precision not in DTYPES:
            raise KitError(f"precision should be {', '.join(DTYPES)}, got {precision!r}")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        generator = load_run(run, device)
        dtype = DTYPES[precision]
        super().__init__(
            generator.model,
            generator.encoder,
            generator.experiment.model.block_size,
            (lambda: torch.autocast(torch.device(device).type, dtype)) if dtype else nullcontext,
            device,
            int(batch_size or 16),
            min_context,
        )
