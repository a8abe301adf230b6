"""Which line does each key stand on, and what does `extends` compose?"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import tomli
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt_kit.core import toml, toml_lines
from nanogpt_kit.core.errors import KitError

# Every scalar of these documents begins with the number of the line on which its key or element stands.
DOCUMENTS = {
    "tables within tables": """\
a = 1

[b]
c = 4
[b.d.e]
f = 6
[g]
h = 8
[b.i]
j = 10
""",
    "arrays of tables": """\
[[a]]
b = 2
[a.c]
d = 4
[[a.e]]
f = 6
[[a.e]]
f = 8
[[a]]
b = 10
[a.c]
d = 12
[[a.e]]
f = 14
[a.e.g]
h = 16
[[z]]
""",
    "inline tables": """\
a = { b = 1, c = { d = 1 }, e = [1, { f = 1 }] }
g = [{ h = 2 }, { h = 2, "i" = 2 }]
""",
    "inline tables over several lines": """\
a = {
  b = 2,  # } ] , a comment
  c = { d = 3, e = [
    4,
    5,
  ] },

  f = [ { g = 8 },
    { g = 9, },
  ],
}
h = 12
""",
    "lists over several lines": """\
a = [ 1, 1,
  2,  # ], [ "
  # 3,
  [4, 4,
   5 # ], 6
  ],
  "7 ]", '7 "',
]
b = [
  10, ]
""",
    "dotted and quoted keys": """\
a.b.c = 1
a . b . "d.e" = 2
'f "g" # h' = 3
"i\\"j \\u00e9" = 4
"" = 5
a."".'x]' = 6
["k.l".m]
n = 8
[ "]" . '#' ]
o = 10
[["[["]]
p.q = 12
1234 = 13
-_- = 14
""",
    "strings": """\
a = "1 # [no] table = 'x' \\" \\\\"
b = '2 \\'
c = "3 \\\\"
d = ["4 ]", '4 ["', "4 }"] # ]
e = { f = "5 }", g = '5 {' }
""",
    "strings over several lines": '''\
a = """1
[b]
c = 2 \\""" ' \\\\"""
d = """4 ""quoted""""
e = """5 ""quoted"""""
f = \'\'\'6 'quoted\'\'\'\'
g = \'\'\'7 'quoted\'\'\'\'\'
h = """
8 \\
    \\
    """
