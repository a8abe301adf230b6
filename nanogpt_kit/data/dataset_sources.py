"""The sources of a dataset, and where a mistake in one of them is reported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from nanogpt_kit.core.errors import Fault, KitError, dotted
from nanogpt_kit.core.kinds import Dataset
from nanogpt_kit.core.options import components_in

OPTION = "dataset."  # what the keys of a dataset's options begin with where it is the only one
OWN_OPTION = re.compile(r"(?<![\w./'\"-])dataset\.(?=[a-z])")  # in a message; not in the name of a file


def sources_of(dataset: Dataset) -> Mapping[str, Dataset]:
    """The sources by name; a dataset that is one source has the name ""."""
    return dataset.sources or {"": dataset}


@contextmanager
def source_faults(dataset: Dataset, name: str) -> Iterator[None]:
    """A dataset's messages name its options as if it were the only one; those of a source are given their own keys."""
    try:
        yield
    except KitError as error:
        if not name:
            raise
        source = dataset.sources[name]
        key = next((dotted(key) for key, part in components_in(dataset, ("dataset",)) if part is source), "")
        raise KitError(*(fault_of_source(fault, name, key) for fault in error.faults)) from error


def fault_of_source(fault: Fault, name: str, key: str) -> Fault:
    """A fault of the source `name`, whose table has the key `key`; "" where its options have none."""
    if not key:
        return Fault(f"source {name!r}: {fault.message}", fault.key, fault.location)
    fault = with_key(fault)
    message = OWN_OPTION.sub(lambda _: f"{key}.", fault.message)
    if not fault.key.startswith(OPTION):
        return Fault(f"source {name!r}: {message}", fault.key, fault.location)
    return Fault(message, f"{key}.{fault.key.removeprefix(OPTION)}", fault.location)


def with_key(fault: Fault) -> Fault:
    """A fault of a dataset, with the option that its message begins with as its key."""
    if fault.key or not fault.message.startswith(OPTION):
        return fault
    key, _, message = fault.message.partition(": ")
    return Fault(message, key, fault.location)
