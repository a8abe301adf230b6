"""Processes that execute the files of a checkout of nanoGPT as they are, in turns that their parent grants.

train.py runs whole, from its first line: it makes the model, the optimizer and the batches. The only thing that is
different from `python train.py` is where it prints to. It logs each step, and waits inside the print of a step's line
until its next turn, so it is timed from line to line: the loss in that line has made it wait for the device.

The functions that a process begins with import torch only after the variables of OpenMP are set, which torch reads when
it is loaded.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import re
import runpy
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Literal

from nanogpt_kit.core.errors import RunFailed
from nanogpt_kit.launch.processes import end_with_parent
from nanogpt_kit.system import signals

logger = logging.getLogger(__name__)

WARMUP_STEPS = 3  # not timed: the first one evaluates and may compile, others allocate memory
WARMUP_TOKENS = 8
PATIENCE_SECONDS = 60.0  # after which a message says what the command waits for
STEP = re.compile(r"iter \d+: loss")  # how train.py begins the line of a step
TEMPERATURE, TOP_K = 0.8, 200  # of sample.py

Waiting = Literal["asleep", "default"]  # how OpenMP's idle threads wait


@dataclass(frozen=True)
class Task:
    """What a process does, with the files in `folder`."""

    folder: Path
    waiting: Waiting
    threads: int | None  # None: as many as torch chooses
    awaited: ClassVar[str]  # for a message where it takes long


@dataclass(frozen=True)
class TrainingTask(Task):
    options: Mapping[str, Any]  # of train.py
    awaited = f"its train.py has not printed {WARMUP_STEPS} lines that begin with 'iter N: loss' yet"

    def run(self, connection: Connection) -> None:
        """Runs train.py; a turn is a number of seconds, answered by (steps, seconds)."""
        sys.argv = ["train.py", *(f"--{name}={value}" for name, value in self.options.items())]
        with redirect_stdout(TurnLog(connection)):
            runpy.run_path("train.py", run_name="__main__")
        raise RuntimeError("train.py has ended by itself")


@dataclass(frozen=True)
class GenerationTask(Task):
    model: Mapping[str, Any]  # arguments of GPTConfig
    checkpoint: Path | None  # ckpt.pt with the weights; None: those that the model draws
    device: str
    texts: int
    tokens: int  # of each text
    awaited = "its model has not generated its texts yet"

    def run(self, connection: Connection) -> None:
        """Calls `generate` of model.py as sample.py does, for all texts at once.

        A turn is a number of seconds, answered by (texts, seconds); or ("greedy", count), answered by the tokens.
        """
        import torch

        torch.manual_seed(1337)
        torch.backends.cuda.matmul.allow_tf32 = True  # as sample.py does
        torch.backends.cudnn.allow_tf32 = True
        theirs = importlib.import_module("model")
        model = theirs.GPT(theirs.GPTConfig(**self.model))
        if self.checkpoint is not None:
            model.load_state_dict(torch.load(self.checkpoint, map_location="cpu", weights_only=True)["model"])
        model.eval().to(self.device)
        autocast: AbstractContextManager[Any] = nullcontext()
        if self.device.startswith("cuda"):
            autocast = torch.autocast("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)

        def generate(texts: int, tokens: int, **options: Any) -> Any:
            start = torch.zeros(texts, 1, dtype=torch.long, device=self.device)
            found = model.generate(start, tokens, **options)  # (texts, 1 + tokens)
            return found[0, 1:].tolist()  # waits for the device

        with torch.no_grad():
            with autocast:
                generate(self.texts, WARMUP_TOKENS, temperature=TEMPERATURE, top_k=TOP_K)
            connection.send("ready")
            while True:
                turn = connection.recv()
                if isinstance(turn, tuple):
                    connection.send(generate(1, turn[1], top_k=1))
                    continue
                began, batches = time.perf_counter(), 0
                while not batches or time.perf_counter() - began < turn:
                    with autocast:
                        generate(self.texts, self.tokens, temperature=TEMPERATURE, top_k=TOP_K)
                    batches += 1
                connection.send((batches * self.texts, time.perf_counter() - began))


class TurnLog(io.TextIOBase):
    """Where train.py prints to: at the line of a step it waits for a turn, and after the turn answers what was done."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.line = ""
        self.steps = 0  # of this turn, or of the warmup
        self.seconds = 0.0  # of this turn
        self.began: float | None = None  # None during the warmup

    def write(self, text: str) -> int:
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            if STEP.match(line):
                self.finish_step()
        return len(text)

    def finish_step(self) -> None:
        self.steps += 1
        if self.began is None:
            if self.steps < WARMUP_STEPS:
                return
            self.connection.send("ready")
        else:
            spent = time.perf_counter() - self.began
            if spent < self.seconds:
                return
            self.connection.send((self.steps, spent))
        self.seconds = self.connection.recv()
        self.steps, self.began = 0, time.perf_counter()


@dataclass(frozen=True)
class Failure:
    """Why a process of nanoGPT could not continue."""

    text: str


def execute(task: TrainingTask | GenerationTask, connection: Connection, parent: int) -> None:
    """The process of a task, in the folder of nanoGPT and with imports from it."""
    end_with_parent(parent)
    signals.ignore_group_signals()
    os.environ.pop("OMP_WAIT_POLICY", None)
    if task.waiting == "asleep":
        os.environ["OMP_WAIT_POLICY"] = "passive"
    if task.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(task.threads)
    os.chdir(task.folder)
    sys.path.insert(0, str(task.folder))
    sys.dont_write_bytecode = True
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # sizes, warnings of deprecation
        try:
            task.run(connection)
        except BaseException as error:
            with suppress(OSError):  # the parent has ended
                connection.send(Failure(failure_text(error, task.folder)))


def failure_text(error: BaseException, folder: Path) -> str:
    """The error in one line, with the last line of nanoGPT's files on the way to it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_below(frame.filename, folder)]
    location = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{location}"


def is_below(file: str, folder: Path) -> bool:
    return (folder / file).is_file() and (folder / file).resolve().parent == folder.resolve()


class NanoGPTProcess:
    """A process with a task, and its turns. Raises RunFailed where it fails or is killed."""

    def __init__(self, task: TrainingTask | GenerationTask) -> None:
        context = get_context("spawn")
        self.task = task
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=execute, args=(task, theirs, os.getpid()))
        self.process.start()
        theirs.close()  # so that its end is noticed

    def wait_until_ready(self) -> None:
        if not self.connection.poll(PATIENCE_SECONDS):
            logger.info("waiting for %s: %s; Ctrl-C ends the command", self.task.folder, self.task.awaited)
        self.receive()

    def receive(self) -> Any:
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode or 0
            end = f"was killed (signal {-code}; perhaps memory ran out)" if code < 0 else f"ended (exit code {code})"
            raise RunFailed(f"the process of nanoGPT in {self.task.folder} {end}") from None
        if isinstance(answer, Failure):
            remedy = "does it run by itself with this Python, as its README says?"
            raise RunFailed(f"nanoGPT in {self.task.folder} failed: {answer.text}; {remedy}")
        return answer

    def turn(self, request: Any) -> Any:
        with suppress(OSError):  # it has ended, which `receive` reports
            self.connection.send(request)
        return self.receive()

    def close(self) -> None:
        self.process.kill()  # it may be in the middle of a step
        self.process.join()
        self.connection.close()


@contextmanager
def nanogpt_process(task: TrainingTask | GenerationTask) -> Iterator[NanoGPTProcess]:
    process = NanoGPTProcess(task)
    try:
        yield process
    finally:
        process.close()
