"""A copy of a model that shares its weights, with some modules replaced, and whose modules are called faster."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from itertools import chain
from typing import Any

from torch import nn

logger = logging.getLogger(__name__)


def is_plain_linear(module: nn.Linear) -> bool:
    """Whether it computes what nn.Linear does, without hooks, and with a plain parameter as weight."""
    if type(module).forward is not nn.Linear.forward:
        return False
    is_changed = has_hooks(module) or "forward" in vars(module)
    return not is_changed and type(module.weight) is nn.Parameter  # and not a shard, as with fsdp


def copy_with_replacements(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy that shares all weights, with some modules replaced; the model itself where it cannot be copied."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    for module in model.modules():  # objects that observe modules are shared, not copied
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            owner = getattr(hook, "__self__", None)
            shared |= {} if owner is None or isinstance(owner, nn.Module) else {id(owner): owner}
    try:
        new = copy.deepcopy(model, shared)
    except Exception as error:  # from a component with an attribute that cannot be copied
        logger.debug("decoding uses the model itself, since it cannot be copied: %r", error)
        return model
    for module in new.modules():
        if getattr(vars(module).get("forward"), "recomputes", False):  # it would call the module that was copied
            del module.forward
    replace_modules(new, change)
    return new


def replace_modules(module: nn.Module, change: Callable[[nn.Module], nn.Module]) -> None:
    """Replaces modules in place, from the outside in."""
    for name, part in module.named_children():
        changed = change(part)
        if changed is part:
            replace_modules(part, change)
        else:
            setattr(module, name, changed)


def call_without_hooks(model: nn.Module) -> None:
    """Makes each call of a module a call of its `forward`, in place, except for modules that have hooks.

    torch's call looks for hooks, and finds submodules and parameters only after Python has searched for an attribute:
    2 us or more for each of the 15 calls in a block of a GPT, whose arithmetic takes 60 us at 384 features (Zen 4).
    """
    direct: dict[type[nn.Module], type[nn.Module]] = {}
    for module in model.modules():
        cls = type(module)
        if has_hooks(module) or "forward" in vars(module) or cls.__call__ is not nn.Module.__call__:
            continue
        if cls not in direct:
            direct[cls] = type(cls.__name__, (cls,), {"__call__": cls.forward, "__module__": cls.__module__})
        try:
            module.__class__ = direct[cls]
        except TypeError:  # of a class with another layout in memory
            continue
        for name, value in chain(module._modules.items(), module._parameters.items()):
            if value is not None and not hasattr(cls, name):
                module.__dict__[name] = value  # assigning to the attribute removes it again


def has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
