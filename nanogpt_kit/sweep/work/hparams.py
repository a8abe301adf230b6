"""A trial's values for TensorBoard's HParams, in the event files of its runs.

torch's add_hparams makes an additional run for each call, and of several runs' keys TensorBoard shows those of one
(pytorch issues 32651 and 39250). A session's start and end, without a description of the whole experiment, give the
union of all keys, and every scalar as a metric.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from nanogpt_kit.sweep.work.outcome import Outcome
from nanogpt_kit.sweep.work.trial import TrialProcess
from nanogpt_kit.sweep.work.watcher import TrialWatcher


class HParamsWriter(TrialWatcher):
    """Writes the values of every trial beside its curves."""

    def trial_ending(self, process: TrialProcess, outcome: Outcome) -> None:
        index = process.study.plan.folder_index(process.trial)
        for run in process.runs:
            values = {**process.config, "trial": index, "train.seed": run.experiment.train.seed}
            write_hparams(run.folder.path / "tensorboard", values, outcome.state == TrialState.COMPLETE)


def write_hparams(folder: Path, values: Mapping[str, Any], is_complete: bool) -> None:
    """Writes values into the TensorBoard folder of a run, if it has one."""
    if not folder.is_dir():
        return
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2  # type: ignore[import-untyped]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]

    start = plugin_data_pb2.SessionStartInfo(group_name="")
    for key, value in values.items():
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = value if isinstance(value, str) else json.dumps(value)
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS if is_complete else api_pb2.STATUS_FAILURE)
    data = {
        metadata.SESSION_START_INFO_TAG: plugin_data_pb2.HParamsPluginData(session_start_info=start),
        metadata.SESSION_END_INFO_TAG: plugin_data_pb2.HParamsPluginData(session_end_info=end),
    }
    try:
        writer = EventFileWriter(str(folder), filename_suffix=".hparams")
    except UnicodeEncodeError:  # it opens no folder whose name is not UTF-8, as the run's own log has reported
        return
    for tag, content in data.items():
        value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content))
        writer.add_event(Event(summary=Summary(value=[value]), wall_time=time.time()))
    writer.close()
