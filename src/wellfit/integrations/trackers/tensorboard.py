"""TensorBoard: scalars, texts and settings of a run in event files, written by TensorBoard's own writer. No torch.

A file cannot be changed, so a run that goes on gets another one, which begins by declaring what was written before void (a session
log that starts at a step) and tells all of it again; then the earlier one is removed. TensorBoard shows each point once.

$ tensorboard --logdir runs
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wellfit.integrations.trackers.telling import Ending, Story, setting

OURS = ".wellfit"  # what the names of our files end with


class TensorBoard:
    """One run in a folder of its own."""

    def __init__(self, folder: Path):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
        from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder = folder
        self.where = f"tensorboard --logdir {shlex.quote(str(folder))}"
        self._event, self._log, self._summary, self._status = Event, SessionLog, Summary, api_pb2
        self._start, self._settings, self._plugin = summary_v2.hparams_pb, metadata, plugin_data_pb2
        plugin = SummaryMetadata.PluginData(plugin_name="text", content=TextPluginData(version=0).SerializeToString())
        self._is_text = SummaryMetadata(plugin_data=plugin)
        one = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        self._tensor = lambda text: TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=one)
        self._open = lambda suffix: EventFileWriter(str(folder), max_queue_size=1000, filename_suffix=suffix)
        self._writer: Any = None
        self._earlier: list[Path] = []  # files of ours that this one replaces

    def begin(self, story: Story) -> None:
        name = re.sub(r"[^\w-]", "-", story.id)  # runs of one name in two places may share a folder
        mine = f".{name}{OURS}"
        self._earlier = list(self.folder.glob(f"events.out.tfevents.*{mine}"))
        self._writer = self._open(mine)
        if self._earlier:
            self.back_to(-1, story.time)
        chosen = {path: setting(value) for path, value in story.recipe.items()}
        self._add(0, story.time, self._start(chosen, trial_id=story.id, start_time_secs=story.time))
        rows = "\n".join(f"| `{name}` | {value} |" for name, value in (chosen | dict(story.facts)).items())
        self.text(0, story.time, "run", f"| {story.name} | |\n|---|---|\n{rows}")

    def row(self, step: int, time: float, values: Mapping[str, float]) -> None:
        told = [self._summary.Value(tag=name, simple_value=_single(value)) for name, value in values.items()]
        self._add(step, time, self._summary(value=told))

    def text(self, step: int, time: float, name: str, text: str) -> None:
        value = self._summary.Value(tag=name, metadata=self._is_text, tensor=self._tensor(text))
        self._add(step, time, self._summary(value=[value]))

    def back_to(self, step: int, time: float) -> None:
        log = self._log(status=self._log.START)
        self._writer.add_event(self._event(wall_time=time, step=step + 1, session_log=log))

    def flush(self) -> None:
        self._writer.flush()
        while self._earlier:
            self._earlier.pop().unlink(missing_ok=True)

    def end(self, ending: Ending) -> None:
        self.text(ending.step, ending.time, "end", ending.text)
        if ending.numbers:
            self.row(ending.step, ending.time, ending.numbers)
        if ending.reason:
            failed = ending.reason == "loss-not-finite"
            status = self._status.STATUS_FAILURE if failed else self._status.STATUS_SUCCESS
            ended = self._plugin.SessionEndInfo(status=status, end_time_secs=ending.time)
            about = self._settings.create_summary_metadata(self._plugin.HParamsPluginData(session_end_info=ended))
            tag, nothing = self._settings.SESSION_END_INFO_TAG, self._settings.NULL_TENSOR
            value = self._summary.Value(tag=tag, metadata=about, tensor=nothing)
            self._add(ending.step, ending.time, self._summary(value=[value]))
        self.flush()
        self._writer.close()

    def _add(self, step: int, time: float, summary: Any) -> None:
        self._writer.add_event(self._event(wall_time=time, step=step, summary=summary))


LARGEST = 3.4028235e38  # of single precision, which event files hold


def _single(value: float) -> float:
    """A number that single precision holds; one that it does not is infinite there."""
    return value if not abs(value) > LARGEST else float("inf") if value > 0 else float("-inf")
