"""GPT-2 in and out: transformers' own implementation is the oracle."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from nanogpt_kit.api import LayerContext
from nanogpt_kit.components.attention.sdpa import SDPA
from nanogpt_kit.components.sampler.greedy import Greedy
from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds.expressible import inexpressible_options
from nanogpt_kit.corpus.bpe import BPEEncoder
from nanogpt_kit.generate.decode import Decoder
from nanogpt_kit.generate.decoding_model import DecodingModel
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.interop.exporting import export_model
from nanogpt_kit.interop.importing import import_run
from nanogpt_kit.runs.find import find_run
from nanogpt_kit.runs.folder import runs_root
from nanogpt_kit.train import session

transformers = pytest.importorskip("transformers")

SMALL = {"n_layer": 3, "n_head": 4, "n_embd": 48, "n_positions": 240, "vocab_size": 257}
OTHER = {"n_layer": 2, "n_head": 3, "n_embd": 36, "n_positions": 232, "vocab_size": 50257, "n_inner": 100}
BYTE = ["tokenizer.use=byte"]
LENGTH = 50  # new tokens


def gpt2(folder: Path, **options: object) -> torch.nn.Module:
    """A random GPT-2 of transformers, saved; gains and biases too are random, since ones and zeros hide mistakes."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(bos_token_id=None, eos_token_id=None, **options))
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("sizes", [SMALL, OTHER], ids=["small", "other"])
def test_an_imported_gpt2_has_the_logits_and_the_greedy_text_of_transformers(
    tmp_path: Path, command: Callable[..., object], gpt2_vocabulary: None, sizes: dict[str, int]
) -> None:
    theirs = gpt2(tmp_path / "hf", **sizes)
    answer = command("import", tmp_path / "hf", "mine", *(BYTE if sizes is SMALL else []))
    assert answer.code == 0, answer.err
    ours = load_run("mine")
    ids = torch.randint(0, sizes["vocab_size"], (3, 29), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.model(ids), theirs(ids).logits, rtol=0, atol=1e-4)
    prompts, expected = [ids[0, :7], ids[1, :2], ids[2]], []
    for prompt in prompts:
        mask = torch.ones_like(prompt[None])
        text = theirs.generate(prompt[None], attention_mask=mask, max_new_tokens=LENGTH, do_sample=False)
        expected.append(text[0, len(prompt) :].tolist())
    texts = [prompt.tolist() for prompt in prompts]
    for model in (ours.model, DecodingModel(ours.model, "fp32", 3)):
        decoder = Decoder(model, texts, [Greedy()], [0, 0, 0], sizes["n_positions"], LENGTH)
        drawn = [decoder.draw_next().tokens for _ in range(LENGTH)]
        assert [list(text) for text in zip(*drawn, strict=True)] == expected
    decoder = Decoder(DecodingModel(ours.model, "fp32", 1), texts[:1], [Greedy()], [0], sizes["n_positions"], LENGTH)
    assert [decoder.draw_next().tokens[0] for _ in range(LENGTH)] == expected[0]


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": False}, {"activation_function": "gelu"}], ids=str)
def test_what_was_imported_is_exported_unchanged(tmp_path: Path, options: dict[str, object]) -> None:
    theirs = gpt2(tmp_path / "hf", **SMALL, **options)
    import_run(str(tmp_path / "hf"), "mine", BYTE)
    ours = load_run("mine")
    export_model(ours.experiment, ours.model, ours.encoder, "huggingface", tmp_path / "back")
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "back").eval()
    assert list(back.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name
    ids = torch.arange(2 * 31).view(2, 31)
    with torch.no_grad():
        assert torch.equal(back(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("option", ["model.bias=false", "model.weight_tying=false", "model.vocab_multiple=100"])
def test_a_run_exported_to_transformers_keeps_its_logits(
    tiny: Path, tmp_path: Path, option: str, command: Callable[..., object]
) -> None:
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=3", "sample.num_samples=0", option]))
    assert command("export", "tiny", tmp_path / "hf").code == 0
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    ids = torch.randint(0, 257, (2, 15), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(load_run("tiny").model(ids), theirs(ids).logits, rtol=0, atol=1e-5)


SSSL = 'model.attention=[{use="sdpa", window=4}, {use="naive", window=4}, {use="sdpa", window=4}, "sdpa"]'


def test_a_model_with_lists_of_equal_parts_is_exported_and_one_with_others_is_refused(
    tiny: Path, tmp_path: Path
) -> None:
    quick = ["callback=[]", "train.steps=1", "sample.num_samples=0", "model.n_layer=4"]
    equal = ['model.attention=["sdpa", "naive"]', 'model.norm=["layernorm"]', 'model.mlp=["gelu", "gelu"]']
    session.run(Experiment.load(tiny, [*quick, *equal, 'model.position=["learned"]']))
    run = load_run("tiny")
    export_model(run.experiment, run.model, run.encoder, "huggingface", tmp_path / "hf")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf")
    ids = torch.randint(0, 257, (2, 15), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(run.model(ids), theirs(ids).logits, rtol=0, atol=1e-5)
    norms = 'model.norm=["layernorm", {use="layernorm", eps=1e-6}]'
    for format_name, program in (("huggingface", "GPT-2"), ("nanogpt", "nanoGPT")):
        other = Experiment.load(tiny, [*quick, SSSL, norms, 'model.position=["learned", "learned"]'])
        with pytest.raises(KitError) as refused:
            export_model(other, run.model, run.encoder, format_name, tmp_path / format_name)
        told = str(refused.value)
        assert [f"model.attention.{index}.window = 4; expected unset" in told for index in range(4)] == [True] * 3 + [
            False
        ]
        assert f"{program} has one position for all layers, and model.position is a list of 2" in told
        assert "model.norm.1.eps = 1e-06" in told or "one norm for all layers, and model.norm is a list of 2" in told


def test_a_model_that_gpt2_is_not_is_refused_with_each_reason(tiny: Path, tmp_path: Path) -> None:
    options = [
        "model.position=rope",
        "model.norm=rmsnorm",
        "model.n_kv_head=1",
        'model.attention={use="sdpa", window=4}',
    ]
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=1", "sample.num_samples=0", *options]))
    run = load_run("tiny")
    with pytest.raises(KitError) as refused:
        export_model(run.experiment, run.model, run.encoder, "huggingface", tmp_path / "hf")
    for told in ("position.use = 'rope'", "norm.use = 'rmsnorm'", "n_kv_head = 1", "attention.window = 4"):
        assert told in str(refused.value)
    assert not (tmp_path / "hf").exists()
    assert not list(tmp_path.glob(".hf*"))


def test_a_window_over_the_whole_context_is_none() -> None:
    """As at the end of a schedule."""
    options = {"block_size": 16, "attention": [{"use": "sdpa", "window": 16}, {"use": "sdpa", "window": 15}]}
    [found] = inexpressible_options("GPT-2", {"block_size": None}, options)
    assert "model.attention.1.window = 15" in found


def test_an_export_is_read_with_the_tokenizer_of_a_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["tokenizer={use='bpe', vocab_size=300}", "train.steps=1", "callback=[]", "sample.num_samples=0"]
    session.run(Experiment.load(tiny, options))
    run = load_run("tiny")
    with caplog.at_level("INFO"):
        export_model(run.experiment, run.model, run.encoder, "huggingface", tmp_path / "out")
    assert "--format safetensors includes it" in caplog.text
    monkeypatch.delattr(BPEEncoder, "published")  # nothing is downloaded
    with pytest.raises(KitError, match=r"gpt2 has 50,257 tokens, but the model of .* has 300; .*from_run=RUN"):
        load_run(tmp_path / "out")
    loaded = load_run(tmp_path / "out", overrides=["tokenizer.use=bpe", "tokenizer.from_run=tiny"])
    assert loaded.encoder.state() == run.encoder.state()


def test_an_export_never_overwrites(tiny: Path, tmp_path: Path, command: Callable[..., object]) -> None:
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=1", "sample.num_samples=0"]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("all of it")
    answer = command("export", "tiny", tmp_path / "full", "--format", "safetensors")
    assert (answer.code, f"{tmp_path / 'full'} already exists" in answer.err) == (2, True)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "all of it"


def test_weights_in_several_files_are_read_as_one(tmp_path: Path) -> None:
    theirs = gpt2(tmp_path / "hf", **SMALL)
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    import_run(str(tmp_path / "parts"), "mine", BYTE)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(load_run("mine").model(ids), theirs(ids).logits, rtol=0, atol=1e-4)
    (tmp_path / "parts" / "model.safetensors.index.json").unlink()
    with pytest.raises(KitError, match=r"00001-of-.*; copy their model\.safetensors\.index\.json"):
        import_run(str(tmp_path / "parts"), "mine", BYTE)


def changed_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def left_out(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "h.1.ln_2" not in k}, path)


BROKEN = {
    "another architecture": (lambda hf: changed_config(hf, model_type="llama"), "model of type 'llama'.*, nanogpt"),
    "a size that is missing": (lambda hf: changed_config(hf, n_head=None), "config.json: n_head is missing"),
    "an unknown activation": (
        lambda hf: changed_config(hf, activation_function="mish"),
        "activation_function = 'mish'",
    ),
    "a network of another kind": (
        lambda hf: changed_config(hf, scale_attn_by_inverse_layer_idx=True),
        "scale_attn_by_inverse_layer_idx = True .*another network",
    ),
    "a configuration that is not a file": (
        lambda hf: ((hf / "config.json").unlink(), (hf / "config.json").mkdir()),
        "config.json cannot be read: ",
    ),
    "weights that are not a file": (
        lambda hf: ((hf / "model.safetensors").unlink(), (hf / "model.safetensors").mkdir()),
        "hf lacks model.safetensors, as a regular file",
    ),
    "an index with a name that no file can have": (
        lambda hf: (
            (hf / "model.safetensors").unlink(),
            (hf / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "b" * 300}})),
        ),
        "lacks b+, which its model.safetensors.index.json names",
    ),
    "a configuration without a type": (lambda hf: changed_config(hf, model_type=None), 'add "model_type": "gpt2"'),
    "no JSON": (lambda hf: (hf / "config.json").write_text("{"), "config.json cannot be read"),
    "no configuration": (lambda hf: (hf / "config.json").unlink(), r"huggingface \(a folder with config\.json"),
    "half of the weights": (lambda hf: cut(hf / "model.safetensors"), r"model\.safetensors is not a complete"),
    "pickled weights": (
        lambda hf: (hf / "model.safetensors").rename(hf / "pytorch_model.bin"),
        r"\.safetensors .*pickles, which can run code",
    ),
    "a tensor that is missing": (left_out, "h.1.ln_2.weight is missing; h.1.ln_2.bias is missing"),
    "more layers than there are": (lambda hf: changed_config(hf, n_layer=4), "n_layer = 4, .* 3 layers"),
    "another width": (
        lambda hf: changed_config(hf, n_embd=44),
        r"h.0.attn.c_attn.weight is \[144, 48\] there and \[132, 44\]",
    ),
}


@pytest.mark.parametrize(("damage", "told"), BROKEN.values(), ids=BROKEN)
def test_what_is_not_a_whole_gpt2_is_named(tmp_path: Path, damage: Callable[[Path], None], told: str) -> None:
    gpt2(tmp_path / "hf", **SMALL)
    damage(tmp_path / "hf")
    with pytest.raises(KitError, match=told):
        import_run(str(tmp_path / "hf"), "mine", BYTE)
    assert not runs_root().exists() or not list(runs_root().glob("*/*"))


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (97, "byte has 257 tokens, but the model of .* has 97"),
        (900, "byte has 257 tokens, but the model of .* has 900"),
    ],
)
def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path, tokens: int, told: str) -> None:
    gpt2(tmp_path / "hf", **{**SMALL, "vocab_size": tokens})
    with pytest.raises(KitError, match=told):
        import_run(str(tmp_path / "hf"), "mine", BYTE)


def test_a_source_that_is_nothing_is_told_with_the_nearest_name(command: Callable[..., object]) -> None:
    answer = command("import", "gpt2-larg")
    assert answer.code == 2
    assert "did you mean 'gpt2-large'?" in answer.err


def test_without_a_network_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(KitError, match=r"gpt2-xl cannot be downloaded .*config\.json and model\.safetensors .*import"):
        import_run("gpt2-xl")


def test_an_imported_run_writes_is_found_by_name_and_is_not_resumed(
    tmp_path: Path, command: Callable[..., object]
) -> None:
    gpt2(tmp_path / "hf", **SMALL)
    folder = import_run(str(tmp_path / "hf"), overrides=BYTE)
    assert find_run("hf").folder == folder
    assert folder.status().state == "finished"
    assert "imported" in json.loads((folder.path / "provenance.json").read_text())
    assert command("sample", "hf", "--max-new-tokens", "5", "--prompt", "abc").out.startswith("abc")
    answer = command("run", folder.experiment, "--resume", folder)
    assert answer.code == 2
    assert f"was imported, not trained; model.init_from={folder} starts from it" in answer.err


def test_tokens_that_the_tokenizer_does_not_know_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gpt2(tmp_path / "hf", **{**SMALL, "vocab_size": 260})
    import_run(str(tmp_path / "hf"), "mine", BYTE)
    assert f"{tmp_path / 'hf'} has 3 tokens that byte" in caplog.text


def test_a_missing_part_of_the_weights_is_named(tmp_path: Path) -> None:
    gpt2(tmp_path / "hf", **SMALL).save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    lost = sorted((tmp_path / "parts").glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(KitError, match=f"lacks {lost.name}, .*model.safetensors.index.json"):
        import_run(str(tmp_path / "parts"), "mine", BYTE)


def two_heads(folder: Path, name: str = "lm_head.weight") -> torch.nn.Module:
    """A GPT-2 whose head is its own, as `name`, while its config.json says that it is the embedding."""
    gpt2(folder, **SMALL)
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, name: weights["transformer.wte.weight"].flip(1) * 1.5}, path)
    return transformers.GPT2LMHeadModel.from_pretrained(folder).eval()


def logits_agree(theirs: torch.nn.Module, run: str) -> bool:
    ids = torch.arange(2 * 31).view(2, 31)
    with torch.no_grad():
        return torch.allclose(load_run(run).model(ids), theirs(ids).logits, rtol=0, atol=1e-4)


def test_a_head_that_is_not_the_embedding_is_imported_and_exported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = two_heads(tmp_path / "hf")
    import_run(str(tmp_path / "hf"), "mine", BYTE)
    assert "weight_tying = false" in caplog.text
    assert logits_agree(theirs, "mine")
    ours = load_run("mine")
    export_model(ours.experiment, ours.model, ours.encoder, "huggingface", tmp_path / "back")
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "back").eval()
    assert torch.equal(back.lm_head.weight, theirs.lm_head.weight)
    assert not torch.equal(back.lm_head.weight, back.transformer.wte.weight)
    with pytest.raises(KitError, match=r"model\.weight_tying = False"):
        export_model(ours.experiment, ours.model, ours.encoder, "nanogpt", tmp_path / "nanogpt")
    with pytest.raises(KitError, match=r"lm_head\.weight"):
        import_run(str(tmp_path / "hf"), "tied", [*BYTE, "model.weight_tying=true"])


