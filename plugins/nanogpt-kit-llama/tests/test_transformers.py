"""transformers computes the same: of what it has saved, and of what is exported for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nanogpt_kit_llama.llama import Llama
from safetensors.torch import load_file
from torch import Tensor

from nanogpt_kit import KitError, Run, load_run
from nanogpt_kit.api import ExportedModel, ModelContext, Multipliers
from nanogpt_kit.testing.training import train_briefly

transformers = pytest.importorskip("transformers", reason="the oracle is not installed")

SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6}
COMMON = {"vocab_size": 257, "max_position_embeddings": 32, "bos_token_id": None, "eos_token_id": 256}
SLOWED = {
    "rope_type": "llama3",
    "rope_theta": 50.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("Llama", {"num_key_value_heads": 6}),
    "grouped": ("Llama", {"num_key_value_heads": 2}),
    "tied": ("Llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "another base": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "another epsilon": ("Llama", {"rms_norm_eps": 0.5}),
    "biases of attention": ("Llama", {"attention_bias": True}),
    "biases of the MLP": ("Llama", {"mlp_bias": True, "num_key_value_heads": 3}),
    "slowed positions": ("Llama", {"rope_parameters": SLOWED}),
    "Mistral": ("Mistral", {"num_key_value_heads": 2, "sliding_window": 5}),
    "Mistral without a window": ("Mistral", {"num_key_value_heads": 3, "sliding_window": None}),
    "Qwen2": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
}
IDS = torch.randint(0, 257, (3, 15), generator=torch.Generator().manual_seed(1))


def saved(folder: Path, kind: str, **options: Any) -> Any:
    """A random model of transformers, which it has saved."""
    family, settings = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, **COMMON, **settings, **options)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for parameter in model.parameters():  # biases and gains begin at constants
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model.eval()


@torch.no_grad()
def logits(module: Any) -> Tensor:
    found = module(IDS)
    return getattr(found, "logits", found)


def command(*words: str | Path) -> str:
    """What the command prints; it has to succeed."""
    done = subprocess.run([sys.executable, "-m", "nanogpt_kit", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder where the runs of tests are made and looked for."""
    folder = tmp_path_factory.mktemp("llama")
    with pytest.MonkeyPatch.context() as patch:
        for variable, name in {"RUNS": "runs", "DATA": "data"}.items():
            patch.setenv(f"NANOGPT_KIT_{variable}", str(folder / name))
        yield folder


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_has_saved_has_its_logits(kind: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path / "hf", kind)
    ours = load_run(tmp_path / "hf", overrides=["tokenizer=byte"])
    torch.testing.assert_close(logits(ours.model), logits(theirs), rtol=0, atol=1e-5)


def test_files_that_an_index_names_are_one_model(tmp_path: Path) -> None:
    theirs = saved(tmp_path / "hf", "grouped")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    ours = load_run(tmp_path / "parts", overrides=["tokenizer=byte"])
    torch.testing.assert_close(logits(ours.model), logits(theirs), rtol=0, atol=1e-5)


def test_a_configuration_of_transformers_4_is_read(tmp_path: Path) -> None:
    theirs = saved(tmp_path / "hf", "slowed positions")
    file = tmp_path / "hf" / "config.json"
    config = json.loads(file.read_text())
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    scaling["type"] = scaling.pop("rope_type")
    file.write_text(json.dumps(config | {"rope_scaling": scaling}))
    ours = load_run(tmp_path / "hf", overrides=["tokenizer=byte"])
    torch.testing.assert_close(logits(ours.model), logits(theirs), rtol=0, atol=1e-5)


def exported(generator: Any) -> ExportedModel:
    """What `export` gives a format of a model."""
    weights = dict(generator.model.state_dict())
    return ExportedModel(
        experiment=generator.experiment.resolved(),
        component_files={},
        model=generator.experiment.model,
        module=generator.model,
        weights=weights,
        multipliers=Multipliers(),
        encoder=generator.encoder,
    )


@pytest.mark.parametrize("kind", ["grouped", "tied", "slowed positions", "Mistral"])
def test_a_round_trip_is_bit_equal(kind: str, tmp_path: Path) -> None:
    original = saved(tmp_path / "hf", kind)
    model = exported(load_run(tmp_path / "hf", overrides=["tokenizer=byte"]))
    (tmp_path / "back").mkdir()
    Llama().check_model(model)
    Llama().write(tmp_path / "back", model)
    before, after = (load_file(tmp_path / place / "model.safetensors") for place in ("hf", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert type(theirs) is type(original)
    torch.testing.assert_close(logits(theirs.eval()), logits(original), rtol=0, atol=0)
    config, expected = (json.loads((tmp_path / place / "config.json").read_text()) for place in ("back", "hf"))
    same = (
        "rope_parameters",
        "hidden_size",
        "num_key_value_heads",
        "rms_norm_eps",
        "vocab_size",
        "tie_word_embeddings",
    )
    assert [key for key in same if config[key] != expected[key]] == []


@pytest.mark.parametrize("kind", ["biases of attention", "Qwen2", "Mistral without a window"])
def test_a_model_of_another_family_is_written_as_a_llama(kind: str, tmp_path: Path) -> None:
    """Biases that it does not have are zeros, and a window that is not there is none."""
    original = saved(tmp_path / "hf", kind)
    Llama().write(tmp_path, exported(load_run(tmp_path / "hf", overrides=["tokenizer=byte"])))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs) is transformers.LlamaForCausalLM
    torch.testing.assert_close(logits(theirs.eval()), logits(original), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "bits"), [("bf16", 16), ("fp16", 16)])