i = """"12 """
j = """13\\\\"""
k = [\'\'\'14
\\\'\'\', """15""", """15 """"]
l = 16
''',
    "numbers, dates and booleans": """\
# a comment first
a = 2.5e0
b = +3
c = 4  # a comment
d = 0005-01-01 07:32:00
e=6
	f	=	7
""",
}


def every(values: Any, at: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    """Every key and element, tables and lists included."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [pair for key, value in items for pair in [((*at, key), value), *every(value, (*at, key))]]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_key_and_element_is_found_on_its_line(name: str, newline: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(DOCUMENTS[name].replace("\n", newline).encode())
    document = toml.read_toml_file(path)
    assert document.values == tomli.loads(DOCUMENTS[name])
    assert document.lines.keys() == {key for key, _ in every(document.values)}
    for key, value in every(document.values):
        if not isinstance(value, dict | list):
            first = re.search(r"\d+", str(value))
            assert first, value
            assert document.lines[key] == int(first[0]), key


def test_a_table_is_found_at_its_header() -> None:
    text = DOCUMENTS["tables within tables"] + DOCUMENTS["arrays of tables"].replace("[a", "[y")
    lines = toml_lines.Scanner(text).scan()
    assert [lines[key] for key in [("b",), ("b", "d"), ("b", "d", "e"), ("g",), ("b", "i")]] == [3, 5, 5, 7, 9]
    assert [lines[key] for key in [("y",), ("y", 0), ("y", 0, "c"), ("y", 0, "e", 1), ("y", 1)]] == [11, 11, 13, 17, 19]


ODD = "ab_-.\"'#[]{}=,\\ \t\u00e9\u2028"
KEYS = st.text(ODD, max_size=4)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        st.just(0) | st.text(ODD + "\n", max_size=6),
        lambda tree: st.lists(tree, max_size=3) | st.dictionaries(KEYS, tree, max_size=3),
        max_leaves=12,
    ),
    max_size=4,
)


def numbered(tree: Any, numbers: itertools.count[int]) -> Any:
    """Every 0 becomes a number of its own."""
    if isinstance(tree, dict):
        return {key: numbered(item, numbers) for key, item in tree.items()}
    if isinstance(tree, list):
        return [numbered(item, numbers) for item in tree]
    return next(numbers) if tree == 0 else tree


@settings(deadline=None)
@given(TREES, st.booleans())
def test_every_key_of_a_generated_document_is_found_on_its_line(tree: dict[str, Any], long_strings: bool) -> None:
    values = numbered(tree, itertools.count(12340))
    text = tomli_w.dumps(values, multiline_strings=long_strings)
    lines = toml_lines.Scanner(text).scan()
    assert lines.keys() == {key for key, _ in every(values)}
    written = ["", *text.split("\n")]
    for key, value in every(values):
        if isinstance(value, int):
            assert str(value) in written[lines[key]]
        if isinstance(key[-1], str) and key[-1].isalpha():
            assert key[-1] in written[lines[key]] or not key[-1].isascii()


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def test_extends_gives_the_base_first(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path, top='extends = "below/middle.toml"\na = 1', ground="a = 3")
    write(tmp_path / "below", middle='extends = "../ground.toml"\na = 2')
    documents = toml.read_extended_files(tmp_path / "top.toml")
    assert [document.values for document in documents] == [{"a": 3}, {"a": 2}, {"a": 1}]


@pytest.mark.parametrize("base", ["a.toml", "./b.toml", "../here/a.toml"])
def test_a_circle_of_files_is_refused_where_it_closes(base: str, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    write(folder, a='extends = "b.toml"', b=f'\nextends = "{base}"')
    with pytest.raises(KitError, match="extend each other in a circle") as refused:
        toml.read_extended_files(folder / "a.toml")
    circle = f"{folder / 'a.toml'} -> {folder / 'b.toml'} -> {folder / base}"
    assert str(refused.value).startswith(f"{folder / 'b.toml'}:2: extends: ")
    assert str(refused.value).endswith(circle)


def test_a_missing_base_is_named_at_the_line_of_extends(tmp_path: Path) -> None:
    write(tmp_path, a='# x\n\nextends = "gone.toml"')
    with pytest.raises(KitError) as refused:
        toml.read_extended_files(tmp_path / "a.toml")
    message = str(refused.value)
    assert message.startswith(
        f"{tmp_path / 'a.toml'}:3: extends: {tmp_path / 'gone.toml'}: cannot be read: No such file"
    )
    assert "relative to the file that extends" in message


def test_a_fault_in_a_base_file_is_located_in_the_base_file(tmp_path: Path) -> None:
    write(tmp_path, a='extends = "b.toml"', b="x = \n")
    with pytest.raises(KitError, match=r"b\.toml:1: x: not TOML"):
        toml.read_extended_files(tmp_path / "a.toml")


@pytest.mark.parametrize("base", ["3", '["b.toml"]', "{ x = 1 }"])
def test_extends_takes_one_path(base: str, tmp_path: Path) -> None:
    write(tmp_path, a=f"\nextends = {base}")
    with pytest.raises(KitError, match=r"a\.toml:2: extends: should be the path of one file, got "):
        toml.read_extended_files(tmp_path / "a.toml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"gone\.toml: cannot be read: No such file"):
        toml.read_toml_file(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("text", "line"), [("a = 1\nb = \n", 2), ("a = 1\na = 2", 2), ("\n\n[x", 3), ('a = 1\n\nb = "x\n', 3)]
)
def test_a_syntax_error_has_its_line(text: str, line: int, tmp_path: Path) -> None:
    write(tmp_path, a=text)
    with pytest.raises(KitError, match=rf"a\.toml:{line}: (\w+: )?not TOML: "):
        toml.read_toml_file(tmp_path / "a.toml")


def test_a_file_that_is_not_utf8_names_the_byte_and_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b'a = 1\r\nb = "caf\xe9"\r\n')
    with pytest.raises(KitError, match=r"a\.toml:2: not UTF-8: byte 0xe9 at offset 15; save the file as UTF-8"):
        toml.read_toml_file(tmp_path / "a.toml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfa = 1\n")
    document = toml.read_toml_file(tmp_path / "a.toml")
    assert document.values == {"a": 1}
    assert document.lines == {("a",): 1}
