"""What is wrong with a line of JSON is said of that line, with what to do about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanogpt_kit.api import KitError, TextFile
from nanogpt_kit.components.evaluator.multiple_choice import MultipleChoice

GOOD = '{"text": "good"}'

FAULTS = {  # line -> what is said of it: the fault, the column, the remedy
    GOOD + ",": ["comma", "column 17", "remove"],
    GOOD + " , ": ["comma", "column 18", "remove"],
    GOOD + GOOD: ["another object", "column 17", "separate line"],
    f"{GOOD}, {GOOD},": ["another object", "column 17", "separate line"],
    GOOD + "]": ["text after", "column 17", "']'"],
    GOOD + " # why": ["text after", "'# why'"],
    '{"text": "a",}': ["comma before the closing bracket", "column 13", "remove"],
    '{"text": "a", "ids": [1, 2, ]}': ["comma before the closing bracket", "column 27", "remove"],
    "{'text': 'a'}": ["Python", "json.dumps"],
    '{"text": "a", "more": None}': ["Python", "json.dumps"],
    '{"text": "a", "more": True}': ["Python", "json.dumps"],
    "{'text': \"it's\"}": ["Python", "json.dumps"],
    "{'text': undefined}": ["single quote", "column 2", "double quotes"],
    "[": ["JSON array", "jq -c '.[]'", "huggingface"],
    "{": ["does not start and end on this line", "jq -c . "],
    "},": ["does not start and end on this line", "jq -c . "],
    '{"text": "a", ': ["does not start and end on this line"],
    '{"text": "a': ["string that starts in column 10", "\\n", "cut short"],
    '{"text": "a \\" b \\': ["string that starts in column 10"],
    '{"text": "a\tb"}': ["control character U+0009", "column 12", "escape"],
    '{"text": "C:\\new\\dir"}': ["escape that JSON does not have", "\\\\"],
    '{"text": "\\u12"}': ["escape that JSON does not have"],
    "// " + GOOD: ["comment", "remove"],
    "# " + GOOD: ["comment", "remove"],
    "\ufeff" + GOOD: ["byte order mark", "remove"],
    "To be or not to be": ["plain text", ".txt"],
    "{text: 'a'}": ["key without double quotes", "column 2"],
    '{"text": "a", more: 1}': ["key without double quotes", "column 15"],
    '{"text" "a"}': ["column 9"],
    '{"text": NaN}': ["NaN", "null"],
    "[" * 100_000: ["too deeply nested"],
    "-" * 300_000 + "1": ["plain text"],
    "{'a':" + "(" * 90_000: ["single quote"],
    '{"n": ' + "1" * 5000 + "}": ["4300 digits"],
}


@pytest.mark.parametrize("line", FAULTS, ids=lambda line: line[:20])
@pytest.mark.parametrize("number", [1, 3])
def test_a_line_that_is_not_json_is_explained(tmp_path: Path, line: str, number: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([GOOD] * (number - 1) + [line, GOOD]) + "\n", encoding="utf-8")
    if number == 1 and line.startswith("\ufeff"):
        assert list(TextFile(path, "text").documents()) == ["good", "good"]
        return
    with pytest.raises(KitError) as caught:
        list(TextFile(path, "text").documents())
    message = str(caught.value)
    assert message.startswith(f"{path}:{number}: ")
    if number == 1 and line.startswith("[["):
        assert "JSON array" in message or "nested" in message
        return
    for part in FAULTS[line]:
        assert part in message
    assert len(message) < 400


@pytest.mark.parametrize("content", [f"[{GOOD}, {GOOD}]", f"[\n{GOOD},\n{GOOD}\n]", f"[{GOOD},\n{GOOD}]"])
def test_a_json_array_under_the_name_of_json_lines_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(KitError, match=r"a\.jsonl:1: .*a JSON array.*jq -c '\.\[\]' OLD > NEW"):
        list(TextFile(path, "text").documents())


def test_other_values_of_a_json_line_may_be_nan(tmp_path: Path) -> None:
    """Python writes it so, and it is not read."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "score": NaN}\n' + json.dumps({"text": "b\0"}) + "\n")
    assert list(TextFile(path, "text").documents()) == ["a", "b\0"]


def test_questions_are_explained_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt": "a", "choices": ["b"], "answer": 0},\n')
    with pytest.raises(KitError, match=r"q\.jsonl:1: not JSON: a comma after the object"):
        MultipleChoice(file=str(path)).questions()
