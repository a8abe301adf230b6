"""What pages that are not the tutorial take for granted, and how their commands become small.

In the folder of each page are texts and tiny experiments under the names of shipped ones, which the commands then find
first. `Given` adds what a single page needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import TINY
from tests.handbook.pages import ROOT, blocks_of
from tests.nanogpt_names import CONFIG

SMALL = (
    "train.steps=4 train.batch_tokens=64 model.n_layer=1 model.n_head=2 model.n_embd=16 model.block_size=16"
    " schedule.warmup_steps=1 sample.max_new_tokens=8"
)
RUN = "20261128-144215814-s1337-195662"  # of the pages
SENTENCES = "".join(f"{n} times {n + 7} is {n * (n + 7)}, as everybody knows.\n" for n in range(300))
SWEPT = """
[sweep]
trials = 2
confirm = 0

[sweep.space]
"optimizer.lr" = { float = [1e-3, 1e-2], log = true }
"""
RECORDS = sorted((ROOT / "docs" / "records").glob("*.toml"))
SHIPPED = ("quickstart", "bench_cpu", "bench_baby", "bench_gpt2", "my_text")


@dataclass(frozen=True)
class Given:
    """`before`: commands that make what the page presupposes. `smaller`: what is replaced in its commands and files."""

    files: dict[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    smaller: dict[str, str] = field(default_factory=dict)


def tiny(name: str, steps: int = 4) -> str:
    """An experiment that trains within a second."""
    text = TINY.format(text="my_texts/", dropout=0.0).replace('name = "tiny"', f'name = "{name}"')
    every = {"steps = 20": f"steps = {steps}", "every_steps = 10": f"every_steps = {max(2, steps // 2)}"}
    heads = {"n_head = 3": "n_head = 4"}  # which divide the widths of the pages
    for old, new in {**every, **heads, "warmup_steps = 5": "warmup_steps = 1"}.items():
        text = text.replace(old, new)
    return text


def write_folder(folder: Path) -> None:
    """The texts and the experiments that every page has."""
    for name in ("my_texts", "notes"):
        (folder / name).mkdir()
        for number in range(8):
            part = SENTENCES[number * 1000 : (number + 1) * 1000]
            (folder / name / f"{number}.txt").write_text(f"{name}\n{part}", encoding="utf-8")
    for name in SHIPPED:
        (folder / f"{name}.toml").write_text(tiny(name), encoding="utf-8")
    (folder / "sweep_lr.toml").write_text(f'extends = "quickstart"\nname = "sweep_lr"\n{SWEPT}', encoding="utf-8")


def block(page: str, language: str, number: int = 0) -> str:
    return [one.text for one in blocks_of(ROOT / page) if one.language == language][number]


def with_dataset(text: str, dataset: str) -> str:
    """An experiment with another dataset."""
    return f"{text.partition('[dataset]')[0]}{dataset}\n[tokenizer]{text.partition('[tokenizer]')[2]}"


# Ends its run once as Ctrl-C does, so that there is a run to resume
STOPS_ONCE = """
import os, signal
from pathlib import Path
from nanogpt_kit.api import Callback, LiveRun, hookimpl


class StopsOnce(Callback):
    def build(self, run: LiveRun) -> object:
        return Stopper()


class Stopper:
    @hookimpl
    def step_finished(self, step: int) -> None:
        if step == 2 and not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), signal.SIGINT)
