"""Config files of nanoGPT are read without executing any part of them; all else than assignments is refused."""

from __future__ import annotations

import ast
import os
import time
import tracemalloc
from pathlib import Path

import pytest

from nanogpt_kit.core.errors import KitError
from nanogpt_kit.core.foreign_names import NANOGPT
from nanogpt_kit.interop.nanogpt_config import MAX_BYTES, NanoGPTConfig, read_nanogpt_config
from nanogpt_kit.interop.nanogpt_expression import CLOCK
from nanogpt_kit.interop.nanogpt_options import DEFAULTS, ELSEWHERE


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.py"


def read_config(path: Path, text: str) -> NanoGPTConfig:
    path.write_text(text, encoding="utf-8")
    return read_nanogpt_config(path)


def faults_of(path: Path, text: str) -> list[tuple[str, str]]:
    """(line, message) of each fault."""
    with pytest.raises(KitError) as caught:
        read_config(path, text)
    return [(fault.location.removeprefix(f"{path}:"), fault.message) for fault in caught.value.faults]


# What is allowed


EXPRESSIONS = """\
5 * 8 * 1024
-1
6e-4
+2.5
1e3
7 // 2
7 % 4
2 ** 10
2 ** -2
(-8) ** 2
1 - 2 - 3
0x10
1_000
1.5 / 3
True
False
'a' + "b" 'c'
str(5) + f'{6}-{7.5}'
'é\\n'
""".splitlines()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_literals_and_arithmetic_have_the_value_that_python_gives_them(expression: str, config: Path) -> None:
    expected = eval(expression)
    option = {bool: "bias", str: "wandb_project"}.get(type(expected), "learning_rate")
    value = read_config(config, f"{option} = {expression}\n")[option]
    assert (value, type(value)) == (expected, type(expected))


def test_an_option_may_be_computed_from_those_before_it_and_from_defaults(config: Path) -> None:
    text = "max_iters = 300\nlr_decay_iters = max_iters\nmin_lr = learning_rate / 10\nn_layer = n_layer * 2\n"
    found = read_config(config, text + "n_head = n_embd = 64\n")
    assert [found[name] for name in ("lr_decay_iters", "min_lr", "n_layer", "n_head")] == [300, 6e-4 / 10, 24, 64]
    assert found.location("n_layer") == f"{config}:4"
    assert found.location("batch_size") == str(config)
    assert found.location("batch_size", "n_embd", "n_head") == f"{config}:5"


def test_names_of_runs_may_depend_on_the_time_which_is_not_read(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: pytest.fail("executed"))
    found = read_config(config, '"""A text."""\nimport time\nwandb_run_name = "ft-" + str(time.time())\npass\n')
    assert found.values["wandb_run_name"] is CLOCK
    found = read_config(config, 'import time; out_dir = f"out-{time.time()}"; wandb_project = out_dir + "x"')
    assert found.values["wandb_project"] is CLOCK


def test_a_byte_order_mark_and_comments_are_allowed(config: Path) -> None:
    config.write_bytes(b"\xef\xbb\xbf# -*- coding: latin-1 -*-\r\nbatch_size = 3 # \xc3\xa9\r\n")
    assert read_nanogpt_config(config)["batch_size"] == 3


def test_a_warning_about_an_escape_sequence_is_not_shown(config: Path) -> None:
    assert read_config(config, r"wandb_project = '\d'")["wandb_project"] == r"\d"


def test_the_options_are_those_that_other_messages_know() -> None:
    only_here = {"dataset", "real_data", "profile"}  # the first is a section here; the others are not of train.py
    assert {name for name in [*DEFAULTS, *ELSEWHERE] if name not in NANOGPT} == only_here


# What is refused


