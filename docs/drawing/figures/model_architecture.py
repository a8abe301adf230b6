"""The default model, from ids to logits; names and shapes are those of the built quickstart."""

from __future__ import annotations

from typing import Any

from drawing.canvas import Canvas
from drawing.code_facts import parameters_text, quickstart_model, require_text

GPT = "nanogpt_kit/components/model/gpt.py"


def draw() -> Canvas:
    model: Any = quickstart_model()
    require_text(GPT, "Transformer.features", "self.wte(ids)", "position.embed(x", "self.drop(x)", "block(x")
    require_text(GPT, "Transformer.forward", "self.ln_f(x)", "self.lm_head(x)", "self.loss(x")
    require_text(GPT, "Block.forward", "self.ln_1(x)", "self.attn(features", "self.ln_2(x)", "self.mlp(features)")
    block, layers = model.h[0], len(model.h)
    canvas = Canvas(
        720,
        610,
        "The architecture of the model",
        "From token ids over blocks with attention and MLP to logits and loss.",
    )
    left, width = 40, 270

    def part(y: float, text: str, note: str, fill: str = "paper") -> None:
        canvas.box(left, y, width, 42, text, fill=fill, note=note)

    def step(y: float, label: str = "") -> None:
        canvas.arrow((left + width / 2, y), (left + width / 2, y + 20))
        canvas.text(left + width / 2 + 10, y + 10, label, anchor="start", size=12, color="muted")

    canvas.text(left + width / 2, 16, "ids (B, T)", mono=True, size=13)
    step(26)
    part(46, "wte: token embedding", parameters_text(model.wte), "blue")
    step(88)
    part(
        108,
        "position",
        f"learned here: {parameters_text(model.position.wpe)}",
        "blue",
    )
    step(150, "(B, T, C): the residual stream")
    canvas.box(14, 170, 330, 268, "", dashed=True, fill="gray")
    canvas.text(350, 190, f"h: {layers} blocks of this kind", anchor="start", size=13)
    y = 182
    for norm, mixer, name in (
        ("ln_1", "attn", "mixer: attention between positions"),
        ("ln_2", "mlp", "MLP: each position alone"),
    ):
        assert hasattr(block, norm), norm
        assert hasattr(block, mixer), mixer
        canvas.box(left, y, width, 34, f"{norm}: norm", fill="yellow")
        canvas.arrow((left + width / 2, y + 34), (left + width / 2, y + 48))
        canvas.box(
            left, y + 48, width, 42, f"{mixer}: {name.partition(': ')[0]}", note=name.partition(": ")[2], fill="green"
        )
        canvas.arrow((left + width / 2, y + 90), (left + width / 2, y + 104))
        canvas.circle(left + width / 2, y + 111, 9, fill="violet")
        canvas.text(left + width / 2, y + 111, "+", size=14)
        canvas.line(
            [(left + width / 2, y - 8), (left - 16, y - 8), (left - 16, y + 111), (left + width / 2 - 10, y + 111)],
            color="violet-line",
            head=True,
        )
        y += 130
    for y, part_text in ((206, "residual: added to the\nresult of mixer and MLP"),):
        canvas.text(360, y + 24, part_text, anchor="start", size=12, color="violet-line")
    step(438 - 4)
    canvas.box(left, 454, width, 34, "ln_f: last norm", fill="yellow")
    step(488)
    part(508, "lm_head: one logit for each token", f"{parameters_text(model.lm_head)}, the weight of wte", "blue")
    assert model.lm_head.weight is model.wte.weight
    canvas.arrow((left + width, 529), (left + width + 70, 529))
    canvas.text(left + width + 78, 521, "training: loss, summed over the", anchor="start", size=12)
    canvas.text(left + width + 78, 537, "tokens of targets (B, T)", anchor="start", size=12)
    step(550)
    canvas.text(left + width / 2, 584, "generation: logits (B, T, V)", size=12)
    inner = [(name, type(module).__name__) for name, module in block.attn.named_children()]
    canvas.text(360, 286, "in attn: " + ", ".join(name for name, _ in inner), anchor="start", size=12, color="muted")
    canvas.text(
        360,
        400,
        "in mlp: " + ", ".join(name for name, _ in block.mlp.named_children()),
        anchor="start",
        size=12,
        color="muted",
    )
    return canvas