@pytest.mark.parametrize("kept", ["lm_head.weight", "transformer.wte.weight"])
def test_a_tied_matrix_may_have_either_name(tmp_path: Path, kept: str) -> None:
    theirs = gpt2(tmp_path / "hf", **SMALL)
    path = tmp_path / "hf" / "model.safetensors"
    weights = load_file(path)
    weights[kept] = weights.pop("transformer.wte.weight")
    save_file(weights, path)
    import_run(str(tmp_path / "hf"), "mine", BYTE)
    assert logits_agree(theirs, "mine")
    assert load_run("mine").experiment.model.weight_tying


def test_an_export_as_tied_proves_that_it_is(tiny: Path, tmp_path: Path) -> None:
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=1", "sample.num_samples=0"]))
    run = load_run("tiny")
    run.model.lm_head.weight = torch.nn.Parameter(run.model.wte.weight * 2)
    for form in ("huggingface", "nanogpt"):
        with pytest.raises(KitError, match=r"lm_head\.weight"):
            export_model(run.experiment, run.model, run.encoder, form, tmp_path / "out")


def extra_file(folder: Path, name: str, factor: float = 3.0) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({key: value * factor for key, value in weights.items()}, folder / name)


def test_the_files_that_transformers_reads_are_read_and_the_others_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = gpt2(tmp_path / "hf", **SMALL)
    for name in ("a.safetensors", "model_step100.safetensors"):
        extra_file(tmp_path / "hf", name)
    (tmp_path / "hf" / "pytorch_model.bin").write_bytes(b"old")
    index = {"weight_map": {"wte.weight": "a.safetensors"}}
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps(index))
    folder = import_run(str(tmp_path / "hf"), "mine", BYTE)
    assert logits_agree(theirs, "mine")
    for name in ("a.safetensors", "model_step100.safetensors", "pytorch_model.bin"):
        assert name in caplog.text
    assert list(json.loads((folder.path / "provenance.json").read_text())["imported"]["files"]) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_single_file_of_any_name_is_the_model(tmp_path: Path) -> None:
    theirs = gpt2(tmp_path / "hf", **SMALL)
    (tmp_path / "hf" / "model.safetensors").rename(tmp_path / "hf" / "mine.safetensors")
    import_run(str(tmp_path / "hf"), "mine", BYTE)
    assert logits_agree(theirs, "mine")


def several(hf: Path) -> None:
    extra_file(hf, "b.safetensors")
    (hf / "model.safetensors").rename(hf / "a.safetensors")


def indexed(hf: Path, *names: str) -> None:
    (hf / "model.safetensors").rename(hf / "a.safetensors")
    parts = {str(at): name for at, name in enumerate(names)}
    (hf / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))


def with_tensor(hf: Path, name: str, value: torch.Tensor) -> None:
    save_file({**load_file(hf / "model.safetensors"), name: value}, hf / "model.safetensors")


def twice(hf: Path) -> None:
    extra_file(hf, "b.safetensors")
    indexed(hf, "a.safetensors", "b.safetensors")


def header(hf: Path, values: bytes, size: int | None = None, body: bytes = b"") -> None:
    content = struct.pack("<Q", len(values) if size is None else size) + values + body
    (hf / "model.safetensors").write_bytes(content)


