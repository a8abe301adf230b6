"""Complete outputs of the command, as a user sees them: help, descriptions of components, answers to mistakes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import pytest

import nanogpt_kit
from nanogpt_kit.cli import main
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION

FOLDER = Path(__file__).parent / "rendered"
QUICKSTART = Path(nanogpt_kit.__path__[0]).parent / "experiments" / "quickstart.toml"
Golden = Callable[[Path, str], None]
Command = Callable[..., Any]

SHOWN_COMPONENTS = (  # one of each kind, by its kind
    "loss:cross_entropy",
    *("dataset:text", "tokenizer:bpe", "order:shuffled", "model:gpt", "init:gpt2", "attention:sdpa", "position:rope"),
    *("norm:rmsnorm", "mlp:gelu", "optimizer:adamw", "schedule:cosine", "sampler:top_k", "evaluator:loss"),
    *("callback:early_stopping", "parallel:single", "mixer:softmax"),
    *("format:nanogpt",),
)

LOOKED_UP: list[tuple[str, ...]] = [  # sections, options, a slot, a kind
    *((), ("train",), ("train.max_seconds",), ("optimizer.betas",), ("seed",), ("model.attention",), ("mlp",)),
    *(("sampler.top_k.k",), ("optimizer.betas", "--json")),
]

MISTAKES: dict[str, tuple[str, ...]] = {  # what is wrong -> the command
    "an unknown verb": ("rnu",),
    "no experiment": ("run",),
    "an unknown option": ("run", "tiny.toml", "--seed=1"),
    "an option out of bounds": ("run", "tiny.toml", "--seeds=0"),
    "a missing file": ("run", "none.toml"),
    "a folder": ("check", "folder"),
    "an unknown key": ("check", "tiny.toml", "train.setps=3"),
    "an unknown section": ("check", "tiny.toml", "trian.steps=3"),
    "an unknown option of a component": ("check", "tiny.toml", "model.n_layers=3"),
    "a misspelt component": ("check", "tiny.toml", "model.attention=sdpaa"),
    "a component of another kind": ("check", "tiny.toml", "model.norm=gelu"),
    "a table without use": ("check", "tiny.toml", "model.norm={eps=1e-6}"),
    "a fraction for a count": ("check", "tiny.toml", "train.steps=2.5"),
    "a number for true or false": ("check", "tiny.toml", "model.bias=1"),
    "a word for a number": ("check", "tiny.toml", "optimizer.lr=fast"),
    "a value out of bounds": ("check", "tiny.toml", "optimizer.lr=0", "optimizer.betas=[0.9, 1.5]"),
    "an infinite value": ("check", "tiny.toml", "optimizer.lr=inf"),
    "an unknown choice": ("check", "tiny.toml", "train.precision=fp8"),
    "heads that do not divide the width": ("check", "tiny.toml", "model.n_head=5"),
    "a batch that is not whole windows": ("check", "tiny.toml", "train.batch_tokens=81"),
    "an override without a value": ("check", "tiny.toml", "model.block_size"),
    "an override that is not TOML": ("check", "tiny.toml", "optimizer.betas=[0.9, 0.95"),
    "an element that a list lacks": ("check", "tiny.toml", "callback.3.every_steps=5"),
    "a text that is not there": ("run", "tiny.toml", "dataset.source=nowhere.txt"),
    "a split that the dataset lacks": ("run", "tiny.toml", 'evaluator=[{use="loss", split="test"}]'),
    "more windows than the text has": ("run", "tiny.toml", "train.batch_tokens=80000", "model.block_size=80000"),
    "an unknown metric in keep_best": ("check", "tiny.toml", "checkpoint.keep_best=val/los"),
    "a checkpoint between two others": ("check", "tiny.toml", "checkpoint.keep_every_steps=15"),
    "a model with too many weights": ("check", "tiny.toml", "model.n_embd=1048575", "model.n_layer=4096"),
    "several mistakes": ("check", "wrong.toml"),
    "a file that is not TOML": ("check", "not_toml.toml"),
    "files that extend each other": ("check", "circle.toml"),
    "a component file that never ran": ("check", "local.toml"),
    "a component file that cannot be imported": ("check", "local.toml", "--trust-code"),
    "a sweep without a [sweep] table": ("sweep", "tiny.toml"),
    "an ablation without changes": ("ablate", "tiny.toml"),
    "an ablation with an unknown component": ("ablate", "tiny.toml", "--vary", "model.mlp=gelu,swiglue"),
    "an ablation of an unknown key": ("ablate", "tiny.toml", "--vary", "model.mpl=gelu,swiglu"),
    "a sweep of an unknown key": ("check", "sweep_key.toml"),
    "a sweep with an unknown word": ("check", "sweep_word.toml"),
    "a sweep whose steps miss the last value": ("check", "sweep_step.toml"),
    "a sweep of a value out of bounds": ("check", "sweep_value.toml"),
    "a sweep by an unknown metric": ("check", "sweep_metric.toml"),
    "a sweep with log bounds from zero": ("check", "sweep_log.toml"),
    "conflicting options of run": ("run", "tiny.toml", "--resume", "--into", "folder"),
    "conflicting options of sample": ("sample", "tiny", "--prompt", "a", "--jsonl", "b"),
    "nothing to resume": ("run", "tiny.toml", "--resume"),
    "an unknown run": ("sample", "nobody"),
    "a prompt where an option should be": ("sample", "nobody", "Once upon"),
    "an option of a trained model": ("sample", "nobody", "model.n_layer=3"),
    "no run to evaluate": ("eval", "evaluate.batch_size=3"),
    "an unknown source of weights": ("import", "gpt2-huge"),
    "a folder without a model": ("import", "folder"),
    "two names": ("import", "gpt2", "one", "two"),
    "an unknown format": ("export", "tiny", "folder", "--format=onnx"),
    "an unknown component": ("plugins", "show", "rmsnrom"),
    "an unknown option to explain": ("explain", "train.setps"),
    "two sides of bench that exclude each other": ("bench", "tiny.toml", "--vs=tiny.toml", "--sample=2"),
}


@pytest.fixture(autouse=True)
def reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed beside the package, and however wide the terminal is."""
    built_in = Registry([entry for entry in Registry.installed().entries if entry.distribution == KIT_DISTRIBUTION])
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls: built_in))
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "")  # from which click takes the name of the command


