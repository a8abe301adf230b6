"""What every test stands on: folders of its own, and real text where there is some."""

from __future__ import annotations

import difflib
import functools
import importlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Before torch is loaded: several test processes share the cores, and OpenMP's spinning would stall them all.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["NANOGPT_KIT_CALIBRATION"] = "off"  # rules choose, so that a busy machine changes no result
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models of the tests are so small that a second thread only costs

import launcher
import pytest
import rich
from hypothesis import settings

# Times differ on shared machines; leave no files. `--hypothesis-profile thorough` tries four times the examples.
settings.register_profile("kit", deadline=None, database=None, max_examples=25)
settings.register_profile("thorough", deadline=None, database=None, max_examples=100)
settings.load_profile("kit")


launcher.install()

# What a killed process has written stays; only a machine that fails would lose it, and a test cannot make it fail.
os.fsync = lambda descriptor: None  # most of the time of a small run


@pytest.fixture
def real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of this test starts an interpreter of its own."""
    monkeypatch.setattr("subprocess.Popen", launcher.RealPopen)


@pytest.fixture(autouse=True)
def own_console() -> None:
    """A verb may have moved rich's console to stderr, which its process would have taken with it."""
    rich.reconfigure()


COUNT = itertools.count()  # of tests


@pytest.fixture(autouse=True)
def own_folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that a test runs may write into the user's folders.

    A test that asks for no folder gets names of folders that do not exist yet: to make one, pytest lists all others.
    """
    if "tmp_path" in request.fixturenames:
        tmp_path = request.getfixturevalue("tmp_path")
    else:
        tmp_path = tmp_path_factory.getbasetemp() / f"unasked-{next(COUNT)}"
    for variable, folder in {
        "NANOGPT_KIT_RUNS": "runs",
        "NANOGPT_KIT_DATA": "data",
        "XDG_CACHE_HOME": "cache",
        "XDG_STATE_HOME": "state",
    }.items():
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("NANOGPT_KIT_CONSENTED", "")  # and what a test consents to ends with it


SETUPTOOLS = os.path.join("setuptools", "_vendor")  # which it adds when torch's compiler imports it


@pytest.fixture(scope="module", autouse=True)
def same_import_path() -> Iterator[None]:
    """A folder that a module leaves on sys.path enters PYTHONPATH of later commands, which are then not forked but take
    three seconds to import torch: see launcher.is_served."""
    before = list(sys.path)
    yield
    left = [folder for folder in sys.path if folder not in before and not folder.endswith(SETUPTOOLS)]
    sys.path[:] = before  # later modules are not to blame
    assert not left, f"tests left folders on sys.path: {left}; monkeypatch.syspath_prepend takes them back"


@pytest.fixture(scope="session", autouse=True)
def state_of_this_repository() -> Iterator[None]:
    """What the provenance of runs has of the kit's own commit is read once, which takes eight git commands and 35 ms
    (one core of an AMD EPYC).

    Other folders are read each time, and so is this one by processes that tests start.
    """
    from nanogpt_kit.runs import provenance

    read, here = provenance.code_state, Path.cwd()

    @functools.cache
    def state_here(sources: tuple[Path, ...]) -> tuple[object, bytes]:
        return read(here, sources)

    def code_state(folder: Path, sources: Sequence[Path]) -> tuple[object, bytes]:
        own = sorted({source for source in sources if source.is_relative_to(here)})
        return state_here(tuple(own)) if folder == here else read(folder, sources)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "code_state", code_state)
        yield


FILES = Path(__file__).parent / "data"
GIVEN = os.environ.get("NANOGPT_KIT_TEST_DATA")  # a folder with tiny Shakespeare and GPT-2's vocabulary


def pytest_configure(config: pytest.Config) -> None:
    """All tests run on the CPU, also on a machine with a GPU, unless `-m gpu` asks for it. CUDA reads the variable when
    a test first asks for a GPU; commands that tests start inherit it."""
    if not asks_for_gpu(config.getoption("markexpr")):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def asks_for_gpu(marks: str) -> bool:
    """Whether an expression of `-m` names the mark `gpu` without `not` before it."""
    return re.search(r"(?<!not )\bgpu\b", marks) is not None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m data`: the tests that do more where NANOGPT_KIT_TEST_DATA is set."""
    for item in items:
        if {"shakespeare", "gpt2_vocabulary"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.data)


@pytest.fixture
def prose() -> Path:
    """200 kB of text; data/make_text.py describes it."""
    return FILES / "prose.txt"


@pytest.fixture
def shakespeare() -> Path:
    """For what was published of it; other tests take `prose`."""
    if not GIVEN:
        pytest.skip("NANOGPT_KIT_TEST_DATA does not say where tiny Shakespeare is")
    return Path(GIVEN) / "tinyshakespeare.txt"