EMPTY_SHAPE = b'{"a":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]}}'
REFUSED = {
    "a key that is not known": (lambda hf: changed_config(hf, rope_theta=1e4), "rope_theta = 10000.0"),
    "a key of code": (lambda hf: changed_config(hf, auto_map={"AutoModel": "evil.Evil"}), "auto_map"),
    "quantized weights": (lambda hf: changed_config(hf, quantization_config={"bits": 4}), "quantization_config"),
    "another mask": (lambda hf: changed_config(hf, n_ctx=100), "n_ctx = 100 .* 240"),
    "two names of a size": (lambda hf: changed_config(hf, hidden_size=47), "hidden_size = 47, .*n_embd = 48"),
    "pruned heads": (lambda hf: changed_config(hf, pruned_heads={"0": [1]}), "pruned_heads"),
    "another vocabulary": (lambda hf: changed_config(hf, vocab_size=300), "vocab_size is 300, .* 257 rows"),
    "a size of text": (lambda hf: changed_config(hf, n_inner="wide"), "n_inner = 'wide'"),
    "a size that is true": (lambda hf: changed_config(hf, n_layer=True), "n_layer = True"),
    "no features": (lambda hf: changed_config(hf, n_embd=0), "n_embd = 0"),
    "absurd features": (lambda hf: changed_config(hf, n_inner=10**400), "n_inner = an integer of more than 30 digits"),
    "a list of dropouts": (lambda hf: changed_config(hf, attn_pdrop=[0.1]), "attn_pdrop"),
    "a dropout that is no number": (lambda hf: changed_config(hf, attn_pdrop=float("nan")), "attn_pdrop = nan"),
    "an object for an activation": (lambda hf: changed_config(hf, activation_function={}), "activation_function"),
    "a text that ties": (lambda hf: changed_config(hf, tie_word_embeddings="no"), "tie_word_embeddings = 'no'"),
    "deep JSON": (lambda hf: (hf / "config.json").write_text("[" * 100_000), r"config\.json cannot be read"),
    "JSON that is not UTF-8": (
        lambda hf: (hf / "config.json").write_bytes(b'{"a": "\xff"}'),
        r"config\.json cannot be",
    ),
    "an adapter": (lambda hf: (hf / "adapter_config.json").write_text("{}"), r"adapter_config\.json"),
    "several files": (several, r"a\.safetensors, b\.safetensors"),
    "a file of the index elsewhere": (lambda hf: indexed(hf, "../a.safetensors"), r"'\.\./a\.safetensors'"),
    "a damaged index": (lambda hf: indexed(hf) or (hf / "model.safetensors.index.json").write_text("[]"), "index.json"),
    "a tensor of two values": (twice, r"b\.safetensors .* differs"),
    "another mask in the file": (
        lambda hf: with_tensor(hf, "transformer.h.1.attn.bias", torch.ones(1, 1, 9, 9)),
        r"h\.1\.attn\.bias is not the causal mask",
    ),
    "a mask of a layer that is none": (
        lambda hf: with_tensor(hf, "transformer.h.1.crossattention.bias", torch.ones(1, 1, 9, 9).tril()),
        r"h\.1\.crossattention\.bias is not a tensor of the model",
    ),
    "scores that still count": (
        lambda hf: with_tensor(hf, "h.1.attn.masked_bias", torch.tensor(-1.0)),
        r"h\.1\.attn\.masked_bias",
    ),
    "a bias of the head": (
        lambda hf: with_tensor(hf, "lm_head.bias", torch.ones(257)),
        r"lm_head\.bias is not a tensor of the model",
    ),
    "a head of another size": (
        lambda hf: with_tensor(hf, "lm_head.weight", torch.ones(300, 48)),
        r"lm_head\.weight is \[\d+, 48\] there",
    ),
    "a tensor that nobody has": (
        lambda hf: with_tensor(hf, "score.weight", torch.ones(2, 48)),
        r"score\.weight is not a tensor of the model",
    ),
    "two of a name": (lambda hf: with_tensor(hf, "ln_f.bias", torch.ones(48)), r"transformer\.ln_f\.bias.* differ"),
    "numbers that are none": (
        lambda hf: with_tensor(hf, "transformer.ln_f.bias", torch.full((48,), torch.nan)),
        r"NaN or infinity: ln_f\.bias",
    ),
    "bytes that need scales": (
        lambda hf: with_tensor(hf, "transformer.ln_f.bias", torch.ones(48, dtype=torch.int8)),
        r"ln_f\.bias .*torch\.int8",
    ),
    "a huge header": (lambda hf: header(hf, b"{}", 2**60), r"model\.safetensors is not a complete"),
    "a deep header": (lambda hf: header(hf, b'{"a":' + b"[" * 99999), r"model\.safetensors is not a complete"),
    "an absurd shape": (lambda hf: header(hf, EMPTY_SHAPE), r"model\.safetensors is not a complete"),
    "no tensors": (lambda hf: header(hf, b"{}"), r"no matrix .*wte\.weight"),
}


