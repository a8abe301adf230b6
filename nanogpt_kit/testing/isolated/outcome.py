"""What came of the tests of a target, read from what the recorder wrote and from how the process ended."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogpt_kit.core.isolated_import import end_text
from nanogpt_kit.testing.isolated.environment import Ended

NO_TESTS = 5  # exit code of pytest: it has found none


@dataclass(frozen=True)
class FailedTest:
    test: str  # its name, without the file; empty where no test was reached
    message: str  # one line, with the remedy


@dataclass
class Outcome:
    """Of a component, of the tests that are not of a component, or of a verb."""

    label: str  # "norm/dyt", "tests", "verb/measure"
    passed: int = 0
    skipped: int = 0
    failures: list[FailedTest] = field(default_factory=list)
    untested: str = ""  # why it could not be tested, where the user can change that

    def add(self, test: str, outcome: str, message: str) -> None:
        if outcome == "failed":
            self.failures.append(FailedTest(test, message))
        elif outcome == "skipped":
            self.skipped += 1
        else:
            self.passed += 1

    def take(self, other: Outcome) -> None:
        """Adds the counts and failures of another one."""
        self.passed += other.passed
        self.skipped += other.skipped
        self.failures += other.failures

    def record(self) -> dict[str, Any]:
        """As JSON."""
        state = "failed" if self.failures else "untested" if self.untested else "passed"
        failures = [vars(failure) for failure in self.failures]
        counts = {"passed": self.passed, "failed": len(failures), "skipped": self.skipped}
        return {"label": self.label, "state": state, **counts, "failures": failures, "untested": self.untested}


@dataclass(frozen=True)
class Events:
    """What the recorder wrote."""

    lines: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, file: Path) -> Events:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        return cls(tuple(json.loads(line) for line in text.splitlines()))

    def of(self, event: str) -> Iterator[dict[str, Any]]:
        return (line for line in self.lines if line["event"] == event)

    def tests(self) -> Iterator[tuple[str, str, str, str]]:
        """(name, suite, outcome, first line of the failure) of each test that has ended."""
        last: dict[str, dict[str, Any]] = {}
        for line in self.of("finished"):
            if last.get(line["test"], {}).get("outcome") != "failed":  # after it has passed its end may still fail
                last[line["test"]] = line
        for name, line in last.items():
            bare, bracket, parameters = name.partition("[")
            suite, _, function = bare.rpartition("::")
            yield f"{function}{bracket}{parameters}", suite, line["outcome"], line["message"]

    def unfinished(self) -> str:
        """The test that was running when the process ended; empty where there is none."""
        counts = Counter(line["test"] for line in self.of("started"))
        counts.subtract({line["test"]: 1 for line in self.of("finished")})
        running = [name for name, count in counts.items() if count > 0]
        return running[-1].rpartition("::")[2] if running else ""

    def end_of(self, ended: Ended, seconds: float) -> FailedTest | None:
        """Why the process did not end as pytest does; None where it did."""
        test = self.unfinished()
        subject = "" if test else "it "
        if ended.code is None:
            remedy = "does it hang? If it takes longer: --timeout SECONDS"
            return FailedTest(test, f"{subject}did not end within {seconds:g} s and was killed: {remedy}")
        has_failures = any(line["outcome"] == "failed" for line in self.of("finished"))
        if not test and (ended.code in (0, NO_TESTS) or (ended.code > 0 and has_failures)):
            return None
        last = f": {ended.last_line}" if ended.last_line and ended.code > 0 else ""  # after a signal a trace of C
        return FailedTest(test, f"{subject}{end_text(ended.code)}{last}")