@pytest.fixture
def gpt2_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tiktoken has it once it is downloaded. Without NANOGPT_KIT_TEST_DATA a small one takes its place, whose ids
    above some hundred have no token."""
    if GIVEN:
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(GIVEN) / "tiktoken"))
        return
    import tiktoken.registry
    from tiktoken.load import load_tiktoken_bpe

    from nanogpt_kit.corpus.bpe import EOT, R50K

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # a file of this machine is no download to be kept
    ranks = load_tiktoken_bpe(str(FILES / "small.tiktoken"))
    encoding = tiktoken.Encoding("gpt2", pat_str=R50K, mergeable_ranks=ranks, special_tokens={EOT: 50_256})
    for name in ("gpt2", "r50k_base"):
        monkeypatch.setitem(tiktoken.registry.ENCODINGS, name, encoding)


TINY = """\
name = "tiny"

[dataset]
use = "text"
source = "{text}"

[tokenizer]
use = "byte"

[model]
use = "gpt"
n_layer = 2
n_head = 3
n_embd = 24
block_size = 16
dropout = {dropout}
bias = false

[optimizer]
use = "adamw"
lr = 3e-3

[schedule]
use = "cosine"
warmup_steps = 5

[train]
steps = 20
batch_tokens = 80
micro_batch_size = 2
log_every_steps = 1
precision = "fp32"

[evaluate]
every_steps = 10
batch_size = 32

[checkpoint]
every_steps = 10

[sample]
max_new_tokens = 30
"""


@pytest.fixture(scope="session")
def tiny_source() -> str:
    """The text that `tiny` learns from."""
    return "".join(f"{n} times {n + 7} is {n * (n + 7)}, as everybody \u2603 knows.\n" for n in range(300))


@pytest.fixture
def text_file(tmp_path: Path, tiny_source: str) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(tiny_source, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """The experiment of `tiny`, but for its {text}."""
    return TINY.replace("{dropout}", "0.0")


@pytest.fixture
def with_dropout() -> None:
    """The experiment `tiny` of this test has dropout: for claims that are not trivial where masks are random."""


@pytest.fixture
def tiny(tmp_path: Path, text_file: Path, request: pytest.FixtureRequest) -> Path:
    """An experiment file that trains in a second. Without dropout, which adds a third to the time of a run."""
    path = tmp_path / "tiny.toml"
    dropout = 0.1 if "with_dropout" in request.fixturenames else 0.0
    path.write_text(TINY.format(text=text_file, dropout=dropout), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """`command("check", path)`: the command line, in this process."""
    from nanogpt_kit.__main__ import run_command

    def call(*words: object) -> Answer:
        monkeypatch.setattr("sys.argv", ["nanogpt-kit", *map(str, words)])
        capsys.readouterr()
        code = run_command()
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`install("dist", "[nanogpt_kit.norm]...", module="source")`: a distribution that was not there before.

    The name of a module may be a path."""
    from nanogpt_kit.core.registry import Registry, discover_entries
    from nanogpt_kit.core.requirements import unmet_requirement, warn_once

    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)
    here: list[Registry] = []

    def installed(cls: type[Registry]) -> Registry:
        if not here:
            here.append(Registry(discover_entries()))
        return here[0]

    monkeypatch.setattr(Registry, "installed", classmethod(installed))

    def install(name: str, entry_points: str | bytes, requirement: str = "", /, **modules: str) -> None:
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        required = f"Requires-Dist: {requirement}\n" if requirement else ""
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{required}"
        (info / "METADATA").write_text(text, encoding="utf-8")
        written = entry_points if isinstance(entry_points, bytes) else entry_points.encode()
        (info / "entry_points.txt").write_bytes(written)
        for module, source in modules.items():
            path = site / f"{module}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        here.clear()
        unmet_requirement.cache_clear()
        warn_once.cache_clear()

    yield install
    for module in set(sys.modules) - before:
        if str(site) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """`golden(path, text)` fails with the difference to a text that was read as prose; with `--regenerate` it writes
    the file."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--regenerate"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            return
        reviewed = path.read_text(encoding="utf-8") if path.exists() else ""
        difference = difflib.unified_diff(reviewed.splitlines(), text.splitlines(), path.name, "now", lineterm="", n=0)
        if lines := list(difference):
            slow = "-m slow " if request.node.get_closest_marker("slow") else ""
            accept = f"python -m pytest {slow}{request.path.parent.relative_to(request.config.rootpath)} --regenerate"
            reason = f"sentences changed; read them as prose, and accept them with `{accept}`:"
            pytest.fail("\n".join([reason, *lines]), pytrace=False)

    return check
