"""A format in a plugin brings models of a program that the kit does not know; transformers' Llama is the oracle."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.testing.format import GPT2, FormatConformance
from nanogpt_kit.train import session

transformers = pytest.importorskip("transformers")

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "kinds" / "format.md"
FILE = Path(__file__).parent / "components" / "llama.py"
ENTRY = "[nanogpt_kit.format]\nllama = ngk_llama:Llama\n"
PARTS = ["model.position=rope", "model.norm=rmsnorm", "model.mlp=swiglu", "model.n_kv_head=1", "model.dropout=0.0"]
SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6}
BYTE = ["tokenizer.use=byte"]


def load_component() -> Any:
    spec = importlib.util.spec_from_file_location("seams_llama", FILE)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["seams_llama"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Llama


class TestLlama(FormatConformance):
    component = load_component()()
    model = {**GPT2, "n_kv_head": 1, "bias": False, "position": "rope", "norm": "rmsnorm", "mlp": "swiglu"}


@pytest.fixture
def installed(install: Callable[..., None]) -> None:
    """A distribution that offers the format `llama`."""
    install("ngk-llama", ENTRY, ngk_llama=FILE.read_text(encoding="utf-8"))


def llama(folder: Path, **options: Any) -> Any:
    """A random Llama of transformers, saved."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **SIZES,
        **{"num_key_value_heads": 2, "vocab_size": 257, "max_position_embeddings": 32, **options},
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model.eval()


def logits(module: Any) -> torch.Tensor:
    ids = torch.randint(0, 257, (3, 15), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = module(ids)
    return getattr(found, "logits", found)


@pytest.mark.usefixtures("installed")
def test_an_imported_llama_has_the_logits_of_transformers(tmp_path: Path, command: Callable[..., Any]) -> None:
    theirs = llama(tmp_path / "hf", rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    answer = command("import", tmp_path / "hf", "mine", *BYTE)
    assert answer.code == 0, answer.err
    torch.testing.assert_close(logits(load_run("mine").model), logits(theirs), rtol=0, atol=1e-5)
    directly = load_run(tmp_path / "hf", overrides=BYTE)
    torch.testing.assert_close(logits(directly.model), logits(theirs), rtol=0, atol=1e-5)
    answer = command("sample", tmp_path / "hf", *BYTE, "--prompt", "abc", "--max-new-tokens", 3)
    assert answer.out.startswith("abc"), answer.err


@pytest.mark.usefixtures("installed")
def test_an_exported_run_has_its_logits_in_transformers(
    tiny: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=2", "sample.num_samples=0", *PARTS]))
    refused = command("export", "tiny", tmp_path / "hf")
    assert refused.code == 2
    assert "GPT-2 cannot express model.position.use = 'rope'; expected 'learned'" in refused.err
    assert "the model can be exported with --format safetensors; installed as well: ngk-llama/llama" in refused.err
    answer = command("export", "tiny", tmp_path / "hf", "--format", "llama")
    assert answer.code == 0, answer.err
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hf").eval()
    torch.testing.assert_close(logits(theirs), logits(load_run("tiny").model), rtol=0, atol=1e-5)


def test_without_the_plugin_its_type_is_named(tmp_path: Path, command: Callable[..., Any]) -> None:
    llama(tmp_path / "hf")
    for verb in ("import", "sample"):
        answer = command(verb, tmp_path / "hf")
        assert answer.code == 2
        assert f"{tmp_path / 'hf'} is not a model in a format that is installed" in answer.err
        assert "describes a model of type 'llama'" in answer.err


def test_the_format_may_be_a_local_file(tmp_path: Path, tiny: Path, command: Callable[..., Any]) -> None:
    theirs = llama(tmp_path / "hf")
    answer = command("import", tmp_path / "hf", "mine", *BYTE, "--format", FILE)
    assert answer.code == 0, answer.err
    torch.testing.assert_close(logits(load_run("mine").model), logits(theirs), rtol=0, atol=1e-5)
    assert command("export", "mine", tmp_path / "back", "--format", FILE).code == 0
    back = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "back").eval()
    for name, value in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name


def test_the_examples_of_the_page_work(
    tiny: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    _, _, example, _, suite = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=1", "sample.num_samples=0"]))
    (tmp_path / "numpy_archive.py").write_text(example)
    answer = command("export", "tiny", tmp_path / "out", "--format", tmp_path / "numpy_archive.py")
    assert answer.code == 0, answer.err
    weights = np.load(tmp_path / "out" / "weights.npz")
    expected = load_run("tiny").model.state_dict()
    assert set(weights) == set(expected)
    assert all(np.array_equal(weights[name], value.numpy()) for name, value in expected.items())
    monkeypatch.setitem(sys.modules, "llama", sys.modules["seams_llama"])
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(suite, str(PAGE), "exec"), names)
    names["TestLlama"]().test_what_is_written_is_detected(tmp_path / "suite")
