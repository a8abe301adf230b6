"""Whether commands print what a page says. Numbers, times, run ids and hashes match any; a line `...` any lines.

So does what the machine chooses: device, precision, compilation.
"""

from __future__ import annotations

import re

ANY = "#"  # stands for a number, a time, a run id or a hash
STEP_AFTER_SECONDS = re.compile(r"^step \d+/\d+ .* left$")  # printed every few seconds
RUN_ID = re.compile(r"\d{8}-\d{9}-s\d+-[0-9a-f]{6}")
HASH = re.compile(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,}\b")
NUMBER = re.compile(r"(?:(?<![\w#])[-+])?\d+(?:[.,_:]\d+)*(?:e[-+]?\d+)?")
MACHINE = re.compile(r"^(device|precision|compile) .*")  # of the summary of a run
ELLIPSIS = "..."


def normalized(text: str) -> list[str]:
    """The lines of an output, the same on every machine: without blank lines, and without repetitions of a line."""
    lines: list[str] = []
    for line in text.splitlines():
        line = " ".join(line.split())
        if not line or STEP_AFTER_SECONDS.match(line):
            continue
        for pattern in (RUN_ID, HASH, NUMBER):
            line = pattern.sub(ANY, line)
        line = MACHINE.sub(r"\1 " + ANY, line)
        if not lines or lines[-1] != line:
            lines.append(line)
    return lines


def difference(page: str, printed: str) -> str | None:
    """What a page shows and the commands do not print; None where they agree."""
    wanted, got = normalized(page), "".join(f"{line}\n" for line in normalized(printed))
    patterns = [line_pattern(line) for line in wanted]
    if re.fullmatch("".join(patterns), got):
        return None
    for count in range(1, len(patterns) + 1):
        if not re.match("".join(patterns[:count]), got):
            return f"the page shows this line, which is not printed in this place:\n    {wanted[count - 1]}"
    return "more is printed than the page shows; a line `...` stands for what is left out"


def line_pattern(line: str) -> str:
    """A pattern for a line with its end. `...` within a line matches the rest of a word or of the line."""
    if line == ELLIPSIS:
        return r"(?:.*\n)*?"
    return re.escape(line).replace(re.escape(ELLIPSIS), ".*") + r"\n"
