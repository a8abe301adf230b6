"""Weights as an archive of NumPy, for programs without torch.

Change what `write` puts into the folder. A format that is also imported implements `detects` and `read`. Source:
`numpy.savez`, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from nanogpt_kit.api import ExportedModel, Field, Format


class NumpyArchive(Format):
    dtype: Literal["float32", "float16"] = Field("float32", description="type of the weights in the archive")

    def write(self, folder: Path, exported: ExportedModel) -> None:
        weights = exported.inference_weights()
        arrays: dict[str, Any] = {name: value.numpy().astype(self.dtype) for name, value in weights.items()}
        np.savez(folder / "weights.npz", **arrays)