@pytest.fixture
def mistaken(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that MISTAKES names, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    text = tiny.read_text(encoding="utf-8").replace(f"{tmp_path}/", "")
    files = {
        "tiny.toml": text,
        "wrong.toml": text.replace("n_embd", "n_embed").replace("steps = 20", "steps = -20"),
        "not_toml.toml": text.replace("n_layer = 2", "n_layer: 2"),
        "circle.toml": 'extends = "again.toml"\n',
        "again.toml": 'extends = "circle.toml"\n',
        "local.toml": 'components = ["mine.py"]\n' + text,
        "mine.py": "import nothing_of_that_name\n",
    }
    sweeps = {  # name of the file -> metric, key, values
        "sweep_key": ("val/loss", "optimizer.lrr", "{ float = [1e-3, 1e-2] }"),
        "sweep_word": ("val/loss", "optimizer.lr", "{ min = 1e-3, max = 1e-2 }"),
        "sweep_value": ("val/loss", "optimizer.lr", "{ float = [-1.0, 1e-2] }"),
        "sweep_log": ("val/loss", "optimizer.weight_decay", "{ float = [0.0, 0.1], log = true }"),
        "sweep_step": ("val/loss", "model.n_layer", "{ int = [1, 4], step = 2 }"),
        "sweep_metric": ("val/lss", "optimizer.lr", "{ float = [1e-3, 1e-2] }"),
    }
    for name, (metric, key, values) in sweeps.items():
        files[f"{name}.toml"] = (
            f'{text}\n[sweep]\nmetric = "{metric}"\ntrials = 4\n\n[sweep.space]\n"{key}" = {values}\n'
        )
    for name, content in files.items():
        Path(name).write_text(content, encoding="utf-8")


def rendered(command: Command, words: Iterable[str]) -> str:
    """As on a terminal: the command, what it prints on both streams, and its exit code where that is not 0."""
    words = tuple(words)
    answer = command(*words)
    code = f"exit code {answer.code}\n" if answer.code else ""
    shown = " ".join(f"'{word}'" if re.search(r"[\s{}\[\]]", word) else word for word in words)
    return f"$ nanogpt-kit {shown}\n{answer.out}{answer.err}{code}"


def same_everywhere(text: str, tmp_path: Path) -> str:
    text = text.replace(str(tmp_path), "/here").replace(nanogpt_kit.__version__, "VERSION")
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def verbs(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Each command of the command line, as its words."""
    found = [path]
    for name, verb in sorted(group.commands.items()):
        if isinstance(verb, click.Group):
            found += verbs(verb, (*path, name))
        elif (*path, name) != ("sweep", "begin"):  # what `sweep` itself does
            found.append((*path, name))
    return found


def test_help_is_the_reviewed_one(command: Command, tmp_path: Path, golden: Golden) -> None:
    pages = [rendered(command, (*words, "--help")) for words in verbs(main)]
    golden(FOLDER / "help.txt", same_everywhere("\n".join(pages), tmp_path))


def test_components_are_listed_and_described_as_reviewed(command: Command, tmp_path: Path, golden: Golden) -> None:
    words = [("list",), *(("show", name) for name in SHOWN_COMPONENTS)]
    pages = [rendered(command, ("plugins", *more)) for more in words]
    golden(FOLDER / "plugins.txt", same_everywhere("\n".join(pages), tmp_path))


def test_options_are_looked_up_as_reviewed(command: Command, tmp_path: Path, golden: Golden) -> None:
    pages = [rendered(command, ("explain", *words)) for words in LOOKED_UP]
    golden(FOLDER / "lookup.txt", same_everywhere("\n".join(pages), tmp_path))


def test_every_kind_has_a_component_that_is_shown() -> None:
    assert {name.split(":")[0] for name in SHOWN_COMPONENTS} == {entry.kind for entry in Registry.installed().entries}


def test_an_experiment_is_explained_as_reviewed(
    command: Command, tmp_path: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(QUICKSTART.parent)
    page = rendered(command, ("check", QUICKSTART.name, "--explain", "optimizer.lr=3e-3"))
    golden(FOLDER / "explain.txt", same_everywhere(page, tmp_path))


@pytest.mark.usefixtures("mistaken")
def test_mistakes_are_answered_as_reviewed(command: Command, tmp_path: Path, golden: Golden) -> None:
    pages = [f"# {what}\n{rendered(command, words)}" for what, words in MISTAKES.items()]
    golden(FOLDER / "mistakes.txt", same_everywhere("\n".join(pages), tmp_path))
