"""Blocks of the maps: the index of concepts, the glossary of the kit, and the interactions of components."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import tomli
from drawing.code_facts import PACKAGE, ROOT, imported_modules

from blocks.code_blocks import definition, lines_of
from blocks.markdown_tables import table
from nanogpt_kit.core import kinds
from nanogpt_kit.core.class_source import first_sentence

CONCEPTS = ROOT / "docs" / "maps" / "concepts.toml"
TAGS = ("architecture", "training", "data", "generation", "implementation")
# Kind: where the kit calls its components, as (file, definition, the call)
CALLS: dict[str, list[tuple[str, str, str]]] = {
    "dataset": [("data/chunks.py", "source_chunks", ".documents_with_split()")],
    "tokenizer": [
        ("data/encode.py", "encode_chunk", ".encode_batch("),
        ("generate/generator.py", "TextGenerator.generate_batches", "StreamedText(self.encoder"),
    ],
    "order": [("data/batches.py", "Batches.starts", ".order.starts(")],
    "model": [
        ("train/trainer.py", "Trainer.accumulate", "self.parallel(*windows)"),
        ("generate/decoding_model.py", "DecodingModel.run_eager", "self.model("),
    ],
    "init": [("nn/initial_weights.py", "build_initialized", ".init.apply(")],
    "mixer": [("components/model/gpt.py", "Block.forward", "self.attn(")],
    "attention": [("components/mixer/softmax.py", "SelfAttention.forward", "self.attention(")],
    "position": [
        ("components/model/gpt.py", "Transformer.features", ".embed("),
        ("components/mixer/softmax.py", "SelfAttention.forward", ".rotate("),
    ],
    "norm": [
        ("components/model/gpt.py", "Block.forward", "self.ln_1("),
        ("components/model/gpt.py", "Transformer.forward", "self.ln_f("),
    ],
    "mlp": [("components/model/gpt.py", "Block.forward", "self.mlp(")],
    "loss": [("components/model/gpt.py", "Transformer.forward", "self.loss(")],
    "optimizer": [
        ("nn/optimizers.py", "build_optimizer", ".optimizer.build("),
        ("train/trainer.py", "Trainer.update", "self.scaler.step(self.optimizer)"),
    ],
    "schedule": [("train/schedules.py", "Schedules.apply", "checked_multiplier(")],
    "parallel": [
        ("train/setup.py", "Setup.parallel_model", ".parallel.wrap("),
        ("train/trainer.py", "Trainer.update", "self.parallel.clip("),
    ],
    "sampler": [("generate/decode.py", "Decoder.transform", "sampler.transform(")],
    "evaluator": [("train/evaluation.py", "Evaluation.measure", "evaluator.evaluate(self)")],
    "callback": [("train/trainer.py", "Trainer.take_step", "self.hooks.call(")],
    "format": [
        ("interop/source.py", "read_source", ".format.read("),
        ("interop/exporting.py", "write_exported", ".format.write("),
    ],
}
GIVES = {  # what passes between the kit and a component of the kind
    "dataset": "documents of a split, as text",
    "tokenizer": "ids of texts, and texts of ids",
    "order": "starts of the windows of a step",
    "model": "logits (B, T, V), or the summed loss",
    "init": "weights, learning rates, multipliers",
    "mixer": "features (B, T, C) after mixing positions",
    "attention": "values (B, H, T, D) mixed over positions",
    "position": "features with positions, rotated queries and keys",
    "norm": "normalized features",
    "mlp": "features (B, T, C) of each position alone",
    "loss": "the sum over tokens, in fp32",
    "optimizer": "new weights",
    "schedule": "a multiplier of an option",
    "parallel": "a callable model, gradients of all processes",
    "sampler": "changed logits",
    "evaluator": "metrics by name",
    "callback": "what its hooks do",
    "format": "weights and options of another program",
}


@cache
def concepts() -> list[dict[str, Any]]:
    """Every concept; raises AssertionError where an entry is not whole."""
    found: list[dict[str, Any]] = tomli.loads(CONCEPTS.read_text(encoding="utf-8"))["concept"]
    names = [concept["name"] for concept in found]
    for index, concept in enumerate(found):
        assert set(concept["tags"]) <= set(TAGS), concept["name"]
        assert set(concept["after"]) <= set(names[:index]), f"{concept['name']} comes before what it needs"
    return found


def concepts_block(_: str) -> str:
    """The index: a row for each concept, with its tags, its code, and the words that people search for."""
    rows: list[list[object]] = [
        [
            f"[{concept['name']}](/{concept['page']})",
            ", ".join(concept["tags"]),
            code_link(*concept["code"].split()),
            ", ".join(concept["also"]),
        ]
        for concept in concepts()
    ]
    return table(["concept", "tags", "code", "also"], rows)


def tags_block(_: str) -> str:
    """The concepts of each tag."""
    rows: list[list[object]] = [
        [tag, ", ".join(f"[{one['name']}](/{one['page']})" for one in concepts() if tag in one["tags"])] for tag in TAGS
    ]
    return table(["tag", "concepts"], rows)


def code_link(path: str, name: str) -> str:
    return f"[`{name}`](/{path}#L{definition(path, name).lineno})"


def interactions_block(_: str) -> str:
    """For each kind: what it gives, and the lines of the kit that call it."""
    assert CALLS.keys() == GIVES.keys() == kinds.KINDS.keys()
    rows: list[list[object]] = [
        [f"[`{kind}`](/docs/reference/kinds/{kind}.md)", GIVES[kind], ", ".join(map(caller_link, CALLS[kind]))]
        for kind in CALLS
    ]
    return table(["kind", "what it gives", "called by"], rows)


def caller_link(call: tuple[str, str, str]) -> str:
    file, name, text = call
    path = f"nanogpt_kit/{file}"
    node = definition(path, name)
    source = "\n".join(lines_of(path)[node.lineno - 1 : node.end_lineno])
    assert text in source, f"{name} in {path} has no {text!r}"
    return f"[`{name}`](/{path}#L{node.lineno})"


def imports_block(files: str) -> str:
    """For each file, below the package: what it is, and the files of the kit that it imports."""
    rows: list[list[object]] = []
    for file in files.split():
        path = PACKAGE / file
        summary = first_sentence(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
        imported = sorted(filter(None, map(file_of, imported_modules(path))))
        rows.append([f"[`{file}`](/nanogpt_kit/{file})", summary, ", ".join(f"`{one}`" for one in imported)])
    return table(["file", "what it is", "imports"], rows)


def file_of(module: str) -> str:
    """The file of a module, below the package; "" for a package, a name in a module, and what is not of the kit."""
    path = ROOT / Path(*module.split(".")).with_suffix(".py")
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) and path.is_file() else ""


def words_block(_: str) -> str:
    """The glossary of CONTRIBUTING.md, without the words that are not used."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Glossary\n")[2]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| ")]
    entries: list[list[object]] = [[f"**{row[0]}**", row[1].rstrip(" |")] for row in rows if row[0] != "word"]
    return table(["word", "meaning"], entries)
