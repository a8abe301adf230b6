"""Runs of several processes on this machine: a program that forks them, so that torch is imported once for all.

`python ranks.py` takes a list of runs as JSON on its standard input and prints what each of their ranks answered: exit
code and what it has seen. A run is {"file", "size", "overrides", "resume"}, and perhaps {"kill": [rank, step]},
{"signal": [rank, step]}, {"kill_after": seconds} for all ranks at once, or {"gradients": true} for those of the first
step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed.fsdp  # here, for all at once: what a child imports, each of them imports

from nanogpt_kit.checkpoint import shards  # noqa: F401
from nanogpt_kit.core.errors import KitError, RunFailed
from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.launch.processes import free_port
from nanogpt_kit.nn.sharded import full_tensor
from nanogpt_kit.train import session, trainer


def main() -> None:
    answers = []
    for number, run in enumerate(json.load(sys.stdin)):
        # torchrun would say so, too
        told = {"WORLD_SIZE": run["size"], "LOCAL_WORLD_SIZE": run["size"], "MASTER_ADDR": "127.0.0.1"}
        told["MASTER_PORT"] = free_port()
        with tempfile.TemporaryDirectory() as folder:
            children = []
            for rank in range(run["size"]):
                child = os.fork()
                if not child:
                    os.environ |= {
                        name: str(value) for name, value in {**told, "RANK": rank, "LOCAL_RANK": rank}.items()
                    }
                    os._exit(one(run, rank, Path(folder) / str(rank)))
                children.append(child)
            if "kill_after" in run:
                time.sleep(run["kill_after"])
                for child in children:
                    os.kill(child, signal.SIGKILL)
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            seen = [json.loads(path.read_text()) for path in sorted(Path(folder).iterdir())]
        answers.append({"number": number, "codes": codes, "ranks": seen})
    print(json.dumps(answers))


def one(run: dict[str, Any], rank: int, answer: Path) -> int:
    """In the process of a rank."""
    torch.set_num_threads(1)
    batches: list[list[int]] = []  # checksums of the windows that this rank has computed with, step by step
    gradients: list[list[float]] = []  # of the first step, where `gradients` is set

    class Watched(trainer.Trainer):
        def update(self, batch: Any) -> Any:
            own = len(batch.starts)
            batches.append([zlib.crc32(row.numpy().tobytes()) for row in batch.ids[: own * batch.parts]])
            if run.get("kill") == [rank, self.step]:
                os.kill(os.getpid(), signal.SIGKILL)
            if run.get("signal") == [rank, self.step]:
                os.kill(os.getpid(), signal.SIGTERM)
            clip = self.parallel.clip
            if run.get("gradients") and self.step == 0:

                def kept(norm: float) -> torch.Tensor:
                    gradients.extend(full_tensor(p.grad).flatten().tolist() for p in self.model.parameters())
                    return clip(norm)

                self.parallel.clip = kept
            found = super().update(batch)
            self.parallel.clip = clip
            return found

    session.Trainer = Watched  # type: ignore[misc]
    said: dict[str, Any] = {"code": 0}
    began = time.monotonic()
    try:
        experiment = Experiment.load(run["file"], ["callback=[]", *run.get("overrides", ())])
        said["folder"] = str(session.run(experiment, run.get("resume")))
    except (KitError, RunFailed) as error:
        said |= {"code": 1, "error": type(error).__name__, "told": str(error)}
    except KeyboardInterrupt as error:
        said |= {"code": 130, "told": str(error)}
    except BaseException:
        said |= {"code": 3, "told": traceback.format_exc()}
    seen = {"batches": batches, "gradients": gradients, "seconds": time.monotonic() - began}
    answer.write_text(json.dumps({**said, **seen}))
    return int(said["code"])


if __name__ == "__main__":
    main()