"""
STOPPED = '! nanogpt-kit run {0} \'components=["stops_once.py"]\' \'callback=["console", "stops_once"]\' --trust-code'
MY = {"my.toml": tiny("my")}
QUICKSTART = ("nanogpt-kit run quickstart",)
NAMED = "mv runs/{0}/2* runs/{0}/" + RUN
QUESTIONS = "".join(f'{{"prompt": "{n} times", "choices": ["7", "is"], "answer": 0}}\n' for n in range(4))
CHATS = "".join(
    f'{{"messages": [{{"role": "user", "content": "{n} + 2?"}}, {{"role": "assistant", "content": "{n + 2}"}}]}}\n'
    for n in range(200)
)
# Of the experiments on a page
SHORT = {"steps = 300": "steps = 4"}
PARTS = tiny("parts").replace("lr = 3e-3", "lr = 4e-3") + "\n[ablate]\nseeds = 2\n"
BENCH = {"kit bench ": "kit bench --rounds 2 --seconds 0.1 "}  # in place of 9 rounds of 2 seconds
TRIALS = {"trials = 5": "trials = 2", "confirm = 2": "confirm = 0", "workers = 2": "workers = 1"}


def record(name: str) -> str:
    """The experiment of a record, with a smaller search."""
    text = (ROOT / "docs" / "records" / name).read_text(encoding="utf-8")
    for old, new in TRIALS.items():
        text = text.replace(old, new)
    return text.partition("confirm_seeds")[0] + "\n" + text.partition("confirm_seeds = 2\n")[2]


GIVEN: dict[str, Given] = {
    "README.md": Given(smaller={"run my ": f"run my {SMALL} ", "--seeds 4": "--seeds 2"}),
    "docs/coming-from-nanogpt.md": Given(
        files={"nanoGPT/config/train_shakespeare_char.py": CONFIG},
        smaller={  # without a download
            "train_shakespeare_char.py": "train_shakespeare_char.py --source my_texts/0.txt",
            "train.batch_tokens=768 train.steps=2000": "train.batch_tokens=128 train.steps=2",
            "ROMEO:": "3 times",
        },
    ),
    "docs/extending/testing-a-plugin.md": Given(
        files={
            "glu.py": block("docs/extending/writing-a-component.md", "python"),
            "test_glu.py": block("docs/extending/testing-a-plugin.md", "python"),
        },
        before=(
            "nanogpt-kit plugins new my-package --kind mlp && mv nanogpt-kit-my-package my-package",
            "pip wheel --quiet --no-deps my-package/ && pip install --quiet --no-deps nanogpt_kit_my*.whl",
        ),
        smaller={
            "my_package-0.1.0": "nanogpt_kit_my_package-0.1.0",
            "test my-package   ": "test nanogpt-kit-my-package ",
        },
    ),
    "docs/extending/three-components.md": Given(
        smaller={**SHORT, "every_steps = 50": "every_steps = 2", "warmup_steps = 20": "warmup_steps = 1"}
    ),
    "docs/guide/ablations.md": Given(smaller={"--seeds 3": "--seeds 2"}),
    "docs/guide/agents.md": Given(
        files={"base.toml": tiny("base"), "changes.txt": "model.mlp=swiglu\n"}, smaller={"--seeds 3": "--seeds 2"}
    ),
    "docs/guide/comparing.md": Given(
        files={"my.toml": tiny("my").replace("[tokenizer]", "test_fraction = 0.2\n\n[tokenizer]")},
        before=("nanogpt-kit sweep sweep_lr name=my", *QUICKSTART),
        smaller={"trial-0003": "trial-0001", "--seeds 3": "--seeds 2", "--seeds 5": "--seeds 2"},
    ),
    "docs/guide/data.md": Given(smaller={"run my ": f"run my {SMALL} "}),
    "docs/guide/distributed.md": Given(files=MY, smaller={"--nproc 4": "--nproc 2"}),
    "docs/guide/evaluation.md": Given(
        files={"gpt2.toml": tiny("gpt2"), "book.txt": SENTENCES, "hellaswag_val.jsonl": QUESTIONS},
        before=("nanogpt-kit run gpt2", *QUICKSTART),
    ),
    "docs/guide/experiments.md": Given(
        files={"experiments/quickstart.toml": tiny("quickstart")}, smaller={"run my\n": f"run my {SMALL}\n"}
    ),
    "docs/guide/importing.md": Given(
        files={"mine.toml": tiny("mine").replace('"byte"', '"bpe"\nvocab_size = 300')}, before=("nanogpt-kit run mine",)
    ),
    "docs/guide/ledger.md": Given(
        before=("nanogpt-kit compare quickstart model.mlp=swiglu --seeds 2 || [ $? -gt 2 ]",)
    ),
    "docs/guide/masked-targets.md": Given(
        files={"chats.jsonl": CHATS}, smaller={"block_size = 256": "block_size = 40"}
    ),
    "docs/guide/mixtures.md": Given(
        files={"my.toml": with_dataset(tiny("my"), block("docs/guide/mixtures.md", "toml"))}
    ),
    "docs/guide/mup.md": Given(files=MY, smaller={"128,256,512,1024 --seeds 5": "32,64,128 --seeds 2"}),
    "docs/guide/performance.md": Given(files={"mine.toml": tiny("mine")}, smaller=BENCH),
    "docs/guide/reports.md": Given(
        before=(
            *QUICKSTART,
            "nanogpt-kit ablate quickstart --vary model.mlp=swiglu --seeds 2 || [ $? -gt 2 ]",
            "mv runs/quickstart/ablate/* runs/quickstart/ablate/d79265267a33",
            "nanogpt-kit sweep sweep_lr",
        ),
        smaller={"2026*": "2*"},
    ),
    "docs/guide/runs.md": Given(
        before=(*QUICKSTART, NAMED.format("quickstart"), *QUICKSTART), smaller={"runs rm ": "runs rm --yes "}
    ),
    "docs/guide/sampling.md": Given(
        files={"beginning.txt": "3 times 4", "prompts.jsonl": '{"prompt": "3 ", "id": 7}\n'}, before=QUICKSTART
    ),
    "docs/guide/schedules.md": Given(
        files={"shakespeare_char_cpu.toml": tiny("shakespeare_char_cpu", 400)},
        smaller={"seconds=60": "seconds=1", "max_seconds = 25": "max_seconds = 1", "--seeds 5": "--seeds 2"},
    ),
    "docs/guide/sweeps.md": Given(
        smaller={
            **SHORT,
            "every_steps = 25": "every_steps = 2",
            "trials = 24": "trials = 2\nworkers = 1\nconfirm = 0",
            "int = [50, 250]": "int = [1, 3]",
        }
    ),
    "docs/guide/training.md": Given(
        files={**MY, "stops_once.py": STOPS_ONCE},
        before=("nanogpt-kit run my", NAMED.format("my"), STOPPED.format("my")),
        smaller={"1_000_000_000": "400", "--seeds 5": "--seeds 2"},
    ),
    "docs/how-to/automated-research.md": Given(smaller={"--seeds 3": "--seeds 2"}),
    "docs/how-to/cite-a-result.md": Given(files=MY),
    "docs/how-to/nan.md": Given(
        files=MY, before=("nanogpt-kit run my",), smaller={"warmup_steps=200": "warmup_steps=2"}
    ),
    "docs/how-to/no-network.md": Given(files=MY),
    "docs/how-to/out-of-memory.md": Given(files=MY),
    "docs/how-to/publish-a-model.md": Given(files=MY, before=("nanogpt-kit run my",)),
    "docs/how-to/resume-elsewhere.md": Given(
        files={**MY, "stops_once.py": STOPS_ONCE}, before=(STOPPED.format("my"), NAMED.format("my"))
    ),
    "docs/how-to/slow.md": Given(files=MY, smaller={**BENCH, "train.compile=default": "model.mlp=swiglu"}),
    "docs/how-to/torchrun-and-slurm.md": Given(files=MY),
    "docs/how-to/train-longer.md": Given(
        files=MY,
        before=("nanogpt-kit run my schedule=constant", NAMED.format("my")),
        smaller={
            "--extend 500": "--extend 4",
            "train.steps=2500": "train.steps=12",
            "train.steps=500": "train.steps=4",
            "keep_every_steps=100": "keep_every_steps=2",
            "my@300": "my@2",
        },
    ),
    "docs/how-to/tune-both-sides.md": Given(
        smaller={"trials = 8": "trials = 2", "confirm = 2\nconfirm_seeds = 2": "confirm = 0", "--seeds 5": "--seeds 2"}
    ),
    "docs/records/README.md": Given(
        files={
            "docs/records/parts.toml": PARTS,
            **{f"docs/records/{path.name}": record(path.name) for path in RECORDS if path.name != "parts.toml"},
        },
        before=("cp -r my_texts docs/records",),
    ),
    "docs/reference/kinds/init.md": Given(smaller={"n_embd=512": "n_embd=64"}),
}
