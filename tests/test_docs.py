"""The documentation names only what exists: files, links, options, components, commands, names of the Python API."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import tomli

import nanogpt_kit
from nanogpt_kit import api
from nanogpt_kit.cli import main as command_line
from nanogpt_kit.comparison.record import Comparison, Measurement, Result
from nanogpt_kit.core import kinds
from nanogpt_kit.core.entry import Entry
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.hooks import RunHooks
from nanogpt_kit.core.layered_slots import listed_slot
from nanogpt_kit.core.options import Component, Options
from nanogpt_kit.core.registry import Registry
from nanogpt_kit.core.requirements import KIT_DISTRIBUTION
from nanogpt_kit.interop.formats import FormatChoice
from nanogpt_kit.runs.folder import RUN_ID
from nanogpt_kit.runs.indexed_run import FIELDS
from nanogpt_kit.train.metric_names import LOGGED_METRICS
from tests.handbook.pages import blocks_of
from tests.nanogpt_names import NAMES as NANOGPT_NAMES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "plugins").glob("*/README.md"))]
KIND_PAGES = [page for page in PAGES if page.parent.name == "kinds" and page.stem != "index"]
MOST_LINES = {"README.md": 130}
MOST_LINES_OF_A_STOP = 260  # "about 250" in the reading order

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
EXAMPLE_OF_A_KIND = re.compile(r"<!-- example: .*?<!-- end -->", re.DOTALL)
GENERATED = re.compile(r"<!-- (?!needs|file|exit|until)[a-z]+: [^>]* -->.*?<!-- end -->", re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINE_LINK = re.compile(r"\[`[\w.]+(?:\([^`]*\))?`\]\([^)\s#]+\.py#L\d+\)")
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
BARE_NAME = re.compile(r"[a-z_]\w*")
KEY = r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*"


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def prose(page: Path) -> str:
    """A page without its code blocks and its generated blocks."""
    return BLOCK.sub("", GENERATED.sub("", page.read_text(encoding="utf-8")))


# Blocks that come from the code


def test_the_page_of_the_api_has_each_name_once() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    groups = [group for block in re.findall(r"<!-- api: ([^>]*?) -->", page) for group in block.split("; ")]
    names = [name for group in groups for name in group.partition(": ")[2].split()]
    assert sorted(names) == sorted(api.__all__)
    assert len(page.splitlines()) < 300


def test_the_generated_parts_are_those_that_the_code_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])  # it adds its folder, and then commands of later tests are not forked
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    stale = [ids(page) for page in PAGES if generate.generated(page) != page.read_text(encoding="utf-8")]
    stale += [ids(path) for path, drawing in generate.figures() if path.read_text(encoding="utf-8") != drawing]
    assert not stale, f"`make docs` rewrites {', '.join(stale)}"


# Files, links, lengths


@pytest.mark.parametrize("page", LINKED, ids=ids)
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = [
        f"[{text}]({target})" for text, target in LINK.findall(prose(page)) if not leads_somewhere(page, text, target)
    ]
    assert not wrong, wrong


def leads_somewhere(page: Path, text: str, target: str) -> bool:
    """A link to a test names the test; one to a line stays within the file."""
    if target.startswith("https://"):
        return True
    name, _, anchor = target.partition("#")
    path = (page.parent / name) if name else page
    if not path.exists():
        return False
    content = path.read_text(encoding="utf-8") if path.suffix in (".md", ".py", ".toml") else ""
    if re.fullmatch(r"`test_\w+`", text):
        return f"def {text.strip('`')}(" in content
    line = re.fullmatch(r"L(\d+)", anchor)
    if line:
        return int(line[1]) <= content.count("\n")
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", content), re.MULTILINE)
    return not anchor or anchor in {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_pages_are_no_longer_than_promised() -> None:
    for name, most in MOST_LINES.items():
        assert (ROOT / name).read_text(encoding="utf-8").count("\n") <= most, name


def test_each_stop_of_the_reading_order_is_short_and_the_package_names_the_same() -> None:
    _, _, section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Read the code\n")
    stops = [target for _, target in LINK.findall(section.partition("\n## ")[0])]
    assert len(stops) == 5
    for stop in stops:
        assert (ROOT / stop).read_text(encoding="utf-8").count("\n") <= MOST_LINES_OF_A_STOP, stop
    order = " ".join((nanogpt_kit.__doc__ or "").split())
    positions = [order.find(stop.removeprefix("nanogpt_kit/")) for stop in stops]
    assert -1 not in positions, order
    assert positions == sorted(positions), order


# Names


def classes_in(annotation: Any) -> list[type[Options]]:
    """The models below an annotation: `tuple[Sampler, ...]` gives Sampler, `Sweep | None` Sweep."""
    if inspect.isclass(annotation) and issubclass(annotation, Options):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in classes_in(part)]


def built_in(kind: str) -> list[type[Component]]:
    entries = [entry for entry in Registry.installed().of_kind(kind) if entry.distribution == KIT_DISTRIBUTION]
    targets = [entry.target.partition(":") for entry in entries]
    return [getattr(importlib.import_module(module), name) for module, _, name in targets]


def candidates(model: type[Options]) -> list[type[Options]]:
    """Where a kind is meant, each of its components."""
    return [model, *built_in(model.kind)] if "kind" in vars(model) and issubclass(model, Component) else [model]


KINDS = [model for field in Experiment.model_fields.values() for model in classes_in(field.annotation)]
EXAMPLES = {"slope", "width", "penalty", "fraction"}  # options of the components that the documentation defines


def components_of(kind: type[Options]) -> list[Entry]:
    return Registry.installed().of_kind(kind.kind) if issubclass(kind, Component) and "kind" in vars(kind) else []


def is_format_key(key: str) -> bool:
    """Whether it is an option of a built-in format, as `import` and `export` take it."""
    first, _, rest = key.partition(".")
    return first == "format" and any(rest in found.model_fields for found in candidates(kinds.Format))


def is_key(key: str, models: tuple[type[Options], ...] = (Experiment, FormatChoice)) -> bool:
    """Whether an experiment file, an import or an export may set a dotted key, for some choice of components."""
    first, _, rest = key.partition(".")
    if first in ("use", "extends") or (first in EXAMPLES and models[0] is not Experiment):
        return not rest
    for model in models:
        for candidate in candidates(model):
            field = candidate.model_fields.get(first)
            if field is None:
                continue
            inner = tuple(classes_in(field.annotation))
            if typing.get_origin(field.annotation) is tuple or listed_slot(
                field
            ):  # an element of a list, by its index or name
                names = "|".join(entry.name for kind in inner for entry in components_of(kind)) or "0"
                rest = re.sub(rf"^(\d+|{names})(\.|$)", "", rest)
            if not rest or first == "space" or (inner and is_key(rest, inner)):
                return True
    return False


def kinds_and_sections() -> Iterator[type[Options]]:
    yield Experiment
    waiting, seen = list(KINDS), set()
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        for candidate in candidates(model):
            yield candidate
            waiting += [inner for field in candidate.model_fields.values() for inner in classes_in(field.annotation)]


def literals(annotation: Any) -> Iterator[str]:
    if typing.get_origin(annotation) is typing.Literal:
        yield from map(str, typing.get_args(annotation))
    for part in typing.get_args(annotation):
        yield from literals(part)


def commands(group: click.Group = command_line, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


def flags_of(command: click.Command) -> set[str]:
    """Those of a group include those of its commands: `sweep` has one that is not named."""
    own = {flag for option in command.params for flag in option.opts} | {"--help"}
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return own.union(*(flags_of(other) for other in inner))


COMMANDS = dict(commands())
FLAGS = flags_of(command_line)
MODELS = list(kinds_and_sections())
OPTIONS = {name for model in MODELS for name in model.model_fields}
VALUES = {value for model in MODELS for field in model.model_fields.values() for value in literals(field.annotation)}
COMPONENTS = {entry.name for entry in Registry.installed().entries if entry.distribution == KIT_DISTRIBUTION}
SECTIONS = {f"[{name}]" for name in Experiment.model_fields} | {f"[[{name}]]" for name in Experiment.model_fields}
API = {name: getattr(module, name) for module in (nanogpt_kit, api, kinds) for name in module.__all__}
SUITES = {
    name
    for path in (ROOT / "nanogpt_kit" / "testing").glob("*.py")
    for name in re.findall(r"^(?:class |def |    (?:def )?)(\w+)(?:\(|: |:$)", path.read_text(encoding="utf-8"), re.M)
}


def members() -> dict[str, list[Any]]:
    """What the attributes of public classes are, by name; those that only instances have are None."""
    found: dict[str, list[Any]] = {}
    generator = typing.get_type_hints(nanogpt_kit.load_run)["return"]
    for value in (*API.values(), RunHooks, generator):
        if inspect.isclass(value):
            own = re.findall(r"^ +self\.([a-z]\w*)(?:: .*)? = ", inspect.getsource(value), re.MULTILINE)
            for name in {*dir(value), *getattr(value, "__annotations__", {}), *own}:
                if not name.startswith("_"):
                    found.setdefault(name, []).append(getattr(value, name, None))
    return found


MEMBERS = members()
ROOMS = {path.name for path in (ROOT / "nanogpt_kit").rglob("*") if path.is_dir()}
SHIPPED = {name for path in (ROOT / "experiments").glob("*.toml") for name in (path.name, path.stem)}
NAMES = SHIPPED | {"my", "x", "char"}  # of experiments, one of them the reader's
# What runs, sweeps, exports and others write, and what other programs call their files
FILES = {
    *(
        "experiment.toml",
        "provenance.json",
        "dirty.patch",
        "status.json",
        "metrics.jsonl",
        "samples.txt",
        "nanogpt-kit.schema.json",
        "report.html",
    ),
    *(
        "best.toml",
        "runs/",
        "data/",
        "tokenizer.json",
        "train.bin",
        "<split>.counted.bin",
        "val.bin",
        "meta.pkl",
        "sample.py",
        ".npy",
        ".jsonl",
    ),
    *(".journal", "~/.pgpass", "notes.jsonl", "$XDG_CACHE_HOME/nanogpt-kit/runs", "~/.cache"),
    *("comparison.json", "test-split.json"),
    "experiments/my_gate.toml",  # in a plugin of the reader
}
# Words of TOML, of other programs, and of records
WORDS = {
    *("true", "false", "null", "~", "$DATA", "VERB", "\\u001b", "started", "weights", "block_size"),
    *("-m gpu", "CUDA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES=MIG-...,MIG-...", "GPU-...", "nvidia-smi -L"),
    *("expandable_segments", "PYTORCH_ALLOC_CONF=expandable_segments:True", "USE_LIBUV=0", "triton-windows"),
    *(
        "torch.compile",
        "encode_ordinary",
        "encode_ordinary_batch",
        "datasets",
        "nn.Linear",
        "nn.Dropout",
        "torch.where",
        "torch.mv",
        "torch.jit",
        "x * mask",
        "updates(threads)",
        "model.py",
        "train.py",
        "make bench-nanogpt NANOGPT=nanoGPT",
        "GOMP_SPINCOUNT=2000",
        "GOMP_SPINCOUNT=5000",
        "GOMP_SPINCOUNT=20000",
        "NANOGPT_KIT_TEST_NANOGPT",
        "nn.Embedding",
        "forward",
        "gzip -9",
        "xz -9",
        "nohup",
        "psycopg",
        "psycopg2",
    ),
    *("mysqlclient", "pymysql", "PGPASSWORD", "postgresql://...", "mysql://...", "grpc://HOST:PORT", "--rdzv-id"),
    *("NANOGPT_KIT_CALIBRATION", "NANOGPT_KIT_CALIBRATION=off", "NANOGPT_KIT_CALIBRATION=FILE", "ATEN_CPU_CAPABILITY"),
    *("XDG_CACHE_HOME", "~/.cache/nanogpt-kit/calibration", "ctx.machine.choice(task, first)", "precision cpu"),
    *("machine_choices.json", "doctor --calibrate", "OMP_WAIT_POLICY"),
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY=passive", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", "--signal=USR1@60"),
    *("NANOGPT_KIT_RUNS", "NANOGPT_KIT_DATA", "state_dict", "load_state_dict", "slow", "max-autotune", "device"),
    *("TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME", "~/.cache/nanogpt-kit/compiled"),
    *("ctx", "endings", "label", "question", "choices", "answerKey", "text", "prompt", "answer", "top_k"),
    *("matrix", "vector", "embedding", "head", "segments", "experiments/leaky.py", "KeyboardInterrupt"),
    *("val/loss", "val/bits_per_byte", "train/loss", "optim/lr", "train/counted_fraction", "perf/tokens_per_second"),
    *("perf/mfu", "[[optimizer.group]]", "wte", "wte.weight", "params", "names", "uses_total_steps = True"),
    *("schedule/<target>", "step / total_steps", "cooldown.toml", "optimizer.group.0.lr"),
    *("val/loss/code", "val/loss/notes", "fraction", "windows", "passes"),  # of a mixture
    *("(y, extra)", "aux/<name>", "aux/", "aux/hidden_size", "h.0.mlp/largest_weight", "logged_metrics"),
    *("changed_at_step", "code", "distributions", "yardsticks", '"*"', '""'),  # of provenance.json
    *("sources", "version_changes"),  # there, too
    *(*Comparison.model_fields, "runs/NAME/KIND/ID/", "noise"),  # of comparison.json
    *(
        *Result.model_fields,
        *Measurement.model_fields,
        "interval",
        "values",
        "n",
        "target",
        "tokens_saved",
        "test",
    ),  # and of `run --seeds --json`
    *("changes.txt", "train.seed=100"),
    *("hellaswag/accuracy", "hellaswag/accuracy_norm", "lambada/accuracy", "lambada/perplexity", "wiki/bits_per_byte"),
    *(
        "wiki/loss",
        "wiki/perplexity",
        "tensorboard --logdir runs",
        "epoch",
        "nanogpt-kit VERB --help",
        ". .venv/bin/activate",
        '-m "not slow"',
    ),
    *(
        "choice.NAME",
        "dataset.source=<local parquet>",
        'tokenizer.from_run = "<run>"',
    ),
    *('use = "..."', 'use = "package-name/glu"', "trust_code=True", 'norm: Norm = slot("layernorm")'),
    # of Python and TensorBoard
    *("None", "resume=True", "resume=run", 'logging.basicConfig(level="INFO")', "experiment.with_(model=other.model)"),
    *('{"use": "temperature", "value": 0.5}', "Loss/train", "Loss/val", "Loss/val_bits_per_byte"),
    *("seconds", "val/", "samplers"),
    # of developers
    *(
        "make quick",
        "make test",
        "make check",
        "make docs",
        "make bench",
        "make gpu",
        ".ci/run",
        "lint-imports",
        "ruff check",
        "mypy",
    ),
    *(
        "ruff format",
        "pre-commit install",
        "pytest tests/train/test_resume.py -k short_types",
        "-m slow",
        "gpu",
        "data",
    ),
    *("NO_COLOR", "TERM=dumb"),
    *("license", "nanogpt-kit>=0.2,<0.3", "python -m pytest"),
    *("nanogpt-kit plugins test TARGET...", "conformance", "source=a.txt", "test_glu.py", "glu.py", "tests"),
    *("nanogpt-kit plugins test my-package dataset/mine.source=a.txt", "nanogpt-kit plugins test DISTRIBUTION"),
    *("nanogpt_kit.verb", "nanogpt-kit DISTRIBUTION/VERB", "nanogpt-kit next-token --help"),
    *("--format NAME", "--format FILE.py", "format.KEY=VALUE", "nanogpt_kit.format", "package-name/"),
    *("numpy_archive.py", "write_source"),
    *("=", "!=", "<", "<=", ">", ">=", "*", "?", "[...]", "2026-11-01"),  # of filters
    *("NANOGPT_KIT_TEST_DATA", "tinyshakespeare.txt", "nanogpt_kit.<kind>", "file:line", "key=value", "n_"),
    *("utils", "helpers", "common", "manager", "read", "check", "concurrent.futures.ProcessPoolExecutor"),
    *("torch.multinomial", "datasets.map", "--version", "machine"),
    *("space/", "study/", "work/", "report/"),
    *("my", "my.toml", "my@best", "leaky.py"),  # an experiment and a component of the reader
    "'components=[\"my.py\"] model.mlp=my'",
    *(f"{prefix}{name}.py" for name in ("sliding_window", "cooldown", "json_log") for prefix in ("", "test_")),
    *("log.jsonl", "masked_fill"),  # of docs/extending/three-components.md
    *NANOGPT_NAMES,  # of docs/coming-from-nanogpt.md
    # the space of a sweep
    *("log", "log = true", "step = 1e-3", "step = 2", "{ float = [1e-4, 1e-2], log = true }", "{ int = [2, 8] }"),
    *('{ choice = ["learned", "rope"] }', '{ ..., when = { "other.key" = "rope" } }', '"optimizer.weight_decay" = 0.1'),
}


# Of the handbook: a name on a line
WORDS.update(
    line for path in (ROOT / "tests" / "words").glob("*.txt") for line in path.read_text(encoding="utf-8").splitlines()
)

# What `--json` prints, which tests/cli/test_json_output.py holds against the commands
JSON_KEYS = {
    span
    for line in prose(ROOT / "docs" / "guide" / "agents.md").splitlines()
    if line[:3] == "| `"
    for span in SPAN.findall(line)
}


def is_explained(span: str) -> bool:
    """Whether an inline piece of code names what exists."""
    span = " ".join(span.split())  # a line may end within it
    if span in JSON_KEYS:
        return True
    if span in WORDS or span.isdigit():
        return True
    known = {
        *OPTIONS,
        *VALUES,
        *COMPONENTS,
        *SECTIONS,
        *API,
        *MEMBERS,
        *COMMANDS,
        *SUITES,
        *SHIPPED,
        *ROOMS,
        *FILES,
        *WORDS,
        *FLAGS,
        *LOGGED_METRICS,
    }
    bare = span.strip('"')
    if bare in known or is_key(bare):
        return True
    if re.fullmatch(r"(nanogpt-kit )?[a-z ]+( .*)?", span) and is_command(span.removeprefix("nanogpt-kit ")):
        return True
    if is_run_reference(span.replace("/sweep", "")):
        return True
    if re.fullmatch(r"test_\w+", span):  # which its link explains
        return True
    if span.startswith("nanogpt_kit"):
        return importlib.util.find_spec(span) is not None
    setting = re.fullmatch(rf"({KEY}) ?= ?(.+)", span)
    if setting:
        return setting[1] in OPTIONS | {"is_tracker", "relative", "computed_function"} or is_key(setting[1])
    call = re.fullmatch(r"@?(?:\w+\.)?(\w+)(?:\((.*)\))?", span)
    if call:
        name, arguments = call.groups()
        targets = [API[name]] if name in API else MEMBERS.get(name, [])
        return any(arguments is None or takes(target, arguments) for target in targets)
    if span.startswith("pip install "):
        return is_installable(span)
    if "/" in span or re.search(r"\.(py|toml|md)$", span):
        return any((folder / span).exists() for folder in (ROOT, ROOT / "experiments", ROOT / "nanogpt_kit"))
    return all(is_explained(part) for part in span.split()) if " " in span else False


def is_run_reference(span: str) -> bool:
    """Whether it is a run id, or the name of a shipped experiment, each with or without @best and @STEP."""
    name, *suffixes = span.split("@")
    is_name = not name or RUN_ID.fullmatch(name.rpartition("/")[2]) or name in SHIPPED
    return bool(is_name and span) and all(suffix in ("best", "STEP") or suffix.isdigit() for suffix in suffixes)


def is_installable(command: str) -> bool:
    extras = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return all(extra in extras for extra in re.findall(r"nanogpt-kit\[(\w+)\]", command))


def takes(target: Any, arguments: str) -> bool:
    """Whether a function has the arguments that a call names."""
    names = re.findall(r"(?:^|, )([a-z_]+)(?=[,=]|$)", arguments)
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return not names
    return set(names) <= {*parameters} or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def is_command(line: str) -> bool:
    """Whether `nanogpt-kit LINE` names a verb, flags that it has, and keys that exist."""
    words = shlex.split(line)
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), None)
    if name is None:
        return False
    flags = flags_of(COMMANDS[name])
    for word in words[len(name.split()) :]:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in flags:
            return False
        setting = re.fullmatch(rf"({KEY})=(.*)", word, re.DOTALL)
        if setting and not is_key(setting[1]) and not (name == "runs list" and setting[1] in FIELDS):
            return False
        if word.startswith("experiments/") and word not in FILES and not (ROOT / word).exists():
            return False
    first = next((word for word in words[len(name.split()) :] if not word.startswith("-")), "")
    return "EXPERIMENT" not in arguments_of(COMMANDS[name]) or not BARE_NAME.fullmatch(first) or first in NAMES


def arguments_of(verb: click.Command) -> list[str]:
    return [one.make_metavar(click.Context(verb)) for one in verb.params if isinstance(one, click.Argument)]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_name_in_prose_exists(page: Path) -> None:
    text = LINE_LINK.sub("", prose(page))  # whose names `make pages` has found
    unknown = sorted({span for span in SPAN.findall(text) if not is_explained(span)})
    assert not unknown, unknown


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_command_exists_with_its_flags_and_keys(page: Path) -> None:
    wrong = []
    for block in blocks_of(page):
        if block.language != "sh" or block.marker("exit") == "2":  # a mistake that the page shows
            continue
        for line in re.sub(r"\\\n", " ", block.text).splitlines():
            words = line.partition("  #")[0].partition(" > ")[0].strip()
            found = re.search(r"(?:^|/)nanogpt-kit (.*)|-m nanogpt_kit (.*)", words)
            if found and not is_command(found[1] or found[2]):
                wrong.append(words)
    assert not wrong, wrong


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_key_of_a_toml_block_exists(page: Path) -> None:
    text = EXAMPLE_OF_A_KIND.sub("", page.read_text(encoding="utf-8"))  # the tests of that component load it
    for block in (block for language, block in BLOCK.findall(text) if language == "toml"):
        values = tomli.loads(block)
        if {"project", "tool", "plugin"} & values.keys():  # of pyproject.toml, of plugins.toml
            continue
        wrong = [key for key in flat(values) if not is_key(key)]
        assert not wrong, wrong


def flat(values: dict[str, Any], before: str = "") -> Iterator[str]:
    for name, value in values.items():
        key = f"{before}{name}"
        if isinstance(value, dict) and key not in ("sweep.space", "ablate.vary", "ablate.changes"):
            yield from flat(value, f"{key}.")
        else:
            yield key


# Python


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_import_of_a_python_block_works(page: Path) -> None:
    for block in code(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nanogpt_kit"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", KIND_PAGES, ids=ids)
def test_a_page_shows_the_example_of_its_kind_and_the_claims_of_its_suite(page: Path) -> None:
    blocks = re.findall(r"^<!-- (\w+): ([^>]*) -->$", page.read_text(encoding="utf-8"), re.MULTILINE)
    names = dict(blocks)
    assert (names["example"], names["suite"]) == (page.stem, page.stem)
    contract = names["source"].split()
    assert any(getattr(kinds, name, None) is kinds.KINDS[page.stem] for name in contract), contract


def test_there_is_a_page_for_every_kind() -> None:
    kinds = {entry.kind for entry in Registry.installed().entries if entry.distribution == KIT_DISTRIBUTION}
    assert {page.stem for page in KIND_PAGES} == kinds