def test_weights_are_written_in_the_type_that_is_chosen(dtype: Any, bits: int, tmp_path: Path) -> None:
    saved(tmp_path / "hf", "plain")
    model = exported(load_run(tmp_path / "hf", overrides=["tokenizer=byte"]))
    Llama(dtype=dtype).write(tmp_path, model)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {value.element_size() * 8 for value in tensors.values()} == {bits}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(tensors["lm_head.weight"].dtype)[6:]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["model.qk_norm=true"], ("model.qk_norm = True", "False")),
        (["model.mlp=gelu"], ("model.mlp.use = 'gelu'", "'swiglu'")),
        (["model.norm=layernorm"], ("model.norm.use = 'layernorm'", "'rmsnorm'")),
        (["model.position=alibi"], ("model.position.use = 'alibi'", "'rope'")),
        (["model.position.partial=0.5"], ("model.position.partial = 0.5", "1.0")),
        (["model.logit_softcap=30.0"], ("model.logit_softcap = 30.0",)),
        (
            ["model.bias=true", "model.attention={use='sdpa',window=3}"],
            ("model.bias", "model.attention.window = 3", "Mistral"),
        ),
        (['model.attention=["sdpa",{use="sdpa",window=3}]'], ("model.attention.window", "none and 3")),
    ],
)
def test_what_llama_has_not_is_refused_with_its_key(changes: list[str], words: tuple[str, ...], tmp_path: Path) -> None:
    saved(tmp_path / "hf", "plain")
    generator = load_run(tmp_path / "hf", overrides=["tokenizer=byte"])
    experiment = generator.experiment.with_(*changes)
    module = experiment.model.build(ModelContext(vocab_size=257))
    model = exported(replace(generator, experiment=experiment, model=module))
    with pytest.raises(KitError) as caught:
        Llama().check_model(model)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


TRAINED = ["model.position=rope", "model.norm=rmsnorm", "model.mlp=swiglu", "model.n_kv_head=1", "model.bias=false"]


VOCABULARY = ["tokenizer.use=bpe", "tokenizer.vocab_size=300"]


@pytest.fixture(scope="session")
def trained(folder: Path) -> Run:
    return train_briefly(folder, "name=trained", *TRAINED, *VOCABULARY)


def test_an_exported_model_generates_the_same_text_in_transformers(trained: Run, folder: Path) -> None:
    command("export", "trained", folder / "out", "--format", "llama")
    command("import", folder / "out", "imported")  # its format and its tokenizer are detected
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "out")
    prompt = "7 times 14"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    generator = trained.generator(device="cpu")
    assert ids[0].tolist() == generator.encoder.encode_batch([prompt])[0].tolist()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, generator.model(ids), rtol=0, atol=1e-4)
    count = 16 - ids.size(1)
    written = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    (expected,) = generator.generate(prompt, max_new_tokens=count, samplers=["greedy"])
    assert tokenizer.decode(written[0]) == expected
    again = load_run(folder / "out")  # with the tokenizer that was written
    assert again.generate(prompt, max_new_tokens=count, samplers=["greedy"]) == [expected]
    more = ["name=more", *TRAINED, *VOCABULARY, "optimizer.lr=1e-30", "train.steps=1"]
    further = train_briefly(folder, *more, "tokenizer.from_run=trained", "model.init_from=trained")
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, further.generator(device="cpu").model(ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head_dim": 8}, ("head_dim = 8", "(4)")),
        ({"intermediate_size": 41}, ("intermediate_size = 41", "multiple of 8")),
        ({"hidden_act": "gelu"}, ("hidden_act = 'gelu'", "'silu'")),
        ({"model_type": "qwen3"}, ("model_type = 'qwen3'", "llama, mistral, qwen2", "head_dim")),
        ({"logit_scale": 2.0}, ("logit_scale = 2.0", "not a key of llama")),
        ({"num_hidden_layers": 3}, ("model.layers.2.input_layernorm.weight is missing",)),
        ({"num_hidden_layers": 1}, ("model.layers.1.", "not a tensor of a llama")),
        ({"num_key_value_heads": 4}, ("num_key_value_heads = 4", "divisor of num_attention_heads (6)")),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, ("rope_type = 'yarn'", "'default' or 'llama3'")),
        ({"rope_parameters": {"rope_type": "llama3"}}, ("rope_parameters.factor = None",)),
        ({"rope_theta": 20.0}, ("20.0",)),
        ({"tie_word_embeddings": True}, ("lm_head.weight",)),
        ({"tie_word_embeddings": "yes"}, ("tie_word_embeddings = 'yes'", "true or false")),
        ({"hidden_size": 25}, ("hidden_size = 25", "multiple of num_attention_heads (6)")),
        ({"rms_norm_eps": -1}, ("rms_norm_eps = -1",)),
        ({"max_position_embeddings": None}, ("max_position_embeddings is missing",)),
        ({"quantization_config": {"bits": 4}}, ("quantization_config",)),
    ],
)
def test_what_cannot_be_expressed_is_refused_with_its_key(
    change: dict[str, Any], words: tuple[str, ...], original: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "changed"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(KitError) as caught:
        load_run(folder, overrides=["tokenizer=byte"])
    found = str(caught.value)
    assert [word for word in (*words, str(folder)) if word not in found] == [] or change.get("model_type"), found


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    saved(folder, "plain")
    return folder
