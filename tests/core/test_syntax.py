"""What other languages write where TOML stands: each is named by its line and key, with what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nanogpt_kit.core import toml
from nanogpt_kit.core.errors import KitError, printable
from nanogpt_kit.core.layers import Layers

HABITS = {  # the line, the key, words of the remedy
    'a = "C:\\Users\\new"': (1, "a", ["backslash", "'C:\\Users\\new' in single quotes", '"C:/Users/new"']),
    '[b]\na = ["C:\\xfiles"]': (2, "b.a", ["backslash", "'C:\\xfiles'", '"C:/xfiles"']),
    'a = { b = "C:\\q", c = 1 }': (1, "a.b", ["backslash", "'C:\\q'"]),
    'a = "C:\\dir\\"\nb = 1': (1, "a", ["backslash", "'C:\\dir\\'"]),
    'a = "it\'s C:\\q"': (1, "a", ["backslash", '"it\'s C:/q"']),
    'a = "h\\.[01]"': (1, "a", ["backslash", "write 'h\\.[01]' in single quotes"]),
    'a = """\nC:\\Users"""': (2, "a", ["backslash", "C:/Users"]),
    "a = C:\\Users": (1, "a", ["'C:\\Users'"]),
    "a = null": (1, "a", ["no null", "leave the key out"]),
    "[x]\na = [1.0, None]": (2, "x.a", ["no null", "means the same"]),
    "a = ~": (1, "a", ["no null"]),
    "a = ~/text": (1, "a", ['"~/text"']),
    '[sweep.space]\n"a.b" = { choice = [1.0, null] }': (2, "sweep.space.a.b.choice", ["no null", "means the same"]),
    "a = True": (1, "a", ["write true"]),
    "a = off": (1, "a", ["write false"]),
    "a = adamw": (1, "a", ['"adamw"']),
    "a = [adamw, 1]": (1, "a", ['"adamw"']),
    "a: 1": (1, "a", ["key = value"]),
    'b = 1\na = {"x": 1}': (2, "a.x", ["key = value"]),
    "train:\n  steps: 1": (1, "train", ["[name]"]),
    "steps 100": (1, "steps", ["key = value"]),
    "a == 1": (1, "a", ["single ="]),
    "a =": (1, "a", ["missing"]),
    "a = .5": (1, "a", ["0.5"]),
    "a = -.5": (1, "a", ["-0.5"]),
    "a = 5.": (1, "a", ["1.0"]),
    "a = 1,000": (1, "a", ["1_000"]),
    "a = 10k": (1, "a", ["digits"]),
    "a = 1,\nb = 2": (1, "a", ["follow a value"]),
    "a = 1 // one": (1, "a", ["#"]),
    "a = (1, 2)": (1, "a", ["[1, 2]"]),
    "a = \u201cx\u201d": (1, "a", ["straight quotes"]),
    'a = "x\nb = 1': (1, "a", ["closing quote"]),
    "a = 'it's'": (1, "a", ["double quotes"]),
    '{"a": 1}': (1, "", ["JSON", "key = value"]),
    "- a": (1, "-", ["YAML"]),
    "a = 1\na = 2": (2, "a", ["line 1"]),
    "[a]\nb = 1\n[a]": (3, "a", ["line 1"]),
}


@pytest.mark.parametrize("text", HABITS)
def test_a_syntax_error_is_reported_with_line_key_and_remedy(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text, encoding="utf-8")
    line, key, remedy = HABITS[text]
    with pytest.raises(KitError) as refused:
        toml.read_toml_file(path)
    (fault,) = refused.value.faults
    assert (fault.location, fault.key) == (f"{path}:{line}", key)
    assert [words for words in remedy if words not in fault.message] == []


def test_a_syntax_error_on_the_command_line_has_the_same_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("")
    with pytest.raises(KitError) as refused:
        Layers.load(path, ['sweep.space."a.b"={choice=[1, null]}', 'a.b="C:\\q"'])
    assert [fault.key for fault in refused.value.faults] == ["sweep.space.a.b", "a.b"]
    assert ["no null" in str(fault) for fault in refused.value.faults] == [True, False]
    assert "C:/q" in str(refused.value)


def test_a_path_whose_backslashes_became_controls_is_named_with_the_remedy(
    tiny: Path, command: Callable[..., object]
) -> None:
    lines = tiny.read_text().split("\n")
    lines[4] = 'source = "C:\\new\\text.txt"'
    tiny.write_text("\n".join(lines))
    answer = command("run", tiny)
    assert (answer.code, "dataset.source" in answer.err, "single quotes" in answer.err) == (2, True, True)


DEEP = {
    "a header of many parts": f"[{'.'.join('a' * 500)}]",
    "a key of more parts than the parser takes": f"\n{'.'.join('a' * 3000)} = 1",
    "lists in lists": f"\na = {'[' * 399}{']' * 399}",
    "more lists than the parser takes": f"\na = {'[' * 100_000}",
    "tables in tables": f"a = {'{ b = ' * 300}1{' }' * 300}",
    "a number of thousands of digits": f"\na = {'1' * 5000}",
    "a hexadecimal one": f"\na = 0x{'f' * 5000}",
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting_and_long_numbers_are_reported_with_their_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(DEEP[name])
    line = 2 if DEEP[name].startswith("\n") else 1
    with pytest.raises(KitError) as refused:
        Layers.load(path)
    assert refused.value.faults[0].location == f"{path}:{line}"
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "override",
    [
        f"{'.'.join('a' * 500)}=1",
        f"{'.'.join('a' * 3000)}=1",
        f"a.b={'[' * 300}{']' * 300}",
        f"a.b={'[' * 100_000}",
        "a.b=0xffffffffffffffffff",
    ],
)
def test_deep_nesting_and_long_numbers_on_the_command_line_are_refused(override: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("")
    with pytest.raises(KitError) as refused:
        Layers.load(path, [override])
    assert refused.value.faults[0].location == "command line"
    assert len(str(refused.value)) < 1000


def test_a_name_with_nul_or_too_long_to_extend_is_refused_at_its_line(tmp_path: Path) -> None:
    for name in ("x\\u0000y", "x" * 5000):
        (tmp_path / "a.toml").write_text(f'extends = "{name}"')
        with pytest.raises(KitError, match=r"a\.toml:1: extends: "):
            toml.read_extended_files(tmp_path / "a.toml")


def test_a_long_chain_is_refused_where_it_becomes_too_long(tmp_path: Path) -> None:
    for number in range(toml.MAX_FILES):
        (tmp_path / f"{number}.toml").write_text(f'extends = "{number + 1}.toml"')
    with pytest.raises(KitError, match=rf"{toml.MAX_FILES - 1}\.toml:1: extends: .*{toml.MAX_FILES}"):
        toml.read_extended_files(tmp_path / "0.toml")
    (tmp_path / f"{toml.MAX_FILES - 1}.toml").write_text("")
    assert len(toml.read_extended_files(tmp_path / "0.toml")) == toml.MAX_FILES


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("#" * (toml.MAX_BYTES + 1))
    with pytest.raises(KitError, match=rf"a\.toml: .*larger than {toml.MAX_BYTES:,} bytes"):
        toml.read_toml_file(tmp_path / "a.toml")


@pytest.mark.parametrize("before", ["", "[model]\n", "[train]\n"])
def test_of_many_unknown_keys_the_first_are_shown_and_all_are_counted(
    before: str, tiny: Path, command: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanogpt_kit.core.suggestions import KeySuggestions

    looked_up = []
    monkeypatch.setattr(KeySuggestions, "suggest", lambda self, key, *rest: looked_up.append(key) or "")
    count = 5000
    path = tiny.with_name("many.toml")
    path.write_text(f'extends = "{tiny.name}"\n{before}' + "".join(f"key{n} = {n}\n" for n in range(count)))
    answer = command("check", path)
    assert answer.code == 2
    assert f"{path}:{3 if before else 2}: " in answer.err
    assert f"{count:,} errors" in answer.err or f"{count} errors" in answer.err
    assert f"and {count - 50:,} more" in answer.err
    assert len(answer.err.splitlines()) < 60
    assert len(looked_up) <= 51  # comparing each with every name takes minutes


def test_merging_values_takes_linear_time(tmp_path: Path) -> None:
    class Places(dict[object, str]):
        scans = 0

        def __iter__(self) -> object:  # type: ignore[override]
            type(self).scans += 1
            return super().__iter__()

    layers = Layers()
    layers.locations = Places()  # type: ignore[assignment]
    layers.add({f"k{n}": n for n in range(100)}, lambda key: "below")
    layers.add({f"k{n}": [n] for n in range(100)}, lambda key: "above")
    assert Places.scans == 0
    assert layers.locations[("k5", 0)] == "above"


def test_controls_in_keys_and_values_are_escaped(tiny: Path, command: Callable[..., object]) -> None:
    tiny.write_text('"\\u001b]0;x\\u0007" = 1\n"\\u009b2J" = 2\n"\\u202e" = 3\n"a\\nb" = 4\n' + tiny.read_text())
    for override in ("\x1b]0;y\x07", "train.device=\udc9b"):
        answer = command("check", tiny, override)
        assert (answer.code, printable(answer.err)) == (2, answer.err)
    answer = command("check", tiny, "model.norm=\x1b[2J", 'model."\\u001bc"=1')
    assert (answer.code, printable(answer.err)) == (2, answer.err)
    for number, shown in enumerate(("\\u001b]0;x\\u0007", "\\u009b2J", "\\u202e", "a\\nb"), start=1):
        assert f"{tiny}:{number}: {shown}: unknown key" in answer.err


def test_text_that_can_be_printed_stays_as_it_is() -> None:
    text = "a\tb\n\u2603 \u05d0\u200f \u00e9 \U0001f600 \u00a0 \\x1b"
    assert printable(text) == text
    assert printable(printable("\x1b\x7f\x9b\r\u2066")) == "\\u001b\\u007f\\u009b\\u000d\\u2066"
