"""From a prompt to text: the stages of generation, with the definition of each."""

from __future__ import annotations

from drawing.canvas import Canvas
from drawing.code_facts import require_text
from drawing.flow import Stage, draw_flow

DECODE = "nanogpt_kit/generate/decode.py"


def draw() -> Canvas:
    require_text(DECODE, "Decoder.draw_next", "self.transform", "draw_tokens")
    stages = [
        Stage("a run's checkpoint: weights, tokenizer", "generate/load.py", "load_run", "TextGenerator", "blue"),
        Stage(
            "prompt: text to ids",
            "generate/generator.py",
            "TextGenerator.generate_batches",
            "ids of each prompt",
            "blue",
        ),
        Stage("weights in the type for decoding", "generate/decoding_model.py", "DecodingModel", "", "blue"),
        Stage(
            "prefill: the whole prompt in one pass",
            "generate/decode.py",
            "Decoder.prefill",
            "keys and values in the cache",
            "green",
        ),
        Stage("logits of the next token", "generate/decode.py", "Decoder.next_logits", "(texts, vocabulary)", "yellow"),
        Stage(
            "samplers, in the experiment's order",
            "core/kinds/observation.py",
            "Sampler.transform",
            "changed logits",
            "yellow",
        ),
        Stage("draw: a hash of seed and index", "generate/draw.py", "draw_tokens", "one id for each text", "yellow"),
        Stage(
            "one token through the model",
            "generate/decode.py",
            "Decoder.step",
            "cache grows by one; again from the logits",
            "yellow",
        ),
        Stage("ids to text, as it becomes whole", "generate/generator.py", "TextGenerator.add_token", "text", "gray"),
    ]
    canvas = draw_flow(
        "The flow of generation", "Nine stages from a prompt to text; four of them repeat for each token.", stages
    )
    top, bottom = 10 + 4 * 72 + 23, 10 + 7 * 72 + 23
    canvas.line([(310, bottom), (322, bottom), (322, top), (312, top)], color="yellow-line", head=True)
    return canvas
