"""Run folders that a stranger made to harm, or a disk has damaged in ways that its hashes do not show.

Each is refused in a sentence that names the file, or is read as what it is: no traceback, nothing executed, nothing
written outside of it, no wait without end.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanogpt_kit.checkpoint import shards, store
from nanogpt_kit.system.reading import sha256_file

Victim = Any  # of conftest.py
VERBS = ("sample", "ema", "eval", "export", "check", "prepare", "into", "resume", "start", "again")
WEIGHTS = ("sample", "eval", "export", "into", "resume", "start")  # that read model.safetensors
STATE = ("ema", "into", "resume")  # that read training.pt
TOKENS = ("sample", "ema", "eval", "export", "start")  # that read tokenizer.json
GOES_ON = ("into", "resume")
NAMED = (*WEIGHTS, "ema", "check", "prepare", "again")  # that read experiment.toml
DEEP = "[" * 100_000 + "]" * 100_000


class Executed:
    """Leaves a file where its pickle is loaded as code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


@dataclass(frozen=True)
class Case:
    """What is done to the folder, the verbs that refuse it, and a word of what they say."""

    damage: Callable[[Victim], None]
    refusing: tuple[str, ...]
    says: str


def file(name: str, content: bytes | str) -> Callable[[Victim], None]:
    def write(victim: Victim) -> None:
        data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        (victim.path / name).write_bytes(data)

    return write


def in_checkpoint(name: str, content: bytes | str | Callable[[bytes], bytes]) -> Callable[[Victim], None]:
    """With a manifest whose hashes fit."""

    def write(victim: Victim) -> None:
        path = victim.checkpoint / name
        path.parent.mkdir(exist_ok=True)
        data = content(path.read_bytes()) if callable(content) else content
        path.write_bytes(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)
        rehash(victim.checkpoint)

    return write


def rehash(checkpoint: Path) -> None:
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != store.MANIFEST]
    hashes = {path.relative_to(checkpoint).as_posix(): sha256_file(path) for path in files}
    (checkpoint / store.MANIFEST).write_text(json.dumps({"format": 1, "step": 4, "files": hashes, "options": {}}))


def training(change: Callable[[dict[str, Any]], Any]) -> Callable[[Victim], None]:
    """What `change` returns, or the state that it changed, as the training state."""

    def write(victim: Victim) -> None:
        path = victim.checkpoint / store.TRAINING
        state = torch.load(path, weights_only=True)
        torch.save(change(state) or state, path)
        rehash(victim.checkpoint)

    return write


def averages(change: Callable[[dict[str, Any]], Any]) -> Callable[[Victim], None]:
    def of(state: dict[str, Any]) -> None:
        name = next(iter(state["callbacks"]))
        state["callbacks"][name]["weights"] = change(state["callbacks"][name]["weights"])

    return training(of)


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Victim], None]:
    def write(victim: Victim) -> None:
        path = victim.checkpoint / store.MODEL
        save_file(change(load_file(path)), path)
        rehash(victim.checkpoint)

    return write


def header(entry: dict[str, Any], size: int | None = None) -> bytes:
    """A safetensors file of four bytes of data."""
    text = json.dumps({"wte.weight": entry}).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + b"\0" * 4


def bomb(victim: Victim) -> None:
    path = victim.checkpoint / store.TRAINING
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    rehash(victim.checkpoint)


def sharded(metadata: bytes | None) -> Callable[[Victim], None]:
    """The checkpoint as processes that share a model write it, with another description of its shards."""

    def write(victim: Victim) -> None:
        at = victim.checkpoint
        found = load_file(at / store.MODEL)
        state = torch.load(at / store.TRAINING, weights_only=True)
        state["model"] = {name: {shards.PLACEHOLDER: f"model/{name}"} for name in found}
        torch.save(state, at / store.TRAINING)
        (at / store.MODEL).unlink()
        with pytest.warns(UserWarning, match="distributed"):
            shards.write_shards({f"model/{name}": value for name, value in found.items()}, at / store.SHARDS)
        if metadata is not None:
            (at / store.SHARDS / ".metadata").write_bytes(metadata)
        rehash(at)

    return write


