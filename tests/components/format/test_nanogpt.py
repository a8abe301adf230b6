"""nanoGPT's checkpoints in and out. The oracle is transformers' GPT-2, its weights written down as nanoGPT does."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.generate.load import load_run
from nanogpt_kit.interop.importing import import_run
from nanogpt_kit.train import session

transformers = pytest.importorskip("transformers")

LETTERS = "\n !XYZabcdefg\u2603"
SIZES = {"n_layer": 2, "n_head": 3, "n_embd": 36}
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def theirs() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        **SIZES, n_positions=20, vocab_size=len(LETTERS), activation_function="gelu", bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


def checkpoint(model: torch.nn.Module, prefix: str = "") -> dict[str, Any]:
    """As nanoGPT's train.py writes it: of a compiled model with the prefix `_orig_mod.`."""
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        weights[prefix + name] = value.t().contiguous() if name.endswith(TRANSPOSED) else value
    return {
        "model": weights,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
        "model_args": {**SIZES, "block_size": 20, "bias": True, "vocab_size": len(LETTERS), "dropout": 0.1},
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "letters", "device": "cpu", "compile": True},
    }


def saved(folder: Path, values: object) -> Path:
    """<folder>/out/ckpt.pt beside <folder>/data/letters/meta.pkl, as nanoGPT lays them."""
    (folder / "out").mkdir(parents=True)
    torch.save(values, folder / "out" / "ckpt.pt")
    meta = folder / "data" / "letters" / "meta.pkl"
    meta.parent.mkdir(parents=True)
    by_id = dict(enumerate(LETTERS))
    meta.write_bytes(
        pickle.dumps({"vocab_size": len(LETTERS), "itos": by_id, "stoi": {c: i for i, c in by_id.items()}})
    )
    return folder / "out" / "ckpt.pt"


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_an_imported_checkpoint_has_its_logits_and_its_characters(tmp_path: Path, prefix: str) -> None:
    model = theirs()
    values = checkpoint(model, prefix)
    values["model"][f"{prefix}transformer.h.0.attn.bias"] = torch.ones(1, 1, 20, 20).tril()  # without fused attention
    import_run(str(saved(tmp_path / "nanoGPT", values)))
    run = load_run("out")
    ids = torch.randint(0, len(LETTERS), (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(run.model(ids), model(ids).logits, rtol=0, atol=1e-5)
    assert run.encoder.decode([3, 7, 13]) == "Xb\u2603"
    assert run.experiment.model.dropout == 0.1


def test_a_head_of_its_own_is_imported_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = checkpoint(model := theirs())
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(1) * 1.5)
    values["model"]["lm_head.weight"] = model.lm_head.weight.detach()
    import_run(str(saved(tmp_path / "nanoGPT", values)))
    run, ids = load_run("out"), torch.arange(14)[None]
    with torch.no_grad():
        torch.testing.assert_close(run.model(ids), model(ids).logits, rtol=0, atol=1e-5)
    assert run.experiment.model.weight_tying is False
    assert "weight_tying = false" in caplog.text


def test_two_names_of_a_tensor_are_one_where_they_are_equal(tmp_path: Path) -> None:
    values = checkpoint(theirs())
    bias = values["model"]["transformer.ln_f.bias"]
    values["model"]["module.transformer.ln_f.bias"] = bias.clone()
    path = saved(tmp_path / "nanoGPT", values)
    import_run(str(path))
    values["model"]["module.transformer.ln_f.bias"] = bias + 1
    torch.save(values, path)
    with pytest.raises(KitError, match=r"transformer\.ln_f\.bias and module\.transformer\.ln_f\.bias differ"):
        import_run(str(path))


def test_an_imported_checkpoint_trains_on_and_goes_back(
    tiny: Path, text_file: Path, tmp_path: Path, command: Callable[..., object]
) -> None:
    text_file.write_text("abc!\nXYZ abd\u2603efg\n" * 400, encoding="utf-8")
    import_run(str(saved(tmp_path / "nanoGPT", checkpoint(theirs()))), "letters")
    options = ["callback=[]", "tokenizer=char", "model.bias=true", "model.init_from=letters", "model.n_embd=36"]
    folder = session.run(Experiment.load(tiny, [*options, "model.dropout=0.1", "sample.num_samples=0"]))
    assert folder.status().state == "finished"
    answer = command("export", folder, tmp_path / "back", "--format", "nanogpt")
    assert answer.code == 0, answer.err
    back = torch.load(tmp_path / "back" / "ckpt.pt", weights_only=True)
    expected = checkpoint(theirs())["model"]
    assert {name: value.shape for name, value in back["model"].items()} == {
        name: (value[:, :].shape if "wpe" not in name else torch.Size([16, 36])) if value.ndim == 2 else value.shape
        for name, value in expected.items()
    }
    assert back["model_args"] == {**SIZES, "block_size": 16, "bias": True, "dropout": 0.1, "vocab_size": len(LETTERS)}
    import_run(str(tmp_path / "back" / "ckpt.pt"), "again")  # its meta.pkl is beside it
    ids = torch.arange(14)[None]
    with torch.no_grad():
        assert torch.equal(load_run(folder.path).model(ids), load_run("again").model(ids))


def test_what_nanogpt_cannot_compute_is_not_exported_to_it(
    tiny: Path, tmp_path: Path, command: Callable[..., object]
) -> None:
    options = ['model.mlp={use="gelu", approximate="tanh"}', "model.weight_tying=false", "model.logit_softcap=15.0"]
    session.run(Experiment.load(tiny, ["callback=[]", "train.steps=1", "sample.num_samples=0", *options]))
    answer = command("export", "tiny", tmp_path / "back", "--format", "nanogpt")
    assert answer.code == 2
    for told in ("mlp.approximate = 'tanh'", "weight_tying = False", "logit_softcap = 15.0"):
        assert told in answer.err


class Hostile:
    """Unpickled, it would leave a file behind."""

    def __init__(self, mark: Path, by_shell: bool = False) -> None:
        self.call = (os.system, (f"touch {mark}",)) if by_shell else (Path.touch, (mark,))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("by_shell", [False, True], ids=["by Python", "by a shell"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, command: Callable[..., object], by_shell: bool
) -> None:
    mark = tmp_path / "ran"
    path = saved(tmp_path / "nanoGPT", {**checkpoint(theirs()), "config": Hostile(mark, by_shell)})
    answer = command("import", path)
    assert answer.code == 2
    assert f"{path} holds more than tensors and plain values" in answer.err
    assert "loading it would call " in answer.err
    assert "weights_only" not in answer.err  # torch's advice to run it
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps(Hostile(mark)))
    assert "is a bare pickle, which can run code" in command("import", bare).err
    path = saved(tmp_path / "other", checkpoint(theirs()))
    (tmp_path / "other" / "data" / "letters" / "meta.pkl").write_bytes(pickle.dumps({"itos": Hostile(mark)}))
    assert "is not a meta.pkl of nanoGPT's character-level data: it names" in command("import", path).err
    assert not mark.exists()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def garbled(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = b"PK" + bytes(len(content) // 2 - 2)
    path.write_bytes(content)


FOREIGN = {
    "truncated": (truncated, "truncated"),
    "garbled": (garbled, "damaged"),
    "text": (lambda path: path.write_text("ROMEO:"), "is not a torch checkpoint"),
    "empty": (lambda path: path.write_bytes(b""), "is not a torch checkpoint"),
    "another checkpoint": (lambda path: torch.save({"weights": {}}, path), "lacks `model` or `model_args`"),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), "not a checkpoint of nanoGPT: .* a Tensor"),
    "half of model_args": (
        lambda path: torch.save({"model": {}, "model_args": {"n_layer": 1, "n_head": 1}}, path),
        "model_args lacks n_embd, block_size, vocab_size",
    ),
    "no weights": (
        lambda path: torch.save({**checkpoint(theirs()), "model": {}}, path),
        "wte.weight",
    ),
    "a layer that is missing": (
        lambda path: torch.save({**checkpoint(theirs()), "model_args": {**SIZES, "n_layer": 3, **ROOM}}, path),
        "n_layer = 3, .* 2 layers",
    ),
}
ROOM = {"block_size": 20, "vocab_size": len(LETTERS), "bias": True}


@pytest.mark.parametrize(("damage", "told"), FOREIGN.values(), ids=FOREIGN)
def test_a_damaged_or_foreign_file_is_named_as_such(tmp_path: Path, damage: Callable[[Path], None], told: str) -> None:
    path = saved(tmp_path / "nanoGPT", checkpoint(theirs()))
    damage(path)
    with pytest.raises(KitError, match=told) as refused:
        import_run(str(path))
    assert str(path) in str(refused.value)


@pytest.mark.usefixtures("gpt2_vocabulary")
def test_characters_that_nobody_names_are_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "nanoGPT", checkpoint(theirs()))
    (tmp_path / "nanoGPT" / "data" / "letters" / "meta.pkl").rename(tmp_path / "meta.pkl")
    with pytest.raises(KitError, match=r"gpt2 has 50,257 tokens, but .* has 14; .* with format\.meta=data/<dataset>/"):
        import_run(str(path))
    import_run(str(path), "found", [f"format.meta={tmp_path / 'meta.pkl'}"])
    assert load_run("found").encoder.vocab_size == len(LETTERS)


