"""A pass of torch's compiler that adds the gradient of a token embedding into another gradient of the same weight.

An embedding's gradient is compiled as a tensor of zeros to which the rows of the batch are added. Where the embedding
is also the output head, that tensor is then added to the head's gradient: for GPT-2 154 MB are written and read for 256
rows. The pass lets the rows be added to the head's gradient itself.

Graphs are functional here, so that the result is the same whatever else uses these tensors. What such a pass may see
is private to torch; where a name is missing, or the graph has another form, nothing changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node


def embedding_gradient_pass() -> Any:
    """The pass, for torch.compile's option `post_grad_custom_pre_pass`; None where this torch has no such passes."""
    try:
        from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
    except ImportError:
        return None

    class EmbeddingGradientPass(CustomGraphPass):
        def __call__(self, graph: Graph) -> None:
            add_rows_in_place_of_sums(graph)

        def uuid(self) -> Any:
            return get_hash_for_files((__file__,))  # so that compiled code stays in the cache until this file changes

    return EmbeddingGradientPass()


def add_rows_in_place_of_sums(graph: Graph) -> int:
    """Replaces each `gradient + add_rows(zeros, ...)` by `add_rows(gradient, ...)`; returns how many there were."""
    add_rows = getattr(torch.ops.aten, "_unsafe_masked_index_put_accumulate", None)
    if add_rows is None:
        return 0
    found = 0
    for total in graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor):
        for rows, gradient in (total.args, total.args[::-1]):
            if is_sum_of_rows(rows, add_rows.default) and rows is not gradient and same_form(gradient, rows):
                with graph.inserting_before(total):
                    added = graph.call_function(add_rows.default, (gradient, *rows.args[1:]))
                added.meta = dict(total.meta)
                total.replace_all_uses_with(added)
                graph.erase_node(total)
                graph.erase_node(rows)
                found += 1
                break
    return found


def is_sum_of_rows(node: Any, add_rows: object) -> bool:
    """Whether a value is a sum of rows onto zeros that nothing else than one sum uses."""
    if not isinstance(node, Node) or node.target is not add_rows or len(node.users) != 1:
        return False
    zeros: Any = node.args[0]
    return isinstance(zeros, Node) and zeros.target is torch.ops.aten.full.default and bool(zeros.args[1] == 0)


def same_form(one: Any, other: Node) -> bool:
    """Whether both are tensors of the same shape and type, so that their sum has no broadcast and no conversion."""
    if not isinstance(one, Node):
        return False
    first, second = one.meta.get("val"), other.meta.get("val")
    if not (isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)):
        return False
    return first.shape == second.shape and first.dtype == second.dtype
