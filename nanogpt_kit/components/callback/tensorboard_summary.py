"""What TensorBoard shows besides curves: names of its charts, a chart of both losses, and a run's options as HParams.

torch's add_hparams makes an additional run for each call, and of several runs' keys TensorBoard shows those of one
(pytorch issues 32651 and 39250). A session's start and end, without a description of the whole experiment, give the
union of all keys, those that differ first, and every scalar as a metric in the order of the names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # type: ignore[import-untyped]
from tensorboard.compat.proto.tensor_pb2 import TensorProto  # type: ignore[import-untyped]
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto  # type: ignore[import-untyped]
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2  # type: ignore[import-untyped]

LOSS = "Loss"  # TensorBoard sorts groups of charts by name, capital letters first
LOSSES = {"loss": "", "bits_per_byte": "_bits_per_byte"}  # the same quantity in two units
BYTES_PER_GB = 10**9
OUTPUT_ONLY = {"name", "components", "evaluate", "callback", "checkpoint", "sample", "sampler"}  # no hyperparameters
# Tags that have a single value for a run; of several TensorBoard shows the first
DESCRIPTIONS = LAYOUT, SESSION_START, SESSION_END = (
    "custom_scalars__config__",
    "_hparams_/session_start_info",
    "_hparams_/session_end_info",
)
NO_DATA = TensorProto(dtype="DT_FLOAT", tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=0)]))


def chart_value(metric: str, value: float) -> tuple[str, float]:
    """The name of a metric's chart, and the value there: ("Loss/train", 2.1) for ("train/loss", 2.1)."""
    split, _, name = metric.partition("/")
    if name in LOSSES:
        return f"{LOSS}/{split}{LOSSES[name]}", value
    if name.endswith("_bytes"):
        return f"{metric.removesuffix('_bytes')}_gb", value / BYTES_PER_GB
    return metric, value


def loss_layout() -> Summary:
    """A page of Custom Scalars with the losses of train and val on one chart."""
    lines = layout_pb2.MultilineChartContent(tag=[f"^{LOSS}/train$", f"^{LOSS}/val$"])
    chart = layout_pb2.Chart(title="train and val", multiline=lines)
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title=LOSS, chart=[chart])])
    return described(LAYOUT, "custom_scalars", text_tensor(layout.SerializeToString()))


def hparams(options: Mapping[str, Any]) -> Summary:
    """The options of an experiment, as `resolved()` gives them, by dotted key; without those of its output."""
    start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for key, value in dotted_options({key: value for key, value in options.items() if key not in OUTPUT_ONLY}):
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = value if isinstance(value, str) else json.dumps(value)
    return hparams_summary(SESSION_START, session_start_info=start)


def hparams_outcome(is_finished: bool) -> Summary:
    status = api_pb2.STATUS_SUCCESS if is_finished else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    return hparams_summary(SESSION_END, session_end_info=end)


def hparams_summary(tag: str, **content: Any) -> Summary:
    return described(tag, "hparams", NO_DATA, plugin_data_pb2.HParamsPluginData(**content).SerializeToString())


def scalars(metrics: Mapping[str, float]) -> Summary:
    """All metrics of a step in one record."""
    charts = (chart_value(metric, value) for metric, value in metrics.items())
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in charts])


def text_summary(name: str, markdown: str) -> Summary:
    return described(
        f"{name}/text_summary", "text", text_tensor(markdown.encode("utf-8"), TensorShapeProto.Dim(size=1))
    )


def text_tensor(text: bytes, *dim: TensorShapeProto.Dim) -> TensorProto:
    return TensorProto(dtype="DT_STRING", string_val=[text], tensor_shape=TensorShapeProto(dim=dim))


def described(tag: str, plugin: str, tensor: TensorProto, content: bytes = b"") -> Summary:
    """A value for one of TensorBoard's plugins. An empty `content` has version 0, which all three expect."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def dotted_options(values: Mapping[str, Any], table: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a list of numbers or texts is one value, a list of tables is not."""
    for name, value in values.items():
        key = f"{table}{name}"
        if isinstance(value, Mapping):
            yield from dotted_options(value, f"{key}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield from dotted_options({str(index): item for index, item in enumerate(value)}, f"{key}.")
        else:
            yield key, value