CRAFTED = {
    "a name that is a number": lambda values: values["model"].update({5: torch.zeros(1)}),
    "a tensor that is none": lambda values: values["model"].update({"transformer.ln_f.weight": "one"}),
    "a sparse tensor": lambda values: values["model"].update({"transformer.ln_f.weight": torch.zeros(36).to_sparse()}),
    "complex numbers": lambda values: values["model"].update({"transformer.ln_f.weight": torch.zeros(36) * 1j}),
    "an embedding without columns": lambda values: values["model"].update({"transformer.wte.weight": torch.zeros(14)}),
    "a tensor without memory": lambda values: values["model"].update(
        {"transformer.ln_f.weight": torch.zeros(36, device="meta")}
    ),
    "a tensor of one number many times": lambda values: values["model"].update(
        {"transformer.wpe.weight": torch.zeros(1).expand(10**8, 36)}
    ),
    "a mask of another kind": lambda values: values["model"].update(
        {"transformer.h.0.attn.bias": torch.ones(1, 1, 20, 20)}
    ),
    "an option that is not nanoGPT's": lambda values: values["model_args"].update({"rope": True}),
    "a part that is not nanoGPT's": lambda values: values.update({"ema": {"a": torch.zeros(2)}}),
    "a bias that is text": lambda values: values["model_args"].update({"bias": "yes"}),
    "a size of 5000 digits": lambda values: values["model_args"].update({"n_embd": 10**5000}),
    "a size that is true": lambda values: values["model_args"].update({"n_layer": True}),
    "another vocabulary": lambda values: values["model_args"].update({"vocab_size": 15}),
    "more layers than memory": lambda values: values["model_args"].update({"n_layer": 10**9}),
    "more features than memory": lambda values: values["model_args"].update({"n_embd": 3 * 10**6}),
}