@pytest.mark.parametrize(("damage", "named"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_accounted_for_is_refused_by_name(
    tmp_path: Path, damage: Callable[[Path], object], named: str
) -> None:
    gpt2(tmp_path / "hf", **SMALL)
    damage(tmp_path / "hf")
    with pytest.raises(KitError, match=named):
        import_run(str(tmp_path / "hf"), "mine", BYTE)
    assert not runs_root().exists() or not list(runs_root().glob("*/*"))


def test_the_buffers_and_keys_of_old_files_change_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = gpt2(tmp_path / "hf", **SMALL)
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    for layer in range(SMALL["n_layer"]):
        mask = torch.ones(1, 1, 240, 240, dtype=torch.bool).tril()
        weights |= {f"transformer.h.{layer}.attn.bias": mask, f"h.{layer}.attn.masked_bias": torch.tensor(-1e4)}
    save_file(weights, tmp_path / "hf" / "model.safetensors")
    changed_config(tmp_path / "hf", n_ctx=240, output_past=True, task_specific_params={}, attn_pdrop=0.2)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["num_hidden_layers"] = config.pop("n_layer")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    import_run(str(tmp_path / "hf"), "mine", BYTE)
    assert logits_agree(theirs, "mine")
    assert "attn_pdrop = 0.2" in caplog.text


def test_the_config_of_published_gpt2_medium_and_of_its_offspring_is_known(tmp_path: Path) -> None:
    theirs = gpt2(tmp_path / "hf", **SMALL)
    changed_config(tmp_path / "hf", n_special=0, predict_special_tokens=True, n_ctx=240, reorder_and_upcast_attn=True)
    changed_config(tmp_path / "hf", tf_legacy_loss=False, xla_device=True, license="mit", author="somebody")
    with_tensor(tmp_path / "hf", "h.0.attn.masked_bias", torch.tensor(-1e4, dtype=torch.bfloat16))
    import_run(str(tmp_path / "hf"), "mine", BYTE)
    assert logits_agree(theirs, "mine")
    changed_config(tmp_path / "hf", n_special=3)
    with pytest.raises(KitError, match="n_special = 3"):
        import_run(str(tmp_path / "hf"), "mine", BYTE)


@pytest.mark.parametrize("name", ["gelu_fast", "gelu_python", "gelu_pytorch_tanh"])
def test_other_names_of_the_activation_are_known(tmp_path: Path, name: str) -> None:
    theirs = gpt2(tmp_path / "hf", **SMALL, activation_function=name)
    import_run(str(tmp_path / "hf"), "mine", BYTE)
    assert logits_agree(theirs, "mine")


def test_every_key_that_transformers_writes_is_known(tmp_path: Path) -> None:
    gpt2(tmp_path / "hf", **SMALL)
    changed_config(tmp_path / "hf", **transformers.GPT2Config(**SMALL).to_dict())
    import_run(str(tmp_path / "hf"), "mine", BYTE)


def test_a_tokenizer_that_would_learn_from_other_text_is_refused(tmp_path: Path) -> None:
    gpt2(tmp_path / "hf", **SMALL)
    with pytest.raises(KitError, match=r"tokenizer: char learns its tokens from text, .*hf"):
        import_run(str(tmp_path / "hf"), "mine", ["tokenizer.use=char"])


def letters(folder: Path, *tokens: str) -> Path:
    """A tokenizer.json of GPT-2's letters in their order, with `tokens` in front."""
    vocabulary = [*tokens, *sorted(BPEEncoder.letters)]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE({token: number for number, token in enumerate(vocabulary)}, [])
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def test_a_tokenizer_file_comes_along(tmp_path: Path) -> None:
    gpt2(tmp_path / "hf", **SMALL)
    file = letters(tmp_path / "hf", "<|endoftext|>")
    import_run(str(tmp_path / "hf"), "mine", ["tokenizer.use=huggingface", f"tokenizer.file={file}"])
    file.unlink()
    encoder = load_run("mine").encoder
    assert (encoder.vocab_size, encoder.eot_id) == (257, 0)
    assert encoder.decode(encoder.encode_batch(["a snow\u2603man"])[0]) == "a snow\u2603man"


@pytest.mark.parametrize("own", ["tokenizer.json", "vocab.json", "unigram"])
def test_a_tokenizer_that_numbers_other_tokens_than_the_models_is_refused(
    tmp_path: Path, gpt2_vocabulary: None, own: str
) -> None:
    gpt2(tmp_path / "hf", **OTHER)
    file = letters(tmp_path / "hf", "<pad>")
    vocabulary = json.loads(file.read_text())["model"]["vocab"]
    if own == "unigram":
        file.write_text(json.dumps({"model": {"type": "Unigram", "vocab": [[token, -1.0] for token in vocabulary]}}))
    elif own == "vocab.json":
        file.unlink()
        (tmp_path / "hf" / own).write_text(json.dumps(vocabulary))
    with pytest.raises(KitError, match=r"token 0 is '<pad>' in .*tokenizer\.file=\S+tokenizer\.json"):
        import_run(str(tmp_path / "hf"), "mine")
    letter_of = {byte: letter for letter, byte in BPEEncoder.letters.items()}
    known = BPEEncoder.published("gpt2", None)
    ours = {"".join(map(letter_of.__getitem__, known.decode_bytes([number]))): number for number in range(25)}
    (tmp_path / "hf" / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {**ours, "<|endoftext|>": 50_256, "<pad>": 50_257}}})
    )
    import_run(str(tmp_path / "hf"), "mine")


