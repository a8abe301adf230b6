"""What newcomers type, by habit or in haste: the first line of the answer names what to write instead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from nanogpt_kit.cli import main
from nanogpt_kit.cli.foreign_words import FOREIGN_OPTIONS, FOREIGN_VERBS
from nanogpt_kit.cli.option_remedy import long_options

Command = Callable[..., object]

# The words of a command, and what the first line of its answer contains. tiny.toml is an experiment of the current
# folder: a byte-level model of 2 layers, 3 heads, 24 features and windows of 16 tokens, trained for 20 steps.
OPTIONS_OF_OTHER_PROGRAMS = {
    # nanoGPT's
    "check tiny.toml batch_size=12": "did you mean train.batch_tokens (batch_size x model.block_size x accumulation",
    "check tiny.toml train.batch_size=12": "did you mean train.batch_tokens (batch_size x model.block_size x ",
    "check tiny.toml max_iters=100": "max_iters: unknown key; did you mean train.steps?",
    "check tiny.toml train.max_iters=100": "train.max_iters: unknown key; did you mean train.steps?",
    "check tiny.toml learning_rate=3e-4": "did you mean optimizer.lr?",
    "check tiny.toml schedule.warmup_iters=5": "did you mean schedule.warmup_steps?",
    "check tiny.toml schedule.min_lr=1e-5": "did you mean schedule.final_fraction (min_lr / learning_rate)?",
    "check tiny.toml optimizer.beta2=0.95": "did you mean optimizer.betas (a list of both, as in [0.9, 0.95])?",
    "check tiny.toml eval_iters=200": "leave it out: evaluation covers the whole validation split.",
    "check tiny.toml train.gradient_accumulation_steps=4": "leave it out: a step has train.batch_tokens",
    "check tiny.toml train.dtype=float16": "did you mean train.precision (fp32, bf16 or fp16)?",
    "check tiny.toml dataset=shakespeare_char": "did you mean 'shakespeare' (with tokenizer=char)?",
    # of Hugging Face's Trainer and models
    "check tiny.toml train.max_steps=100": "train.max_steps: unknown key; did you mean train.steps?",
    "check tiny.toml train.epochs=3": "did you mean train.steps (epochs x training tokens / train.batch_tokens)?",
    "check tiny.toml num_train_epochs=3": "did you mean train.steps (epochs x training tokens / train.batch_tokens)?",
    "check tiny.toml per_device_train_batch_size=8": "did you mean train.micro_batch_size (",
    "check tiny.toml warmup_ratio=0.1": "did you mean schedule.warmup_steps (warmup_ratio x train.steps)?",
    "check tiny.toml train.bf16=true": "did you mean train.precision=bf16?",
    "check tiny.toml model.hidden_size=64": "did you mean model.n_embd?",
    "check tiny.toml model.num_hidden_layers=4": "did you mean model.n_layer?",
    "check tiny.toml lr_scheduler_type=linear": "did you mean schedule (as in schedule=cosine)?",
    # of papers and other programs
    "check tiny.toml optimizer=Adam": "did you mean 'adamw' (with optimizer.weight_decay=0 it is Adam)?",
    "check tiny.toml optimizer=SGD": "did you mean 'sgd'?",
    "check tiny.toml model.attention=flash_attention_2": "did you mean 'sdpa' (",
    "check tiny.toml model.context_length=32": "did you mean model.block_size?",
    "check tiny.toml callback.wandb={}": "did you mean 'tensorboard'?",
}
WRONG_SECTIONS = {
    "check tiny.toml lr=3e-4": "command line: lr: unknown key; did you mean optimizer.lr?",
    "check tiny.toml dropout=0.2": "command line: dropout: unknown key; did you mean model.dropout?",
    "check tiny.toml n_layer=3": "did you mean model.n_layer?",
    "check tiny.toml n_layr=3": "did you mean model.n_layer?",
    "check tiny.toml batch_tokns=32": "did you mean train.batch_tokens?",
    "check tiny.toml train.lr=3e-4": "command line: train.lr: unknown key; did you mean optimizer.lr?",
    "check tiny.toml optimizer.warmup_steps=5": "did you mean schedule.warmup_steps?",
    "check tiny.toml every_steps=5": "did you mean evaluate.every_steps or checkpoint.every_steps?",
    "check tiny.toml attention=naive": "did you mean model.attention?",
    "check tiny.toml config.n_layer=3": "config: unknown key; did you mean model.n_layer?",
    "check tiny.toml temperature=0.6": "did you mean sampler.temperature?",
    "check tiny.toml min_p=0.1": "did you mean sampler.min_p?",
    "check tiny.toml patience=3": "did you mean sweep.patience or callback.early_stopping.patience?",
    "check tiny.toml muon=true": "did you mean optimizer=muon?",
    "check tiny.toml optimizer.momentum=0.9": "muon and sgd have this option, but 'adamw' does not.",
    "check tiny.toml optimizer.epsilon=1e-6": "did you mean optimizer.eps?",
    "check tiny.toml model.norm=rmsnorm model.norm.epsilon=1e-6": "did you mean model.norm.eps?",
    "check tiny.toml train.setps=3": "did you mean 'steps'?",
    "check tiny.toml trian.steps=3": "did you mean 'train'?",
    "check tiny.toml optim.lr=3e-4": "optim: unknown key; did you mean 'optimizer'?",
    "check tiny.toml scheduler.warmup_steps=5": "did you mean 'schedule'?",
    "check tiny.toml data.source=text.txt": "did you mean 'dataset'?",
    "check tiny.toml evaluation.every_steps=5": "did you mean 'evaluate'?",
    "check tiny.toml save.every_steps=5": "did you mean evaluate.every_steps or checkpoint.every_steps?",
    "check tiny.toml trainer.max_steps=5": "did you mean train.steps?",
    "check tiny.toml early_stopping.patience=3": "did you mean callback.early_stopping.patience?",
    "check tiny.toml momentun=0.9": "did you mean optimizer.momentum (of optimizer=muon)",
    """check tiny.toml optimizer.group=[{match="wte"}] freeze=true""": "did you mean optimizer.group.0.freeze?",
    "check tiny.toml optimizer.type=sgd": "did you mean optimizer.use?",
    "check tiny.toml model.name=gpt": "did you mean model.use?",
    "check tiny.toml dataset.path=text.txt": "did you mean dataset.source (of dataset=text)?",
    "check tiny.toml sample.max_tokens=3": "did you mean sample.max_new_tokens?",
    "check tiny.toml extends=quickstart": "in its first lines, as in extends = 'quickstart'",
}
RELATIONS = {
    "check tiny.toml model.n_head=5": "command line: model.n_head: n_embd (24) should be a multiple of n_head (5)",
    "check tiny.toml model.block_size=32": "command line: model.block_size: train.batch_tokens (80) should be a "
    "multiple of model.block_size (32); the nearest is 64",
}
LISTS = {
    "check tiny.toml sampler=top_k": """as in 'sampler=["top_k"]' or [[sampler]]""",
    "check tiny.toml sampler.use=top_k": """as in 'sampler=["top_k"]' or [[sampler]]""",
    "check tiny.toml sampler=[top_k]": """a shell removes quotes, so write 'sampler=["top_k"]'""",
    "check tiny.toml evaluator=loss,perplexity": """as in 'evaluator=["loss", "perplexity"]' or [[evaluator]]""",
    "check tiny.toml callback=none": "as in 'callback=[]' or [[callback]]",
    "check tiny.toml callback.tensorboard=false": """give the list without it: 'callback=["console", "divergence"]'""",
    "check tiny.toml callback.ema=true": "callback.ema.decay, callback.ema.evaluate, or callback.ema={} for none",
    "check tiny.toml sampler.tempreature=0.6": "did you mean 'temperature'?",
    "check tiny.toml sampler.greedy=true": "sampler.greedy={} appends it to the list",
    "check tiny.toml callback.early_stopping=3": "set one of callback.early_stopping.metric, ",
    "check tiny.toml sampler=['top_k','top_k'] sampler.top_k=3": "write sampler.0 or sampler.1",
}
VALUES = {
    "check tiny.toml optimizer.lr=1e-4.0": "got '1e-4.0'; write 1e-4",
    'check tiny.toml optimizer.lr="3e-4"': "got '3e-4'; write 3e-4 without quotes",
    "check tiny.toml optimizer.lr=.003": "write 0.003",
    "check tiny.toml optimizer.lr=None": "leave the option out, and it is 0.001 (peak learning rate)",
    "check tiny.toml optimizer.betas=0.9": "should be a list, as in 'optimizer.betas=[0.9, 0.95]', got 0.9",
    "check tiny.toml optimizer.betas=[0.9]": "missing: the list should have more elements",
    "check tiny.toml optimizer.betas=[0.9,0.8,0.7]": "optimizer.betas: should have at most 2 elements, got [0.9, 0.8",
    "check tiny.toml train.steps=10k": "got '10k'; write 10000",
    "check tiny.toml train.steps=1,000": "write 1000",
    "check tiny.toml train.steps=1e3": "got 1000.0; write 1000",
    "check tiny.toml train.max_seconds=10m": "write 600",
    "check tiny.toml train.micro_batch_size=None": "a whole number or 'auto', got 'None'; leave the option out",
    "check tiny.toml train.threads=auto": "leave the option out",
    "check tiny.toml model.bias=False": "should be true or false, got 'False'; write false",
    "check tiny.toml train.activation_checkpointing=1": "write true",
    "check tiny.toml train.precision=float16": "got 'float16'; did you mean 'fp16'?",
    "check tiny.toml train.device=cuda:0": "did you mean 'cuda'?",
    "check tiny.toml train.compile=True": "did you mean 'default'?",
    "check tiny.toml train.compile=max_autotune": "did you mean 'max-autotune'?",
    "check tiny.toml sample.stop=END": "should be a list, as in 'sample.stop=[\"END\"]', got 'END'",
    "check tiny.toml name=a/b": "write a-b",
    "check tiny.toml dataset=text.txt": "did you mean 'text' (with dataset.source=text.txt)?",
}
DASHES = {
    "check tiny.toml --lr 3e-4": "there is no option --lr; write optimizer.lr=3e-4",
    "check tiny.toml --lr=3e-4": "there is no option --lr; write optimizer.lr=3e-4",
    "check tiny.toml --optimizer.lr=3e-4": "write optimizer.lr=3e-4",
    "check tiny.toml --train.steps 100": "write train.steps=100",
    "check tiny.toml --learnig-rate 3e-4": "write optimizer.lr=3e-4",
    "check tiny.toml --n-layer=3": "write model.n_layer=3",
    "check tiny.toml --batch_size 12": "write train.batch_tokens=VALUE (batch_size x model.block_size x accumulation",
    "check tiny.toml -n 3": "the options of an experiment are written as in optimizer.lr=3e-4",
    "check tiny.toml -lr 3e-4": "write optimizer.lr=3e-4",
    "run tiny.toml --seed=1": "write train.seed=1",
    "run tiny.toml --compile": "write train.compile=default",
    "run tiny.toml --no-compile": "write train.compile=off",
    "run tiny.toml --no-bias": "write model.bias=false",
    "run tiny.toml --bias False": "write model.bias=false",
    "run tiny.toml --precision float16": "write train.precision=fp16 or ",
    "run tiny.toml -help": "did you mean --help?",
    "run tiny.toml -o out": "write --into out",
    "run -c tiny.toml": "name the experiment right after the verb",
    "sample tiny --topk 5": "write sampler.top_k=5",
    "sample tiny --temp 0.6": "write sampler.temperature=0.6",
    "export tiny --to out": "name the folder after the run",
    "run tiny.toml --fp16": "write train.precision=fp16",
    "run tiny.toml --gpus 2": "write --nproc 2",
    "run tiny.toml --out_dir=out": "write --into out",
    "run tiny.toml --trials 3": "it is an option of sweep",
    "explain lr --trust-code": "it is an option of check, run, sample, eval, ",
    "run --config tiny.toml": "name the experiment right after the verb",
    "sample tiny --steps 3": "did you mean --step?",
    "sample tiny --temperature 0.6": "write sampler.temperature=0.6",
    "sample tiny --top_k=50": "write sampler.top_k=50",
    "sample tiny --num_samples 3": "write --num-samples",
    "sample tiny --start ROMEO": "write --prompt ROMEO",
    "sample tiny temperature=0.6": "did you mean sampler.temperature?",
    "sample --out_dir=out": "name the run right after the verb",
    "eval tiny --batch_size 3": "write evaluate.batch_size=3",
    "--lr 3 run tiny.toml": "options follow the verb, as in nanogpt-kit run",
    "--lr 3 tiny.toml": "options follow the verb, as in nanogpt-kit run quickstart",
}
LOOKUPS = {
    "explain learning_rate": "did you mean optimizer.lr?",
    "explain optimizer.learning-rate": "did you mean optimizer.lr?",
    "explain epochs": "did you mean train.steps (epochs x training tokens / train.batch_tokens)?",
    "explain eval_iters": "leave it out: evaluation covers the whole validation split",
    "explain flash_attention_2": "did you mean sdpa (torch's choice of kernel",
    "explain AdamW_torch": "did you mean adamw?",
    "explain N-Layr": "did you mean 'n_layer'?",
    "explain callbak.ema.decay": "did you mean 'callback.ema.decay'",
}
VERBS = {
    "rnu tiny.toml": "there is no command 'rnu'; did you mean 'run'?",
    "train tiny.toml": "write nanogpt-kit run tiny.toml",
    "generate tiny": "write nanogpt-kit sample tiny",
    "evaluate tiny": "write nanogpt-kit eval tiny",
    "fit tiny.toml train.steps=3": "write nanogpt-kit run tiny.toml train.steps=3",
    "finetune tiny.toml": "write nanogpt-kit run tiny.toml model.init_from=RUN",
    "resume tiny.toml": "write nanogpt-kit run tiny.toml --resume",
    "init": "write nanogpt-kit new my.toml",
    "tune tiny.toml": "write nanogpt-kit sweep tiny.toml",
    "hpo tiny.toml": "write nanogpt-kit sweep tiny.toml",
    "list": "nanogpt-kit plugins list",
    "show gpt": "write nanogpt-kit plugins show gpt",
    "help": "write nanogpt-kit --help",
    "help run": "write nanogpt-kit run --help",
    "tiny.toml": "write nanogpt-kit run tiny.toml",
    "tiny": "write nanogpt-kit run tiny",
    "plugins lsit": "did you mean 'list'?",
}
ORDER = {
    "run": "for example: nanogpt-kit run quickstart",
    "sample": "for example: nanogpt-kit sample quickstart",
    "export": "for example: nanogpt-kit export quickstart exported/",
    "export tiny": "for example: nanogpt-kit export tiny exported/",
    "tiny.toml run": "the verb comes first: nanogpt-kit run tiny.toml",
    "train.steps=3 run tiny.toml": "the verb comes first: nanogpt-kit run tiny.toml train.steps=3",
    "run train.steps=3 tiny.toml": "the experiment comes first: nanogpt-kit run tiny.toml train.steps=3",
    "run train.steps=3": "the experiment comes first: nanogpt-kit run EXPERIMENT train.steps=3",
    "check tiny.toml train.steps = 3": "write train.steps=3",
    "check tiny.toml train.steps= 3": "write train.steps=3",
    "check tiny.toml train.steps =3": "write train.steps=3",
    "check tiny.toml optimizer.lr 3e-4": "write optimizer.lr=3e-4",
    "check tiny.toml optimizer.lr:3e-4": "write optimizer.lr=3e-4",
    "sample tiny sampler.temperature 0.6": "write sampler.temperature=0.6",
}
MISTAKES = OPTIONS_OF_OTHER_PROGRAMS | WRONG_SECTIONS | RELATIONS | LISTS | VALUES | DASHES | LOOKUPS | VERBS | ORDER


@pytest.fixture(autouse=True)
def in_its_folder(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.parent)
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "")  # from which click takes the name of the command


@pytest.mark.parametrize("words", MISTAKES)
def test_the_first_line_names_the_remedy(words: str, command: Command) -> None:
    answer = command(*words.split())
    assert answer.code == 2
    first = answer.err.splitlines()[0]
    assert first.startswith("error: ")
    assert MISTAKES[words] in first
    assert [folder for folder in ("runs", "data") if Path(folder).exists()] == []


def test_long_lists_come_after_the_remedy(command: Command) -> None:
    line = command("check", "tiny.toml", "train.lr=3").err.splitlines()[0]
    remedy, _, rest = line.partition(" Allowed: ")
    assert remedy.endswith("did you mean optimizer.lr?")
    assert rest.endswith("watch.")


def test_a_mistake_in_the_words_also_shows_how_they_are_used(command: Command) -> None:
    first, usage, remedy = command("run", "tiny.toml", "--lr", "3").err.splitlines()
    assert first.startswith("error: ")
    assert usage.startswith("Usage: nanogpt-kit run [OPTIONS] EXPERIMENT")
    assert remedy == "Try 'nanogpt-kit run --help' for help."


def test_the_experiment_of_the_command_decides_which_component_has_an_option(tiny: Path, command: Command) -> None:
    answer = command("check", "tiny.toml", "--momentum=0.9")
    assert "write optimizer.momentum=VALUE (of optimizer=muon)" in answer.err
    tiny.write_text(tiny.read_text(encoding="utf-8").replace("adamw", "sgd"), encoding="utf-8")
    assert "write optimizer.momentum=0.9\n" in command("check", "tiny.toml", "--momentum=0.9").err


def test_a_value_that_hides_a_password_is_not_repeated(command: Command) -> None:
    answer = command("sweep", "tiny.toml", "--sweep.storage=mysql://me:secret@host/db")
    assert "sweep.storage" in answer.err
    assert "secret" not in answer.err


def test_a_blank_is_allowed_in_quotes(command: Command) -> None:
    assert command("check", "tiny.toml", "optimizer.lr = 3e-4").code == 0


def test_a_file_named_like_an_override_is_an_experiment(tiny: Path, command: Command) -> None:
    tiny.rename("a=b.toml")
    assert command("check", "a=b.toml").code == 0


def words_of(text: str) -> list[list[str]]:
    """The commands that a remedy names, without the program."""
    return [part.removeprefix("nanogpt-kit ").split() for part in text.split(", or ")]


@pytest.mark.parametrize("verb", FOREIGN_VERBS)
def test_every_verb_that_is_suggested_exists(verb: str) -> None:
    assert verb not in main.commands
    for words in words_of(FOREIGN_VERBS[verb]):
        found: click.Command = main
        for word in words:
            if isinstance(found, click.Group) and word in found.commands:
                found = found.commands[word]
            elif word.startswith("--"):
                help_options = ["--help"]
                assert word in [*long_options(found).values(), *help_options]
        assert found is not main or words[0].startswith("--")


@pytest.mark.parametrize(("verb", "option"), FOREIGN_OPTIONS)
def test_every_option_that_is_suggested_exists(verb: str, option: str) -> None:
    named = [word for word in FOREIGN_OPTIONS[verb, option].replace(",", "").split() if word.startswith("--")]
    if verb:
        own = long_options(main.commands[verb])
        assert option not in own
        assert [word for word in named if word not in own.values()] == []
