"""The sources of a dataset, and where a mistake in one of them is reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from nanogpt_kit.core.errors import Fault, KitError, dotted
from nanogpt_kit.core.kinds import Dataset
from nanogpt_kit.core.options import components_in

OPTION = "dataset."  # what the keys of a dataset's options begin with where it is the only one


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
    message, option = fault.message, fault.key
    if not option and message.startswith(OPTION):
        option, _, message = message.partition(": ")
    if not key or not option.startswith(OPTION):
        return Fault(f"source {name!r}: {fault.message}", fault.key, fault.location)
    return Fault(message.replace(OPTION, f"{key}."), f"{key}.{option.removeprefix(OPTION)}", fault.location)
