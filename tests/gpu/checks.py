"""`python checks.py NAME [EXPERIMENT KEY=VALUE ...]`: what check.sh measures without a verb.

Where what is expected is exact, it fails; figures that depend on the card are only printed. With DRY set it computes on
the CPU, with tiny sizes.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

DRY = bool(os.environ.get("DRY"))
DEVICE = "cpu" if DRY else "cuda"
PROSE = Path(__file__).parents[1] / "data" / "prose.txt"
TINY = ["model.n_layer=2", "model.n_head=2", "model.n_embd=64", "model.block_size=64", "train.batch_tokens=1024"]


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def fastest(call: Callable[[], object], times: int = 10) -> float:
    """Seconds of the fastest of some calls, after one that is not timed."""
    call()
    seconds = []
    for _ in range(times):
        synchronize()
        began = time.perf_counter()
        call()
        synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def ceilings() -> None:
    """The rates of a large product and of a large copy."""
    rows, n_bytes = (256, 1 << 20) if DRY else (8192, 1 << 32)
    a, b = (torch.randn(rows, rows, device=DEVICE).bfloat16() for _ in range(2))
    source = torch.empty(n_bytes, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    product, copy = fastest(lambda: a @ b), fastest(lambda: target.copy_(source))
    print(f"product {2e-12 * rows**3 / product:.1f} TFLOP/s, copy {2e-12 * n_bytes / copy:.2f} TB/s read and written")
    print(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    print("cuDNN above 9.15 is preferred for attention on compute capability 9.0 and 10.0")


def attention() -> None:
    """The kernel that torch chooses for each view, and the time of its forward and backward pass."""
    names = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}
    B, H, T, D = (2, 4, 32, 16) if DRY else (32, 12, 1024, 64)
    mask = torch.ones(T, T, dtype=torch.bool, device=DEVICE).tril().expand(B, 1, T, T)
    views = {"causal": {"is_causal": True}, "masks": {"attn_mask": mask}}
    for name, options in views.items():
        q, k, v = (torch.randn(B, H, T, D, device=DEVICE, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))

        def both(q: Tensor = q, k: Tensor = k, v: Tensor = v, options: dict[str, object] = options) -> None:
            F.scaled_dot_product_attention(q, k, v, **options).sum().backward()  # type: ignore[arg-type]

        chosen = names[torch._fused_sdp_choice(q, k, v, **options)]
        print(f"{name}: {chosen}, {1e3 * fastest(both, 5):.2f} ms")
        assert DRY or chosen != "math", f"{name}: the scores are written to memory"


def loss() -> None:
    """The loss of more tokens than one chunk has, beside float64; and its time for 32 windows of GPT-2."""
    from nanogpt_kit.nn.loss import linear_cross_entropy

    tokens, features, vocabulary = (700, 16, 50_257) if DRY else (8192, 768, 50_257)
    torch.manual_seed(0)
    x = torch.randn(tokens, features, device=DEVICE)
    weight = torch.randn(50_304, features, device=DEVICE) * 0.05
    targets = torch.randint(0, vocabulary, (tokens,), device=DEVICE)
    targets[::7] = -1

    def plain(x: Tensor, weight: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
        return F.cross_entropy(F.linear(x, weight)[:, :vocabulary], targets, ignore_index=-1, reduction="sum")

    def gradients(computed: Callable[..., Tensor], x: Tensor, weight: Tensor) -> list[Tensor]:
        x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
        value = computed(x, weight, targets, vocabulary)
        value.backward()
        assert x.grad is not None
        assert weight.grad is not None
        return [value.detach(), x.grad, weight.grad]

    exact = gradients(plain, x.double(), weight.double())
    ways = (
        {"uncompiled": linear_cross_entropy}
        if DRY
        else {"uncompiled": linear_cross_entropy, "compiled": torch.compile(linear_cross_entropy, dynamic=False)}
    )
    for (way, computed), (name, bound) in itertools.product(ways.items(), (("fp32", 2e-6), ("bf16", 1e-2))):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=name == "bf16"):
            found = gradients(computed, x, weight)
        differences = [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
        shown = ", ".join(f"{one:.1e}" for one in differences)
        print(f"{way}, {name}: loss, features and weights differ by {shown}")
        assert max(differences) < bound, f"expected less than {bound}"
    del exact, found
    many = 128 if DRY else 32_768
    x = torch.randn(many, features, device=DEVICE, requires_grad=True)
    targets = torch.randint(0, vocabulary, (many,), device=DEVICE)
    weight.requires_grad_()

    def both() -> None:
        with torch.autocast(DEVICE, torch.bfloat16):
            value = linear_cross_entropy(x, weight, targets, vocabulary)
        value.backward()

    print(f"{many:,} tokens, uncompiled: {1e3 * fastest(both, 3):.1f} ms")


def waits() -> None:
    """Where torch says that the host waits for the device, in five steps that are not logged."""
    from nanogpt_kit.bench.training import TimedTrainer
    from nanogpt_kit.core.experiment import Experiment

    unexpected = 0
    for optimizer in ("adamw", "muon", "sgd"):
        for precision in ("fp32",) if DRY else ("bf16", "fp16"):
            options = [f"optimizer.use={optimizer}", f"train.precision={precision}", f"train.device={DEVICE}"]
            data = ["dataset.use=text", f"dataset.source={PROSE}", "train.steps=1000", "train.log_every_steps=900"]
            experiment = Experiment.load(
                "shakespeare_char", [*data, *TINY, *options, "train.compile=off", "callback=[]", "model.dropout=0.1"]
            )
            timed = TimedTrainer(experiment)
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                if not DRY:
                    torch.cuda.set_sync_debug_mode("warn")
                for _ in range(5):
                    timed.trainer.take_step()
                if not DRY:
                    torch.cuda.set_sync_debug_mode("default")
            found = [f"{Path(one.filename).name}:{one.lineno}" for one in seen if "synchroniz" in str(one.message)]
            print(f"{optimizer}, {precision}: {len(found)} waits in 5 steps", *sorted(set(found)))
            reads_overflow = precision == "fp16" and optimizer != "adamw"  # by torch's scaler, once a step
            unexpected += abs(len(found) - (5 if reads_overflow else 0))
            timed.close()
    assert not unexpected, "expected other numbers of waits"


def draws() -> None:
    """Tokens drawn on the device are those drawn on the CPU."""
    from nanogpt_kit.generate.draw import draw_tokens

    torch.manual_seed(1)
    same = 0
    for index in range(50):
        logits = torch.randn(4, 50_257) * 3
        there = draw_tokens(logits.to(DEVICE), [1, 2, 3, 4], index).cpu()
        same += int((draw_tokens(logits, [1, 2, 3, 4], index) == there).sum())
    print(f"{same} of 200")
    assert same == 200


def nccl() -> None:
    """The gradients of ddp in a world of one process are those of the plain model."""
    import torch.distributed as dist

    from nanogpt_kit.components.parallel.ddp import DDP
    from nanogpt_kit.core.options import RunContext

    with tempfile.TemporaryDirectory() as folder:
        backend = "gloo" if DRY else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)

        class Sum(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(8, 8)

            def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
                return (self.layer(ids) * targets).sum()

        model, x, y = Sum().to(DEVICE), torch.randn(4, 8, device=DEVICE), torch.randn(4, 8, device=DEVICE)
        model(x, y).backward()
        alone, model.layer.weight.grad = model.layer.weight.grad, None
        ctx = RunContext(device=DEVICE, precision="fp32", world_size=1, splits=(), block_size=8)
        parallel = DDP().wrap(model, ctx)
        with parallel.sync(last=True):
            parallel(x, y).backward()
        assert alone is not None
        assert model.layer.weight.grad is not None
        difference = float((model.layer.weight.grad - alone).abs().max())
        on_host = torch.tensor(3)
        dist.all_reduce(on_host)
        print(f"largest difference {difference}; gloo beside it: {int(on_host)}")
        dist.destroy_process_group()
    assert difference == 0


def resume(name: str, *overrides: str) -> None:
    """The losses of a run that begins from a checkpoint of another one, with its whole state, beside those of that."""
    options = ["train.steps=8", "train.batch_tokens=2048", "train.log_every_steps=1", "evaluate.every_steps=100"]
    options += ["checkpoint.every_steps=4", "sample.num_samples=0", f"train.device={DEVICE}", "schedule.use=constant"]

    def losses(runs: Path, *words: str) -> dict[int, float]:
        command = [sys.executable, "-m", "nanogpt_kit", "run", *words]
        environment = {**os.environ, "NANOGPT_KIT_RUNS": str(runs)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        newest = max(runs.glob("whole/*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
        lines = map(json.loads, newest.read_text().splitlines())
        return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}

    with tempfile.TemporaryDirectory() as folder:
        whole = losses(Path(folder), name, *overrides, *options, "name=whole")
        found = losses(Path(folder), "whole@4", "--extend", "4")
    same = {step: abs(found[step] - whole[step]) for step in (5, 6, 7, 8)}  # the earlier ones are copied
    print(
        f"losses from {whole[1]:.4f} to {whole[8]:.4f}; largest difference {max(same.values()):.1e} in steps {[*same]}"
    )
    assert max(same.values()) < 1e-3


def kernels(name: str, *overrides: str) -> None:
    """The kernels that take most of two steps' time."""
    from torch.profiler import ProfilerActivity, profile

    from nanogpt_kit.bench.training import TimedTrainer
    from nanogpt_kit.core.experiment import Experiment

    one_micro_batch = [] if DRY else ["train.batch_tokens=32_768"]
    timed = TimedTrainer(Experiment.load(name, [*overrides, *one_micro_batch]))
    activities = [ProfilerActivity.CPU, *([] if DRY else [ProfilerActivity.CUDA])]
    with profile(activities=activities) as found:
        timed.time_steps(2)
    order = "self_cpu_time_total" if DRY else "self_cuda_time_total"
    print(found.key_averages().table(sort_by=order, row_limit=16, max_name_column_width=60))
    timed.close()


CHECKS = {check.__name__: check for check in (ceilings, attention, loss, waits, draws, nccl, resume, kernels)}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](*sys.argv[2:])
