"""The suite for formats: what is written is detected and read as the same model; anything else is refused.

It calls what `export` and `import` call, so a format passes it as users meet it.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.experiment_keys import ExperimentKeys
from nanogpt_kit.core.kinds import ExportedModel, Format, Model, ModelContext
from nanogpt_kit.core.layers import Layers
from nanogpt_kit.data.encoders import make_encoder
from nanogpt_kit.generate.load import load_exported_model
from nanogpt_kit.interop.exporting import exported_model, write_exported
from nanogpt_kit.interop.formats import NamedFormat, built_in_formats, can_read, can_write
from nanogpt_kit.interop.source import read_source
from nanogpt_kit.testing.component import ComponentConformance
from nanogpt_kit.testing.conformance import perturb_weights

GPT2: Mapping[str, Any] = {"use": "gpt", "n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 16}
# Tables that are laid over those of a model that the format holds: it holds each of the results, or refuses it.
VARIANTS: dict[str, Mapping[str, Any]] = {
    "no biases": {"bias": False},
    "biases": {"bias": True},
    "an untied head": {"weight_tying": False},
    "a tied head": {"weight_tying": True},
    "another padding of the vocabulary": {"vocab_multiple": 100},
    "learned positions": {"position": "learned"},
    "rotary positions": {"position": {"use": "rope", "base": 500.0}},
    "half of the features rotated": {"position": {"use": "rope", "partial": 0.5}},
    "slopes": {"position": "alibi"},
    "no positions": {"position": "none"},
    "layernorm of another epsilon": {"norm": {"use": "layernorm", "eps": 1e-2}},
    "layernorm without biases": {"norm": {"use": "layernorm", "bias": False}},
    "rmsnorm of another epsilon": {"norm": {"use": "rmsnorm", "eps": 1e-2}},
    "rmsnorm without gain": {"norm": {"use": "rmsnorm", "gain": False}},
    "gelu by tanh": {"mlp": {"use": "gelu", "approximate": "tanh"}},
    "a narrow mlp": {"mlp": {"use": "gelu", "width": 1.5}},
    "swiglu": {"mlp": {"use": "swiglu", "width": 2.0}},
    "relu2": {"mlp": "relu2"},
    "groups of heads": {"n_kv_head": 1},
    "normalized queries and keys": {"qk_norm": True},
    "a soft cap": {"logit_softcap": 2.0},
    "a residual stream in bf16": {"bf16_residual": True},
    "a window": {"attention": {"use": "sdpa", "window": 3}},
    "a window in one layer": {"attention": ["sdpa", {"use": "sdpa", "window": 3}]},
    "an attention for each layer": {"attention": ["naive", "sdpa"]},
    "norms that differ": {"norm": [{"use": "layernorm", "eps": 1e-2}, "layernorm"]},
    "mlps that differ": {"mlp": ["gelu", {"use": "gelu", "width": 1.5}]},
    "positions that differ": {"position": ["learned", "rope"]},
    "two learned positions": {"position": ["learned", "learned"]},
}
by_variant = pytest.mark.parametrize("variant", VARIANTS)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "empty": lambda path: cut(path, 0),
    "cut in half": lambda path: cut(path, path.stat().st_size // 2),
    "cut at its end": lambda path: cut(path, path.stat().st_size - 9),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("Once upon a time"),
    "a list": lambda path: path.write_text("[1, 2]"),
    "not UTF-8": lambda path: path.write_bytes(b'{"a": "\xff"}'),
}
TENSOR_DAMAGES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "one is missing": lambda tensors: dict(list(tensors.items())[1:]),
    "one is unknown": lambda tensors: {**tensors, "another.weight": torch.ones(3)},
    "one is of integers": lambda tensors: {**tensors, min(tensors): tensors[min(tensors)].to(torch.int8)},
    "one is of bytes that need scales": lambda tensors: {
        **tensors,
        min(tensors): tensors[min(tensors)].to(torch.float8_e4m3fn),
    },
    "one has another shape": lambda tensors: {**tensors, min(tensors): tensors[min(tensors)][1:].clone()},
    "one is not finite": lambda tensors: {**tensors, min(tensors): torch.full_like(tensors[min(tensors)], torch.nan)},
}


class FormatConformance(ComponentConformance):
    """Subclass it with `component = MyFormat()`, and with a `model` that it holds if that is not GPT-2's shape.

    A format that only reads also overrides `write_source`.
    """

    component: ClassVar[Format]
    model: ClassVar[Mapping[str, Any]] = GPT2  # the table [model] of a small model that the format holds
    tolerance: ClassVar[float] = 1e-5  # of logits

    def experiment(self, init: Mapping[str, Any] | None = None, **options: Any) -> Experiment:
        """One whose model the format holds, with another `init` and other `options` of the model."""
        layers = Layers(ExperimentKeys(Experiment))
        model = {**self.model, **options}
        values = {
            "name": "conformance",
            "dataset": {"use": "python_stdlib"},
            "tokenizer": {"use": "byte"},
            "model": model,
            "init": dict(init or {"use": "gpt2"}),
            "optimizer": {"use": "adamw"},
            "schedule": {"use": "constant"},
            "train": {"steps": 0, "batch_tokens": model["block_size"]},
        }
        layers.add(copy.deepcopy(values), lambda _: "suite")
        return Experiment.of(layers, Path.cwd())

    def exported(self, init: Mapping[str, Any] | None = None, **options: Any) -> ExportedModel:
        """A model with random weights that the format holds, with another `init` and other `options`."""
        experiment = self.experiment(init, **options)
        encoder = make_encoder(experiment.tokenizer, experiment.dataset)
        torch.manual_seed(0)
        module = experiment.model.build(experiment.model_context(encoder.vocab_size))
        perturb_weights(module, 0.2, seed=1)
        return exported_model(experiment, module.eval(), encoder)

    def write_source(self, folder: Path, exported: ExportedModel) -> Path:
        """Writes what another program would write of a model; returns the file or folder that is imported."""
        if not can_write(self.component):
            pytest.skip("it only reads: override write_source")
        write_exported(exported, self.named, folder)
        return folder

    @property
    def named(self) -> NamedFormat:
        return NamedFormat(type(self.component).__name__, self.component)

    def read_logits(self, path: Path) -> Tensor:
        """The logits of a model that was written. Raises KitError."""
        source = read_source(path, self.named)
        tokenizer = [] if source.has_experiment_file else ["tokenizer=byte"]
        return logits_of(load_exported_model(source, "cpu", False, tokenizer).model)

    def skip_unless_read(self) -> None:
        if not can_read(self.component):
            pytest.skip("it only writes")

    def skip_unless_gpt(self) -> None:
        if self.model["use"] != "gpt":
            pytest.skip("the variants are those of the model gpt")

    def test_it_reads_or_writes(self) -> None:
        assert can_read(self.component) or can_write(self.component), "it does nothing: implement read, write or both"

    def test_it_says_what_it_detects(self) -> None:
        """A message about a source in no known format names it."""
        detects = type(self.component).detects is not Format.detects
        assert bool(self.component.sources) == detects, "set `sources` to what `detects` looks for, as a noun phrase"

    def test_every_option_has_a_default(self) -> None:
        required = [name for name, option in type(self.component).model_fields.items() if option.is_required()]
        assert not required, f"a source is detected without any options: give {', '.join(required)} a default"

    def test_what_is_read_is_what_was_written(self, tmp_path: Path) -> None:
        self.skip_unless_read()
        self.assert_held(tmp_path, self.exported())

    def test_what_is_written_is_detected(self, tmp_path: Path) -> None:
        self.skip_unless_read()
        path = self.write_source(tmp_path / "out", self.exported())
        assert self.component.detects(path), "it is not detected: implement detects, so that `import` needs no --format"
        others = [found for found in built_in_formats() if type(found.format) is not type(self.component)]
        taken = [found.name for found in others if found.format.detects(path)]
        remedy = "write other names, or state another type where the files have one"
        assert not taken, f"{', '.join(taken)} detects it too, and built-in formats are asked first: {remedy}"

    def test_nothing_else_is_detected(self, tmp_path: Path) -> None:
        for path in other_sources(tmp_path, type(self.component)):
            with only_kit_errors("detects should never raise"):
                detected = self.component.detects(path)
            files = f" ({', '.join(os.listdir(path))})" if path.is_dir() else ""
            assert detected is False, f"{path.name}{files} is in another format or in none: detects should be stricter"

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_detecting_never_raises(self, damage: str, tmp_path: Path) -> None:
        self.skip_unless_read()
        whole = self.write_source(tmp_path / "whole", self.exported())
        for name in contents(whole):
            path = copied(whole, tmp_path / "damaged")
            DAMAGES[damage](path / name if path.is_dir() else path)
            with only_kit_errors("detects should return whether it looks like a model in this format, and never raise"):
                assert isinstance(self.component.detects(path), bool), "detects should return True or False"

    @by_variant
    def test_a_model_is_held_or_refused(self, variant: str, tmp_path: Path) -> None:
        """Whatever `check_model` lets pass is read with the same logits."""
        self.skip_unless_gpt()
        self.assert_held_or_refused(tmp_path, self.exported(**VARIANTS[variant]))

    def test_multipliers_of_an_init_are_held_or_refused(self, tmp_path: Path) -> None:
        self.skip_unless_gpt()
        init = {"use": "mup", "base_width": self.model["n_embd"] // 2}
        self.assert_held_or_refused(tmp_path, self.exported(init))

    def test_another_model_is_held_or_refused(self, tmp_path: Path) -> None:
        """One without any of the options of `gpt`."""
        exported = self.exported()
        module = Bigrams(exported.encoder.vocab_size)
        tables = {**exported.experiment, "model": {"use": "bigrams", "block_size": 16}}
        weights = dict(module.state_dict())
        other = replace(exported, experiment=tables, model=BigramModel(block_size=16), module=module, weights=weights)
        if self.is_accepted(other):
            self.write_source(tmp_path / "out", other)

    def test_writing_leaves_the_model_as_it_was(self, tmp_path: Path) -> None:
        exported = self.exported()
        before = {name: value.clone() for name, value in exported.module.state_dict().items()}
        self.write_source(tmp_path / "out", exported)
        for values in (exported.module.state_dict(), exported.weights):
            changed = [name for name, value in values.items() if not torch.equal(value, before[name])]
            assert not changed, f"write changed {', '.join(changed)}: change copies"

    def test_nothing_is_written_outside_of_the_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        self.write_source(tmp_path / "out", self.exported())
        others = sorted(path.name for path in (*tmp_path.iterdir(), *Path.cwd().iterdir()))
        assert others == ["elsewhere", "out"], f"write made {others}: write into the folder that it is given"

    def test_reading_changes_no_file(self, tmp_path: Path) -> None:
        self.skip_unless_read()
        path = self.write_source(tmp_path / "out", self.exported())
        before = contents(path)
        self.read_logits(path)
        assert contents(path) == before, "read changed a file of the source"

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_damaged_file_is_refused(self, damage: str, tmp_path: Path) -> None:
        """Or the damage changes nothing: then the logits are the same."""
        self.skip_unless_read()
        exported = self.exported()
        whole = self.write_source(tmp_path / "whole", exported)
        for name in contents(whole):
            path = copied(whole, tmp_path / f"damaged {name.replace('/', ' ')}")
            DAMAGES[damage](path / name if path.is_dir() else path)
            self.assert_refused_or_same(path, exported, f"{name}: {damage}")

    @pytest.mark.parametrize("damage", TENSOR_DAMAGES)
    def test_tensors_of_another_model_are_refused(self, damage: str, tmp_path: Path) -> None:
        self.skip_unless_read()
        exported = self.exported()
        whole = self.write_source(tmp_path / "whole", exported)
        files = [name for name in contents(whole) if name.endswith(".safetensors")]
        for name in files:
            path = copied(whole, tmp_path / "damaged")
            file = path / name if path.is_dir() else path
            save_file(TENSOR_DAMAGES[damage](load_file(file)), file)
            with only_kit_errors(f"{name}: {damage}: read should raise KitError"):
                try:
                    self.read_logits(path)
                except KitError:
                    continue
            pytest.fail(f"{name}: {damage}, and it was read: use each tensor, or refuse it by name")

    # What the tests call

    def is_accepted(self, exported: ExportedModel) -> bool:
        """Whether `check_model` lets a model pass."""
        if not can_write(self.component):
            pytest.skip("it only reads")
        with only_kit_errors("check_model should raise KitError, and nothing else, for a model that it cannot hold"):
            try:
                self.component.check_model(exported)
            except KitError:
                return False
        return True

    def assert_held_or_refused(self, tmp_path: Path, exported: ExportedModel) -> None:
        if self.is_accepted(exported) and can_read(self.component):
            self.assert_held(tmp_path, exported)

    def assert_held(self, tmp_path: Path, exported: ExportedModel) -> None:
        expected = logits_of(exported.module)
        try:
            found = self.read_logits(self.write_source(tmp_path / "out", exported))
        except KitError as error:
            pytest.fail(f"it is refused after check_model has let it pass: {error}; let check_model refuse it")
        remedy = "check names, shapes and transposed matrices, or let check_model refuse the model"
        difference = float((found - expected).abs().max())
        assert difference <= self.tolerance, f"logits differ by {difference:.1e} after writing and reading: {remedy}"

    def assert_refused_or_same(self, path: Path, exported: ExportedModel, damage: str) -> None:
        with only_kit_errors(f"{damage}: read should raise KitError"):
            try:
                found = self.read_logits(path)
            except KitError:
                return
        is_same = torch.allclose(found, logits_of(exported.module), rtol=0, atol=self.tolerance)
        assert is_same, f"{damage}: it was read as another model: check what the file contains, or raise KitError"


def other_sources(folder: Path, besides: type[Format]) -> Iterator[Path]:
    """Files and folders that are in no format, or in another built-in one than `besides`."""
    (folder / "empty folder").mkdir()
    (folder / "texts").mkdir()
    for name in ("empty folder/.gitignore", "empty.txt", "texts/README.md", "texts/notes.txt"):
        (folder / name).write_text("" if name == "empty.txt" else "Once upon a time\n")
    yield from (folder / name for name in ("empty folder", "empty.txt", "texts", "texts/notes.txt", "absent"))
    for found in built_in_formats():
        if type(found.format) is not besides:
            suite = type("Suite", (FormatConformance,), {"component": found.format})()
            yield suite.write_source(folder / found.name, suite.exported())


class BigramModel(Model):
    def build(self, ctx: ModelContext) -> nn.Module:
        return Bigrams(ctx.vocab_size)


class Bigrams(nn.Module):
    """A model of another kind: the logits of a token depend on the one before it."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.table(ids)  # (B, T, V)
        return logits


@contextmanager
def only_kit_errors(remedy: str) -> Iterator[None]:
    """Fails the test for any other exception than a KitError, which passes."""
    try:
        yield
    except (KitError, AssertionError, pytest.skip.Exception, pytest.fail.Exception):
        raise
    except Exception as error:
        pytest.fail(f"{type(error).__name__}: {error}; {remedy}")


@torch.no_grad()
def logits_of(module: nn.Module) -> Tensor:
    ids = torch.randint(0, 257, (2, 13), generator=torch.Generator().manual_seed(2))
    return module(ids)  # type: ignore[no-any-return]


def contents(path: Path) -> dict[str, bytes]:
    """The files of a folder, or the file, by name."""
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    return {(file.relative_to(path).as_posix() if path.is_dir() else file.name): file.read_bytes() for file in files}


def copied(path: Path, to: Path) -> Path:
    if path.is_file():
        return Path(shutil.copy(path, to.with_suffix(path.suffix)))
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(path, to))
