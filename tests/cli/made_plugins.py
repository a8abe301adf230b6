"""Small plugins of every kind that runs name, in folders as pip installs them: some are removed or replaced later."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

ATTENTION = '''
from torch import nn
from nanogpt_kit.api import Attention, Field

class Attention(Attention):
    """Each position attends to itself, scaled."""
    scale: float = Field({scale}, description="factor on the values")

    def build(self, ctx):
        return Own(self.scale)

class Own(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, q, k, v, view):
        return v.repeat_interleave(q.size(1) // k.size(1), dim=1)[:, :, -q.size(2):] * self.scale
'''
RENAMED_ATTENTION = ATTENTION.replace("scale: float", "gain: float").replace("self.scale)", "self.gain)", 1)
WITH_WEIGHTS = ATTENTION.replace("self.scale = scale", "self.scale = nn.Parameter(__import__('torch').tensor(scale))")
TOKENIZER = """
import numpy as np
from nanogpt_kit.api import Encoder, Tokenizer

class Letters(Tokenizer):
    def build(self, ctx):
        return Letter()

    def known_vocab_size(self):
        return 257

    def restore(self, state):
        return Letter()

class Letter(Encoder):
    is_expensive = False
    vocab_size = 257
    eot_id = 256

    def encode_batch(self, texts):
        return [255 - np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]

    def decode_bytes(self, ids):
        tokens = np.asarray(list(ids))
        return (255 - tokens[tokens < 256]).astype(np.uint8).tobytes()

    def last_safe_cut(self, text):
        return len(text)
"""
OPTIMIZER = """
import torch
from nanogpt_kit.api import Field, Optimizer

class Own(Optimizer):
    lr: float = Field(0.1, gt=0, description="peak learning rate")

    def build(self, groups):
        return torch.optim.SGD(groups, lr=self.lr)
"""
CALLBACK = """
from nanogpt_kit.api import Callback, hookimpl

class Own(Callback):
    every: int = 3

    def build(self, run):
        return Watcher()

class Watcher:
    @hookimpl
    def run_started(self, run):
        pass
"""
TRACKER = CALLBACK.replace("every: int = 3", "every: int = 3\n    is_tracker = True")
EVALUATOR = """
from nanogpt_kit.api import Evaluator

class Own(Evaluator):
    def metric_names(self):
        return ("own/one",)

    def evaluate(self, ctx):
        return {"own/one": 1.0}
"""
SAMPLER = """
from nanogpt_kit.api import Field, Sampler

class Own(Sampler):
    value: float = Field(0.5, gt=0, description="divisor of the logits")

    def transform(self, logits, tokens):
        return logits / self.value
"""
INIT = """
from torch import nn
from nanogpt_kit.api import Init, Multipliers

class Own(Init):
    def apply(self, model, shapes):
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1)

    def multipliers(self, model):
        return Multipliers(logits=3.0)
"""
SCHEDULE = """
from nanogpt_kit.api import Schedule

class Own(Schedule):
    def multiplier(self, step, total_steps):
        return 0.5
"""
ORDER = """
import numpy as np
from nanogpt_kit.api import Order

class Own(Order):
    def starts(self, step, ctx):
        n = (ctx.n_tokens - 1) // ctx.block_size
        return (step * ctx.batch_windows + np.arange(ctx.batch_windows)) % n * ctx.block_size
"""
DATASET = """
from nanogpt_kit.api import Dataset

class Own(Dataset):
    @property
    def splits(self):
        return ("train", "val")

    def documents(self, split):
        for n in range(300):
            yield f"{n} times {n + 7} is {n * (n + 7)}, as everybody knows.\\n"

    def fingerprint(self):
        return "own"
"""
SOURCES = {
    "attention": ATTENTION.format(scale=1.0),
    "tokenizer": TOKENIZER,
    "optimizer": OPTIMIZER,
    "callback": CALLBACK,
    "evaluator": EVALUATOR,
    "sampler": SAMPLER,
    "init": INIT,
    "schedule": SCHEDULE,
    "order": ORDER,
    "dataset": DATASET,
}
CLASSES = {"attention": "Attention", "tokenizer": "Letters"}


class Site:
    """A folder on the path with distributions: `ngk-KIND` offers the component `own` of a kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, kind: str, version: str = "0.1.0", source: str = "", name: str = "", entry: str = "own") -> None:
        name = name or f"ngk-{kind}"
        module = name.replace("-", "_")
        self.uninstall(kind, name)
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        points = f"[nanogpt_kit.{kind}]\n{entry} = {module}:{CLASSES.get(kind, 'Own')}\n"
        (info / "entry_points.txt").write_text(points, encoding="utf-8")
        (self.folder / f"{module}.py").write_text(source or SOURCES[kind], encoding="utf-8")
        self.forget(module)

    def uninstall(self, kind: str, name: str = "") -> None:
        module = (name or f"ngk-{kind}").replace("-", "_")
        for path in self.folder.glob(f"{module}-*.dist-info"):
            shutil.rmtree(path)
        (self.folder / f"{module}.py").unlink(missing_ok=True)
        self.forget(module)

    def forget(self, module: str) -> None:
        """As a new process would begin."""
        from nanogpt_kit.core.registry import Registry

        sys.modules.pop(module, None)
        importlib.invalidate_caches()
        Registry.installed.cache_clear()

    def install_all(self, sources: Mapping[str, str] = SOURCES) -> None:
        for kind in sources:
            self.install(kind)