CODE = """\
__import__('os').system('touch executed')
open('executed', 'w')
exec("open('executed', 'w')")
[open('executed', 'w') for _ in (1,)]
(lambda: open('executed', 'w'))()
f"{open('executed', 'w')}"
str(open('executed', 'w'))
str(*[open('executed', 'w')])
str(object=1)
time.time()
time.sleep(9)
().__class__.__base__.__subclasses__()
open
1 if True else 2
1 < 2
True or False
not True
~1
1 << 99999999999
[1]
(1, 2)
{1: 2}
{1}
b'bytes'
1j
None
...
n_head[0]
(x := 1)
'%s' % 1
'a' * 10**9
f'{1:>999999999}'
f'{1!r}'
True + 1
dtype
nothing
""".splitlines()


@pytest.mark.parametrize("code", CODE)
def test_code_is_refused_with_its_line_and_not_executed(
    code: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [line for line, _ in faults_of(config, f"# a comment\n\nwandb_run_name = {code}\n")] == ["3"]
    assert not Path("executed").exists()


STATEMENTS = r"""import os
import time as t
import time, os
from time import time
for _ in (1,): pass
while True: pass
if True: batch_size = 1
def f(): pass
class C: pass
batch_size += 1
batch_size: int = 1
batch_size, n_head = 1, 2
(batch_size) [0] = 1
a.b = 1
del batch_size
print('x')
exec('x')
assert False
raise ValueError
global batch_size
try: pass\nfinally: pass
with open('executed'): pass
5
""".splitlines()


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_that_is_no_assignment_is_refused_with_its_line(statement: str, config: Path) -> None:
    text = statement.replace("\\n", "\n")
    assert [line for line, _ in faults_of(config, f"batch_size = 2\n{text}\nn_head = 4\n")] == ["2"]


# Each would be slow or large if it were computed: (expression, a word of the message)
BOMBS = [
    ("9**9**9", "power"),
    ("9**9**9**9**9", "power"),
    ("2.0**99999", "power"),
    ("2**-99999999999", "power"),
    ("(-8)**0.5", "not a real number"),
    ("1e308 * 10", "not finite"),
    ("1e999", "not finite"),
    ("2**62 * 2", "too large"),
    ("0x" + "f" * 60_000, "too large"),
    ("9" * 60_000, "not Python"),
    ("1 / 0", "division by zero"),
    ("0 ** -1", "division by zero"),
    ("1 % 0", "division by zero"),
    ("'" + "a" * 60_000 + "'", "characters"),
    ("'a' * 60_000", "numbers only"),
    ("-" * 60_000 + "1", "nested too deeply"),
    ("1+" * 30_000 + "1", "nested too deeply"),
    ("1+" * 200 + "1", "nested too deeply"),
    ("(" * 190 + "-1" + ")" * 190 + "." + "a." * 20_000 + "a", "nested too deeply"),
    ("not " * 15_000 + "1", "nested too deeply"),
    ("1 if 1 else " * 5_000 + "1", "nested too deeply"),
    ("(" * 60_000, "too many nested parentheses"),
    ("[" * 150, "never closed"),
    ("{" * 150 + "1 1" + "}" * 150, "not Python"),
    ("f(" * 150 + "1 1" + ")" * 150, "not Python"),
    ("'\\ud800'", "surrogate"),
    ("1\0", "null bytes"),
]


@pytest.mark.parametrize(("expression", "word"), BOMBS, ids=[bomb[:20] for bomb, _ in BOMBS])
def test_no_expression_takes_much_time_or_memory(expression: str, word: str, config: Path) -> None:
    tracemalloc.start()
    began = time.process_time()
    ((_, message),) = faults_of(config, f"learning_rate = {expression}\n")
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert word in message
    assert seconds < 3  # tracing makes it several times slower
    assert peak < 60e6


def test_a_string_that_doubles_is_refused_before_it_is_large(config: Path) -> None:
    text = "out_dir = 'aaaaaaaaaa'\n" + "out_dir = out_dir + out_dir\n" * 2_000
    found = faults_of(config, text)
    assert [line for line, _ in found] == ["8"]  # the lines after it use what was refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("eval_intervall = 5", "nanoGPT's train.py has no option 'eval_intervall'; did you mean 'eval_interval'?"),
        ("seed = 5", "'seed' is an option of nanoGPT's sample.py and bench.py, which train.py ignores"),
        ("top_k = 5", "'top_k' is an option of nanoGPT's sample.py"),
        ("real_data = True", "'real_data' is an option of nanoGPT's bench.py"),
        ("batch_size = 0", "batch_size = 0; expected at least 1"),
        ("batch_size = 2.5", "batch_size = 2.5; expected a whole number"),
        ("batch_size = '2'", "batch_size = '2'; expected a whole number"),
        ("n_layer = True", "n_layer = True; expected a whole number"),
        ("dropout = '0.1'", "dropout = '0.1'; expected a number"),
        ("bias = 0", "bias = 0; expected True or False"),
        ("dataset = 5", "dataset = 5; expected text"),
        ("import time\nmax_iters = time.time()", "max_iters should not depend on the time"),
        ("import time\ndataset = str(time.time())", "dataset should not depend on the time"),
        ("import time\nmax_iters = time.time() + 1", "arithmetic is evaluated for numbers only"),
    ],
)
def test_a_mistake_is_explained(text: str, said: str, config: Path) -> None:
    ((line, message),) = faults_of(config, text)
    assert line == str(text.count("\n") + 1)
    assert message.startswith(said)