@pytest.mark.parametrize("craft", CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_checkpoint_is_a_sentence_too(tmp_path: Path, craft: Callable[[Any], None]) -> None:
    values = checkpoint(theirs())
    craft(values)
    with pytest.raises(KitError, match=r"ckpt.pt"):
        import_run(str(saved(tmp_path / "nanoGPT", values)))


def test_keys_that_nanogpt_does_not_have_are_refused_by_name(tmp_path: Path) -> None:
    values = {**checkpoint(theirs()), "ema": {}}
    values["model_args"] |= {"rope": True, "n_kv_head": 1}
    with pytest.raises(KitError) as refused:
        import_run(str(saved(tmp_path / "nanoGPT", values)))
    for named in ("'ema'", "rope = True", "n_kv_head = 1"):
        assert named in str(refused.value)


def test_a_file_that_unpacks_to_more_than_it_is_is_refused_before_that(tmp_path: Path) -> None:
    values = {**checkpoint(theirs()), "optimizer": torch.zeros(2_000_000)}
    path = saved(tmp_path / "nanoGPT", values)
    with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert (tmp_path / "bomb.pt").stat().st_size < 500_000
    with pytest.raises(KitError, match=r"bomb\.pt .* 8,\d{3},\d{3}"):
        import_run(str(tmp_path / "bomb.pt"), "bomb")


LETTERS_NOT = {"half a surrogate pair": {0: "\ud800"}, "a letter twice": {0: "a"}, "a number": {0: 5}}


@pytest.mark.parametrize("letters", LETTERS_NOT.values(), ids=LETTERS_NOT)
def test_characters_that_are_none_name_their_file(tmp_path: Path, letters: dict[int, object]) -> None:
    path = saved(tmp_path / "nanoGPT", checkpoint(theirs()))
    meta = tmp_path / "nanoGPT" / "data" / "letters" / "meta.pkl"
    meta.write_bytes(pickle.dumps({"itos": {**dict(enumerate(LETTERS)), **letters}}))
    with pytest.raises(KitError, match=r"meta\.pkl"):
        import_run(str(path))


@pytest.mark.usefixtures("gpt2_vocabulary")
def test_a_meta_that_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "nanoGPT", checkpoint(theirs()))
    meta = tmp_path / "nanoGPT" / "data" / "letters" / "meta.pkl"
    meta.unlink()
    os.mkfifo(meta)
    with pytest.raises(KitError, match=r"format\.meta="):
        import_run(str(path))
    with pytest.raises(KitError, match=r"meta\.pkl"):
        import_run(str(path), overrides=[f"format.meta={meta}"])


@pytest.mark.parametrize("config", ["abc", {"dataset": 5}, None], ids=str)
def test_a_strange_config_only_loses_the_characters(tmp_path: Path, config: object) -> None:
    path = saved(tmp_path / "nanoGPT", {**checkpoint(theirs()), "config": config})
    meta = tmp_path / "nanoGPT" / "data" / "letters" / "meta.pkl"
    import_run(str(path), "found", [f"format.meta={meta}"])
    assert load_run("found").encoder.vocab_size == len(LETTERS)


def test_numbers_and_words_that_a_fork_keeps_beside_the_model_are_left_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="nanogpt_kit")
    path = saved(tmp_path / "nanoGPT", {**checkpoint(theirs()), "loss": 1.5, "author": "me", "lucky": None})
    import_run(str(path), "mine")
    assert f"{path}: ignored 'loss', 'author', 'lucky'" in caplog.text
    path = saved(tmp_path / "forked", {**checkpoint(theirs()), "adapter": {"weight": torch.ones(2)}})
    with pytest.raises(KitError, match="'adapter' is not part of a checkpoint of nanoGPT"):
        import_run(str(path), "other")


def test_a_dataset_with_a_name_that_no_folder_can_have_has_no_tokens(tmp_path: Path) -> None:
    path = saved(tmp_path, {**checkpoint(theirs()), "config": {"dataset": "a" * 300}})
    with pytest.raises(KitError, match=r"format\.meta="):
        import_run(str(path), "mine")
