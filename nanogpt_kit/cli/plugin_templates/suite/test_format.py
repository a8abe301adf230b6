"""NumpyArchive passes the suite of its kind, and trains by its name in an experiment."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from nanogpt_kit.cli.plugin_templates.component.format import NumpyArchive
from nanogpt_kit.testing.format import FormatConformance
from nanogpt_kit.testing.training import train_briefly

EXPERIMENT = Path(__file__).parents[1] / "experiment" / "format.toml"
FORMAT = "numpy_archive"


class TestNumpyArchive(FormatConformance):
    component = NumpyArchive()


class TestNumpyArchiveWithOptions(FormatConformance):
    component = NumpyArchive(dtype="float16")


def test_a_trained_model_is_exported(tmp_path: Path) -> None:
    finished = train_briefly(tmp_path, experiment=EXPERIMENT)
    kit = [sys.executable, "-m", "nanogpt_kit"]
    options = ["--format", FORMAT, "--trust-code"]
    subprocess.run([*kit, "export", str(finished.path), "exported", *options], cwd=tmp_path, check=True)
    weights = np.load(tmp_path / "exported" / "weights.npz")
    assert weights["wte.weight"].shape[1] == 16
