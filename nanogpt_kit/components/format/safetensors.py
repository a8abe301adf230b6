"""nanogpt-kit's own format, for every model: weights, experiment, tokenizer and local component files in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import tomli_w
from safetensors.torch import save_model

from nanogpt_kit.api import ExportedModel, Format, ImportedModel, KitError, read_json, read_safetensors

WEIGHTS, EXPERIMENT, TOKENIZER = "model.safetensors", "experiment.toml", "tokenizer.json"


class Safetensors(Format):
    sources = f"a folder with {WEIGHTS} and {EXPERIMENT}"

    def detects(self, path: Path) -> bool:
        return (path / WEIGHTS).is_file() and (path / EXPERIMENT).is_file()

    def read(self, path: Path) -> ImportedModel:
        for name in (WEIGHTS, EXPERIMENT, TOKENIZER):
            if not (path / name).is_file():
                raise KitError(f"{path} has no file {name}, so it is not a model that nanogpt-kit has exported")
        try:
            state = read_json(path / TOKENIZER)["state"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KitError(f"{path / TOKENIZER} is damaged, or not a record of a tokenizer: {error}") from None
        if not isinstance(state, dict):
            raise KitError(f"{path / TOKENIZER} is damaged, or not a record of a tokenizer: its state is not a table")
        files = tuple(path / name for name in (WEIGHTS, EXPERIMENT, TOKENIZER))
        return ImportedModel(
            experiment=path / EXPERIMENT,
            weights=read_safetensors(path / WEIGHTS),
            files=files,
            tokenizer_state=state,
        )

    def write(self, folder: Path, exported: ExportedModel) -> None:
        save_model(exported.module, str(folder / WEIGHTS))  # a tensor with several names is saved once
        (folder / EXPERIMENT).write_text(tomli_w.dumps(dict(exported.experiment)), encoding="utf-8")
        encoder = exported.encoder
        record = {
            "use": exported.experiment["tokenizer"]["use"],
            "vocab_size": encoder.vocab_size,
            "eot_id": encoder.eot_id,
            "state": encoder.state(),
        }
        (folder / TOKENIZER).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for name, source in exported.component_files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(source)
