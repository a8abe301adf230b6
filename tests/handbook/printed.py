"""Whether commands print what a page says. Numbers, times, run ids and hashes match any; a line `...` any lines.

So does what the machine chooses: device, precision, compilation. What is printed only where something takes long is
left out.
"""

from __future__ import annotations

import re
from itertools import groupby

ANY = "#"  # stands for a number, a time, a run id or a hash
AFTER_SECONDS = re.compile(  # lines of a run and of a preparation that come every few seconds
    r"step \d+/\d+ .* left|(starting|evaluating|generating samples) at step \d+|.*: [\d,]+( of [\d,]+)? MB, .*MB/s.*"
)
SPEED = re.compile(r" \([\d.]+ MB/s\)")  # of a preparation that takes longer than a second
RUN_ID = re.compile(r"\d{8}-\d{9}-s\d+-[0-9a-f]{6}")
HASH = re.compile(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,}\b")
NUMBER = re.compile(r"(?:(?<![\w#])[-+])?\d+(?:[.,_:]\d+)*(?:e[-+]?\d+)?")
DURATION = re.compile(rf"{ANY} (s|min|h)\b")  # the unit depends on the length
MACHINE = re.compile(r"^(device|precision|compile) .*")  # of the summary of a run
ELLIPSIS = "..."


def normalized(text: str) -> list[str]:
    """The lines of an output, the same on every machine, without blank lines."""
    lines: list[str] = []
    for line in text.splitlines():
        line = SPEED.sub("", " ".join(line.split()))
        if not line or AFTER_SECONDS.fullmatch(line):
            continue
        for pattern in (RUN_ID, HASH, NUMBER):
            line = pattern.sub(ANY, line)
        line = DURATION.sub(f"{ANY} s", line)
        lines.append(MACHINE.sub(r"\1 " + ANY, line))
    return lines


def difference(page: str, printed: str) -> str | None:
    """What a page shows and the commands do not print; None where they agree. Either may repeat a line more often."""
    wanted = [line for line, _ in groupby(normalized(page))]
    got = "".join(f"{line}\n" for line in normalized(printed))
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
    return f"(?:{re.escape(line).replace(re.escape(ELLIPSIS), '.*')}\\n)+"