def test_a_full_disk_leaves_no_run_and_no_export(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., object]
) -> None:
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=1", "sample.num_samples=0"]))
    gpt2(tmp_path / "hf", **SMALL)

    def full(*words: object, **options: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr("nanogpt_kit.checkpoint.store.save_model", full)
    monkeypatch.setattr("nanogpt_kit.components.format.huggingface.save_file", full)
    answer = command("import", tmp_path / "hf", "mine", *BYTE)
    assert (answer.code, "cannot be written: No space left" in answer.err) == (2, True)
    assert not list((runs_root() / "mine").iterdir())
    monkeypatch.setattr("nanogpt_kit.components.format.safetensors.save_model", full)
    for form in ("huggingface", "safetensors"):
        answer = command("export", "tiny", tmp_path / "out", "--format", form)
        assert (answer.code, "cannot be written: No space left" in answer.err) == (2, True)
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".out*"))


def test_an_import_that_is_killed_leaves_nothing_that_is_taken_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpt2(tmp_path / "hf", **SMALL)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("nanogpt_kit.interop.importing.write_atomically", killed)
        patched.setattr("nanogpt_kit.interop.importing.shutil.rmtree", lambda *_, **__: None)  # nobody cleans up
        with pytest.raises(KeyboardInterrupt):
            import_run(str(tmp_path / "hf"), "mine", BYTE)
    (left,) = (runs_root() / "mine").iterdir()
    assert (left / "checkpoints").exists()
    with pytest.raises(KitError, match="no run"):
        find_run("mine")


def test_a_folder_of_any_name_gets_a_name_that_a_run_may_have(tmp_path: Path) -> None:
    gpt2(tmp_path / "my models (1)", **SMALL)
    assert import_run(str(tmp_path / "my models (1)"), overrides=BYTE).path.parent.name == "my-models-1"


def test_an_attention_of_somebody_else_is_not_exported_as_gpt2s(tiny: Path, tmp_path: Path) -> None:
    tiny.with_name("loud.py").write_text(
        '"""Three times the values."""\nfrom torch import nn\nfrom nanogpt_kit.api import Attention\n'
        "class Loud(Attention):\n    def build(self, ctx):\n        return Thrice()\n"
        "class Thrice(nn.Module):\n    def forward(self, q, k, v, view):\n        return 3 * v\n"
    )
    options = ["callback=[]", "train.steps=1", "sample.num_samples=0", "components=['loud.py']", "model.attention=loud"]
    session.run(Experiment.load(tiny, options))
    run = load_run("tiny")
    for form in ("huggingface", "nanogpt"):
        with pytest.raises(KitError, match=r"softmax attention, .*'loud'"):
            export_model(run.experiment, run.model, run.encoder, form, tmp_path / "out")
    export_model(run.experiment, run.model, run.encoder, "safetensors", tmp_path / "out")
    assert Experiment.load(tmp_path / "out" / "experiment.toml").resolved()["model"]["attention"]["use"] == "loud"


def test_an_attention_computes_what_its_base_class_does_unless_it_builds_another_module() -> None:
    class Windowed(SDPA):
        window: int | None = 3

    class Other(SDPA):
        def build(self, ctx: LayerContext) -> nn.Module:
            raise NotImplementedError

    class Kernel(SDPA):
        computed_function = "softmax"

        def build(self, ctx: LayerContext) -> nn.Module:
            raise NotImplementedError

    assert [found.computed_function for found in (SDPA, Windowed, Other, Kernel)] == [
        "softmax",
        "softmax",
        None,
        "softmax",
    ]


