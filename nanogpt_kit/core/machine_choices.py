"""What is fastest on this machine: ways to compute something, chosen by measuring them here once.

A task is something that can be computed in several ways, its candidates; which of them is fastest depends on the chip.
`nn.calibration` measures tasks and remembers the result. A run keeps what it used in its folder, since other ways to
compute add in another order: resumed elsewhere, it still gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

# Environment variable: "off", where rules choose all; or a file with choices, also the record of a run
CALIBRATION = "NANOGPT_KIT_CALIBRATION"
COMPILE_TASK = "compile "  # before the identity of a graph: whether it is compiled, which runs choose, not this module

Candidate = Callable[[], Callable[[], object]]  # makes what it needs, and returns the call whose time is measured


@dataclass(frozen=True)
class Task:
    """Something that can be computed in several ways, all of them allowed here.

    The first candidate is the one that a rule chooses; another has to be clearly faster. The name says all on which the
    result depends besides the machine, such as "attention bf16 256 tokens 64 wide".
    """

    name: str
    candidates: Mapping[str, Candidate]  # by name; what they make is small and cheap, and dropped once measured
    before_call: Callable[[], object] | None = None  # such as reading other memory; then no call is repeated at once

    @property
    def rule(self) -> str:
        return next(iter(self.candidates))


@dataclass(frozen=True)
class MachineChoices:
    """The candidates to use, by task: those measured on this machine, or those that a run has recorded."""

    choices: Mapping[str, str] = field(default_factory=dict)
    is_closed: bool = False  # nothing is measured: what is missing is left to the rule, as in a resumed run
    used: dict[str, str] = field(default_factory=dict, compare=False, repr=False)  # the answers of `choice` so far

    def choice(self, task: str, rule: str, allowed: Collection[str] = ()) -> str:
        """The candidate to use; `rule` where nothing was measured, or where what was recorded is not `allowed` here.

        Call it when something is built, not in a forward pass. Every answer becomes part of the record of a run.
        """
        found = self.choices.get(task, rule)
        answer = found if not allowed or found in allowed else rule
        self.used[task] = answer
        return answer

    def extended(self, more: Mapping[str, str]) -> MachineChoices:
        """These choices and those of other tasks; the answers are noted in the same place."""
        return replace(self, choices={**more, **self.choices})

    @staticmethod
    def current() -> MachineChoices:
        """Those of this process: of the run that it computes, else none, so that rules choose."""
        return current_choices


NO_CHOICES = MachineChoices()  # of a process that computes no run
current_choices = NO_CHOICES


@contextmanager
def applied(choices: MachineChoices) -> Iterator[None]:
    """While entered, these are the choices of this process, in all of its threads."""
    global current_choices
    before, current_choices = current_choices, choices
    try:
        yield
    finally:
        current_choices = before
