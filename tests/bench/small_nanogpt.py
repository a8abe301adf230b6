"""A folder with the interface of a nanoGPT checkout: the names, options and lines that the comparison relies on."""

from __future__ import annotations

from pathlib import Path

MODEL = """
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True


class Norm(nn.Module):
    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, bias = config.n_embd, config.bias
        self.n_head = config.n_head
        self.ln_1, self.ln_2 = Norm(width, bias), Norm(width, bias)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.attn.c_proj = nn.Linear(width, width, bias=bias)
        self.mlp.c_fc = nn.Linear(width, 4 * width, bias=bias)
        self.mlp.c_proj = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x):
        B, T, C = x.shape
        heads = self.attn.c_attn(self.ln_1(x)).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)
        scores = heads[0] @ heads[1].transpose(-2, -1) / math.sqrt(C // self.n_head)
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
        y = (scores.softmax(-1) @ heads[2]).transpose(1, 2).reshape(B, T, C)
        x = x + self.attn.c_proj(y)
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = nn.Module()
        self.transformer.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.transformer.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.transformer.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.transformer.ln_f = Norm(config.n_embd, config.bias)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        print("number of parameters:", sum(p.numel() for p in self.parameters()))

    def forward(self, ids, targets=None):
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.size(1)))
        for block in self.transformer.h:
            x = block(x)
        logits = self.lm_head(self.transformer.ln_f(x))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(self, ids, max_new_tokens, temperature=1.0, top_k=None):
        for _ in range(max_new_tokens):
            logits = self(ids[:, -self.config.block_size :])[0][:, -1] / temperature
            if top_k is not None:
                values, _ = logits.topk(min(top_k, logits.size(-1)))
                logits[logits < values[:, -1:]] = -math.inf
            ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
        return ids
"""

TRAIN = """
import os, pickle, sys, time
import numpy as np
import torch
from model import GPT, GPTConfig

out_dir, dataset, device, dtype = "out", "openwebtext", "cuda", "float16"
eval_interval, eval_iters, log_interval, max_iters, batch_size, gradient_accumulation_steps = 2000, 200, 1, 9, 12, 40
n_layer, n_head, n_embd, block_size, dropout, bias = 12, 12, 768, 1024, 0.0, False
learning_rate, min_lr, warmup_iters, lr_decay_iters, weight_decay, beta1, beta2 = 6e-4, 6e-5, 2000, 9, 0.1, 0.9, 0.95
grad_clip, compile, always_save_checkpoint = 1.0, True, True
exec(open("configurator.py").read())
assert (device, dtype, compile, always_save_checkpoint) == ("cpu", "float32", False, False)
with open(os.path.join("data", dataset, "meta.pkl"), "rb") as file:
    vocab_size = pickle.load(file)["vocab_size"]
data = torch.from_numpy(np.fromfile(os.path.join("data", dataset, "train.bin"), np.uint16).astype(np.int64))
assert os.path.exists(os.path.join("data", dataset, "val.bin"))
model = GPT(GPTConfig(block_size, vocab_size, n_layer, n_head, n_embd, dropout, bias))
optimizer = torch.optim.AdamW(model.parameters(), learning_rate, (beta1, beta2), weight_decay=weight_decay)
print("step 0: train loss 9.9, val loss 9.9")
for index in range(max_iters):
    starts = torch.randint(len(data) - block_size, (batch_size * gradient_accumulation_steps,)).tolist()
    ids = torch.stack([data[start : start + block_size + 1] for start in starts])
    loss = model(ids[:, :-1], ids[:, 1:])[1]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"iter {index}: loss {loss.item():.4f}, time 1.00ms, mfu -100.00%")
"""

CONFIGURATOR = """
import sys
from ast import literal_eval

for argument in sys.argv[1:]:
    name, value = argument.removeprefix("--").split("=")
    try:
        value = literal_eval(value)
    except (SyntaxError, ValueError):
        pass
    assert type(value) == type(globals()[name]), name
    globals()[name] = value
"""


def write_checkout(folder: Path, **files: str) -> Path:
    """The files by their stems, such as `model=""`; the others are as above."""
    folder.mkdir(exist_ok=True)
    for name, text in {"model": MODEL, "train": TRAIN, "configurator": CONFIGURATOR, **files}.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder
