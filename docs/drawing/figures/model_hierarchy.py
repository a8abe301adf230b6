"""The modules of the built quickstart as a tree: names, classes, shapes of their parameters."""

from __future__ import annotations

from torch import nn

from drawing.canvas import Canvas
from drawing.code_facts import class_name, parameters_text, quickstart_model
from drawing.tree import Part, draw_tree


def draw() -> Canvas:
    model = quickstart_model()
    return draw_tree(
        "The modules of a model", "Modules, their classes and the shapes of their weights.", part("model", model)
    )


def part(name: str, module: nn.Module) -> Part:
    if isinstance(module, nn.ModuleList):
        others = f"{len(module)} blocks, all alike" if len(module) > 1 else ""
        return Part(name, "ModuleList", others, [part(f"{name}.0", module[0])])
    below = [part(child, inner) for child, inner in module.named_children()]
    return Part(name, class_name(module), parameters_text(module), below)
