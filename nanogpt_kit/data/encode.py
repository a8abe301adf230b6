"""Jobs to tokens: in this process, or in one for each core."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from queue import SimpleQueue
from typing import IO, Any

import numpy as np

from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder
from nanogpt_kit.data.jobs import Job
from nanogpt_kit.data.vocabulary import utf8_bytes

WORTH_A_PROCESS = 8_000_000  # bytes of text: a second of one core; starting Python costs half of that


@dataclass(frozen=True)
class Encoded:
    """A job's tokens, an end-of-text token after each document where the tokenizer has one."""

    ids: np.ndarray  # (n,) of the dtype on disk
    begins: np.ndarray  # (documents that begin in it,) int64: where their first token is in `ids`
    text_bytes: int
    unknown: int


def token_type(encoder: Encoder) -> np.dtype[Any]:
    return np.dtype(np.uint16 if encoder.vocab_size <= 2**16 else np.uint32)


def encode(job: Job, encoder: Encoder) -> Encoded:
    """Raises KitError for text that is none, and for ids that the vocabulary lacks."""
    numbers = accumulate(job.ends, initial=job.first)  # of the documents that the pieces belong to
    text_bytes = sum(utf8_bytes(text, number, job.split) for text, number in zip(job.texts, numbers, strict=False))
    dtype, has_ends = token_type(encoder), encoder.eot_id is not None
    arrays = encoder.encode_batch(job.texts)
    check_ids(arrays, encoder, job)
    end = np.array([encoder.eot_id] if has_ends else [], dtype)
    parts = [part for ids, ends in zip(arrays, job.ends, strict=True) for part in ((ids, end) if ends else (ids,))]
    parts.insert(0, np.array([], dtype))  # there may be none
    ids = np.concatenate(parts, dtype=dtype, casting="unsafe")  # all of them fit, as was checked
    lengths = np.fromiter(map(len, arrays), np.int64, len(arrays)) + np.array(job.ends, dtype=bool) * len(end)
    places = np.cumsum(lengths) - lengths
    unknown = 0
    if type(encoder).unknown is not Encoder.unknown:
        unknown = sum(map(encoder.unknown, job.texts, arrays))
    return Encoded(ids, places[np.array(job.begins, dtype=bool)], text_bytes, unknown)


def check_ids(arrays: Sequence[np.ndarray], encoder: Encoder, job: Job) -> None:
    """A plugin's tokenizer may be wrong about its own vocabulary; the model would find out much later."""
    together = np.concatenate(arrays) if arrays else np.array([])
    if not len(together) or 0 <= int(together.min()) <= int(together.max()) < encoder.vocab_size:
        return
    number, wrong = next(
        (number, int(token))
        for number, ids in enumerate(arrays)
        for token in ids
        if not 0 <= token < encoder.vocab_size
    )
    raise KitError(
        f"the tokenizer gave id {wrong} in document {document(job, number)} of {job.split}, "
        f"but its vocabulary ends at {encoder.vocab_size - 1}"
    )


def document(job: Job, number: int) -> int:
    """Which document of its split a piece belongs to."""
    return job.first + sum(job.ends[:number])


def encoded(
    jobs: Iterable[Job], encoder: Encoder, experiment: Experiment, text_bytes: int | None, workers: int
) -> Iterator[tuple[Job, Encoded]]:
    """Every job with its tokens, in order. Processes are started where they pay."""
    pays = encoder.is_expensive and workers > 1 and (text_bytes is None or text_bytes >= WORTH_A_PROCESS)
    if not pays:
        yield from ((job, encode(job, encoder)) for job in jobs)
        return
    waiting: deque[tuple[Job, Future[Encoded]]] = deque()
    with Workers(workers, recipe(experiment, encoder)) as pool:
        for job in jobs:
            if pool.ready:
                waiting.append((job, pool.submit(job)))
            else:
                yield job, encode(job, encoder)  # while they start
            while len(waiting) > 2 * workers or (waiting and waiting[0][1].done()):
                first, tokens = waiting.popleft()
                yield first, tokens.result()
        for first, tokens in waiting:
            yield first, tokens.result()


def recipe(experiment: Experiment, encoder: Encoder) -> dict[str, Any]:
    """How another process makes the same encoder."""
    return {
        "files": list(experiment.component_sources.items()),
        "tokenizer": experiment.resolved()["tokenizer"],
        "state": encoder.state(),
    }


class Workers:
    """Processes that encode, and a thread for each that hands it a job and waits for the tokens."""

    def __init__(self, count: int, recipe: dict[str, Any]) -> None:
        command = [sys.executable, "-P", "-m", "nanogpt_kit.data.worker"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment()}
        self.processes = [subprocess.Popen(command, **pipes) for _ in range(count)]
        self.idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self.pool = ThreadPoolExecutor(count, "encode")
        self.starting = [self.pool.submit(self._start, process, recipe) for process in self.processes]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()  # they hold nothing that is not here, too
        self.pool.shutdown(cancel_futures=True)
        for process in self.processes:
            with suppress(BrokenPipeError), process:  # closes its pipes, perhaps with half a job in them, and waits
                pass

    @property
    def ready(self) -> bool:
        """Whether a job would be taken up. Raises RunFailed where a process could not start."""
        started = [start for start in self.starting if start.done()]
        for start in started:
            start.result()
        return bool(started)

    def submit(self, job: Job) -> Future[Encoded]:
        return self.pool.submit(self._encode, job)

    def _start(self, process: subprocess.Popen[bytes], recipe: dict[str, Any]) -> None:
        answer = self._ask(process, recipe)
        if answer != "ready":
            raise failure(*answer)
        self.idle.put(process)

    def _encode(self, job: Job) -> Encoded:
        process = self.idle.get()
        try:
            answer = self._ask(process, job)
        finally:
            self.idle.put(process)  # a dead one, too: who waits for it must hear of it
        if isinstance(answer, Encoded):
            return answer
        raise failure(*answer)

    def _ask(self, process: subprocess.Popen[bytes], question: Any) -> Any:
        try:
            send(process.stdin, question)
            return receive(process.stdout)
        except (EOFError, OSError):
            code = process.wait()
            hint = "; is there memory left?" if code == -9 else ""
            raise RunFailed(f"a process that tokenizes has ended, with exit code {code}{hint}") from None


def failure(kind: str, message: str) -> Exception:
    """What went wrong in another process."""
    return KitError(message) if kind == "KitError" else RunFailed(f"the tokenizer failed: {kind}: {message}")


def environment() -> dict[str, str]:
    """The same code as here; and one thread, which is the share of each process."""
    path = os.pathsep.join(folder for folder in sys.path if folder)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def send(stream: IO[bytes] | None, value: Any) -> None:
    assert stream is not None, "the process was started with pipes"
    raw = pickle.dumps(value, protocol=5)
    stream.write(len(raw).to_bytes(8))
    stream.write(raw)
    stream.flush()


def receive(stream: IO[bytes] | None) -> Any:
    """Raises EOFError where the other side is gone."""
    assert stream is not None, "the process was started with pipes"
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError
    raw = stream.read(int.from_bytes(header))
    if len(raw) < int.from_bytes(header):
        raise EOFError
    return pickle.loads(raw)