def test_meta_belongs_to_nanogpts_checkpoints(tmp_path: Path, command: Callable[..., object]) -> None:
    gpt2(tmp_path / "hf", **SMALL)
    answer = command("import", tmp_path / "hf", f"format.meta={tmp_path / 'meta.pkl'}")
    assert answer.code == 2
    assert "command line: format.meta: unknown key" in answer.err
    assert "Allowed: dtype" in answer.err


def test_weights_may_be_exported_in_half_precision(tiny: Path, tmp_path: Path, command: Callable[..., object]) -> None:
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=1", "sample.num_samples=0"]))
    run = load_run("tiny")
    export_model(run.experiment, run.model, run.encoder, "huggingface", tmp_path / "whole")
    export_model(run.experiment, run.model, run.encoder, "huggingface", tmp_path / "half", ["format.dtype=bf16"])
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "half").eval()
    assert theirs.dtype == torch.bfloat16
    for name, value in load_file(tmp_path / "whole" / "model.safetensors").items():
        assert torch.equal(theirs.state_dict()[name], value.bfloat16()), name
    ids = torch.arange(14)[None]
    with torch.no_grad():
        found = load_run(tmp_path / "half", overrides=BYTE).model(ids)
        torch.testing.assert_close(found, theirs.float()(ids).logits, rtol=0, atol=1e-5)
        run.model.ln_f.weight[0] = 1e6
    with pytest.raises(KitError, match=r"transformer\.ln_f\.weight .*too large for fp16; use format\.dtype=bf16"):
        export_model(run.experiment, run.model, run.encoder, "huggingface", tmp_path / "fp16", ["format.dtype=fp16"])
    assert not list(tmp_path.glob("*fp16*"))


def test_lists_that_no_layer_tells_apart_are_exported_and_others_refused(tiny: Path, tmp_path: Path) -> None:
    same = ["model.norm=['layernorm', {use='layernorm', eps=1e-5}]", "model.attention=['sdpa', 'naive']"]
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=1", "sample.num_samples=0", *same]))
    run = load_run("tiny")
    export_model(run.experiment, run.model, run.encoder, "huggingface", tmp_path / "hf")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    ids = torch.arange(14)[None]
    with torch.no_grad():
        torch.testing.assert_close(run.model(ids), theirs(ids).logits, rtol=0, atol=1e-5)
    others = [
        "model.norm=['layernorm', {use='layernorm', eps=1e-6}]",
        "model.attention=[{use='sdpa', window=5}, 'sdpa']",
        "model.mlp=['gelu', 'swiglu']",
        "model.position=['learned', 'learned']",
        "init={use='mup', base_width=12}",
    ]
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=1", "sample.num_samples=0", *others]))
    run = load_run("tiny")
    with pytest.raises(KitError) as refused:
        export_model(run.experiment, run.model, run.encoder, "huggingface", tmp_path / "other")
    for sentence in (
        "GPT-2 has one norm for all layers, and model.norm is a list of 2 with eps = 1e-05 and 1e-06",
        "GPT-2 cannot express model.attention.0.window = 5; expected unset",
        "GPT-2 has one position for all layers, and model.position is a list of 2",
        "GPT-2 cannot express model.mlp.1.use = 'swiglu'; expected 'gelu'",
        "GPT-2 cannot express init.use = 'mup', which multiplies logits by 0.5",
    ):
        assert sentence in str(refused.value)
    assert refused.value.__notes__ == ["the model can be exported with --format safetensors"]


def test_the_weights_of_a_loss_are_left_out_and_named(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.with_name("scaled.py").write_text(
        '"""The loss times a weight of its own."""\nimport torch\nfrom torch import nn\n'
        "from nanogpt_kit.api import Loss, linear_cross_entropy\n"
        "class Scaled(Loss):\n    def build(self, ctx):\n        return Scale()\n"
        "class Scale(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.factor = nn.Parameter(torch.ones(1))\n"
        "    def forward(self, *inputs):\n        return linear_cross_entropy(*inputs) * self.factor[0].detach()\n"
    )
    own = ["components=['scaled.py']", "model.loss=scaled"]
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=1", "sample.num_samples=0", *own]))
    run = load_run("tiny")
    caplog.set_level("INFO")
    export_model(run.experiment, run.model, run.encoder, "huggingface", tmp_path / "hf")
    assert "left out loss.factor: weights of model.loss, which only training uses" in caplog.text
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    ids = torch.arange(14)[None]
    with torch.no_grad():
        torch.testing.assert_close(run.model(ids), theirs(ids).logits, rtol=0, atol=1e-5)
    export_model(run.experiment, run.model, run.encoder, "safetensors", tmp_path / "own")
    assert torch.equal(load_run(tmp_path / "own").model.loss.factor, run.model.loss.factor)