def test_all_faults_are_reported_at_once_each_once(config: Path) -> None:
    text = "import os\nbatch = 4\nbatch_size = batch\nmax_iters = 1/0\nlr_decay_iters = max_iters\nn_head = open('x')\n"
    assert [line for line, _ in faults_of(config, text)] == ["1", "2", "4", "6"]


# What is no config file


def refused_file(path: Path) -> str:
    with pytest.raises(KitError) as caught:
        read_nanogpt_config(path)
    return str(caught.value)


def test_what_is_not_a_small_text_file_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    assert "No such file" in refused_file(config)
    assert "it is a folder" in refused_file(tmp_path)
    os.mkfifo(config)
    assert "not a regular file" in refused_file(config)
    assert "not a regular file" in refused_file(Path("/dev/zero"))
    assert "null byte" in refused_file(Path("a\0b"))


def test_a_large_file_is_refused_unread(config: Path) -> None:
    with config.open("wb") as file:
        file.truncate(100_000_000)
    tracemalloc.start()
    assert f"larger than {MAX_BYTES:,} bytes" in refused_file(config)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_text_that_is_not_utf8_is_refused_with_its_line(config: Path) -> None:
    config.write_bytes(b"batch_size = 1\n# caf\xe9\n")
    assert refused_file(config) == f"{config}:2: a config file of nanoGPT should be text in UTF-8"


def test_a_syntax_error_has_its_line(config: Path) -> None:
    assert faults_of(config, "batch_size = 1\nn_head = = 2\n") == [("2", "this is not Python: invalid syntax")]


def test_the_largest_file_that_is_read_is_read_fast(config: Path) -> None:
    text = "n_head=1\n" * (MAX_BYTES // 9)
    began = time.process_time()
    assert read_config(config, text)["n_head"] == 1
    assert time.process_time() - began < 5


# nanoGPT itself


GIVEN = os.environ.get("NANOGPT_KIT_TEST_NANOGPT")  # a checkout of nanoGPT


@pytest.mark.slow
@pytest.mark.data
def test_the_defaults_are_those_of_train_py() -> None:
    if not GIVEN:
        pytest.skip("NANOGPT_KIT_TEST_NANOGPT does not say where a checkout of nanoGPT is")
    found = {}
    for node in ast.parse(Path(GIVEN, "train.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Expr) and "configurator.py" in ast.unparse(node):
            break
        if isinstance(node, ast.Assign) and not ast.unparse(node).startswith("config_keys"):
            name = ast.unparse(node.targets[0])
            found[name] = "bfloat16" if name == "dtype" else eval(ast.unparse(node.value))
    assert list(found.items()) == list(DEFAULTS.items())