def option(text: str) -> Callable[[Victim], None]:
    """In place of the line of the same key in experiment.toml."""

    def write(victim: Victim) -> None:
        path, key = victim.path / "experiment.toml", text.split(" = ")[0]
        lines = path.read_text().split("\n")
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"{key} = ")]
        path.write_text("\n".join([*lines[:at], text, *lines[at + 1 :]]))

    return write


def other_optimizer(state: dict[str, Any]) -> None:
    states = state["optimizer"]["state"]
    state["optimizer"]["state"] = dict(zip(states, reversed(list(states.values())), strict=True))


def absurd_shape(name: str, shape: list[int]) -> bytes:
    return header({"dtype": "F32", "shape": shape, "data_offsets": [0, 4]})


MODEL, TRAINING, TOKENIZER = store.MODEL, store.TRAINING, store.TOKENIZER
CASES = {
    "code in training.pt": Case(training(lambda state: {**state, "step": Executed()}), STATE, TRAINING),
    "a bare pickle as training.pt": Case(in_checkpoint(TRAINING, pickle.dumps(Executed())), STATE, TRAINING),
    "junk as training.pt": Case(in_checkpoint(TRAINING, b"\x93junk" * 100), STATE, TRAINING),
    "an empty training.pt": Case(in_checkpoint(TRAINING, b""), STATE, TRAINING),
    "half a training.pt": Case(in_checkpoint(TRAINING, lambda data: data[: len(data) // 2]), STATE, TRAINING),
    "a training.pt that grows": Case(bomb, STATE, TRAINING),
    "a list as training state": Case(training(lambda state: [state]), STATE, TRAINING),
    "no optimizer": Case(training(lambda state: state.pop("optimizer") and None), GOES_ON, "'optimizer'"),
    "an optimizer without state": Case(
        training(lambda state: state["optimizer"].pop("state") and None), GOES_ON, TRAINING
    ),
    "an optimizer of other groups": Case(
        training(lambda state: state["optimizer"]["param_groups"].pop() and None), GOES_ON, "groups"
    ),
    "a learning rate that is a word": Case(
        training(lambda state: state["optimizer"]["param_groups"][0].update(lr="high")), GOES_ON, "lr"
    ),
    "an optimizer of other parameters": Case(training(other_optimizer), GOES_ON, "step-00000004"),
    "a step that is a word": Case(training(lambda state: state.update(step="four")), GOES_ON, "step"),
    "options that are words": Case(
        training(lambda state: state.update(options={"model.attention.window": "open"})), GOES_ON, "options"
    ),
    "another step": Case(training(lambda state: state.update(step=3)), GOES_ON, "step"),
    "random numbers as a dict": Case(training(lambda state: state.update(rng={})), GOES_ON, "rng"),
    "random numbers of another kind": Case(training(lambda state: state.update(rng=[{"torch": 1}])), GOES_ON, TRAINING),
    "callbacks as a list": Case(training(lambda state: state.update(callbacks=[1])), STATE, TRAINING),
    "averages that are a list": Case(averages(list), STATE, TRAINING),
    "averages of another shape": Case(
        averages(lambda all: {name: value[:1] for name, value in all.items()}), STATE, ""
    ),
    "a header of 2**60 bytes": Case(in_checkpoint(MODEL, header({}, 2**60)), WEIGHTS, MODEL),
    "a tensor of 2**60 values": Case(in_checkpoint(MODEL, absurd_shape("", [2**30, 2**30])), WEIGHTS, MODEL),
    "offsets beyond the file": Case(
        in_checkpoint(MODEL, header({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]})), WEIGHTS, MODEL
    ),
    "an unknown dtype": Case(
        in_checkpoint(MODEL, header({"dtype": "F7", "shape": [1], "data_offsets": [0, 4]})), WEIGHTS, MODEL
    ),
    "an empty model.safetensors": Case(in_checkpoint(MODEL, b""), WEIGHTS, MODEL),
    "half a model.safetensors": Case(in_checkpoint(MODEL, lambda data: data[: len(data) // 2]), WEIGHTS, MODEL),
    "weights of other shapes": Case(
        weights(lambda all: {name: value[:1].contiguous() for name, value in all.items()}), WEIGHTS, "in the model"
    ),
    "weights of integers": Case(
        weights(lambda all: {name: value.long() for name, value in all.items()}), WEIGHTS, "int64"
    ),
    "code in shards/.metadata": Case(sharded(pickle.dumps(Executed())), WEIGHTS, "shards"),
    "junk as shards/.metadata": Case(sharded(b"junk"), WEIGHTS, "shards"),
    "shards as they are": Case(sharded(None), (), ""),
    "tokenizer.json null": Case(in_checkpoint(TOKENIZER, "null"), TOKENS, TOKENIZER),
    "an empty tokenizer.json": Case(in_checkpoint(TOKENIZER, ""), TOKENS, TOKENIZER),
    "a tokenizer without state": Case(in_checkpoint(TOKENIZER, '{"use": "byte"}'), TOKENS, TOKENIZER),
    "a tokenizer whose state is a number": Case(in_checkpoint(TOKENIZER, '{"state": 1}'), TOKENS, TOKENIZER),
    "a deep tokenizer.json": Case(in_checkpoint(TOKENIZER, DEEP), TOKENS, TOKENIZER),
    "a deep manifest": Case(file("checkpoints/step-00000004/manifest.json", DEEP), (), ""),
    "a manifest whose files are a list": Case(file("checkpoints/step-00000004/manifest.json", '{"files": []}'), (), ""),
    "a deep status.json": Case(file("status.json", DEEP), (), ""),
    "words in status.json": Case(
        file("status.json", '{"state": "finished", "seconds": "many", "total_steps": [], "reason": 1}'), (), ""
    ),
    "a deep provenance.json": Case(file("provenance.json", DEEP), GOES_ON, "provenance.json"),
    "a list as provenance.json": Case(file("provenance.json", "[1]"), GOES_ON, "provenance.json"),
    "deep metrics": Case(file("metrics.jsonl", DEEP + "\n"), GOES_ON, "metrics.jsonl"),
    "samples that are not UTF-8": Case(file("samples.txt", b"\xff\xfe" * 100), (), ""),
    "an experiment that is not UTF-8": Case(file("experiment.toml", b'name = "\xff"'), NAMED, "experiment.toml:1"),
    "a deep experiment": Case(file("experiment.toml", f"a = {DEEP}"), NAMED, "experiment.toml:1"),
    "n_embd = 1e9": Case(option("n_embd = 1000000000"), NAMED, "model.n_embd"),
    "n_layer = 1e8": Case(option("n_layer = 100000000"), NAMED, "model.n_layer"),
    "a terminal's escapes": Case(option('name = "\\u001b]0;x\\u0007"'), NAMED, "name"),
}


def told(victim: Victim, verb: str, case: Case) -> None:
    answer = victim.answer(verb)
    allowed = {1, 2} if verb in case.refusing else {0, 1, 2}
    assert answer.code in allowed, answer.err
    assert "Traceback" not in answer.err
    assert "\x1b" not in answer.err + answer.out
    assert answer.code == 0 or answer.err.count("\n") < 20
    if verb in case.refusing:
        assert case.says in answer.err


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_run_is_refused_by_what_reads_it(name: str, victim: Victim) -> None:
    """By one verb each; all of them take a minute."""
    case = CASES[name]
    case.damage(victim)
    told(victim, case.refusing[-1] if case.refusing else "into", case)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", CASES)
def test_a_hostile_run_goes_through_every_verb_in_sentences(name: str, verb: str, victim: Victim) -> None:
    case = CASES[name]
    case.damage(victim)
    told(victim, verb, case)
