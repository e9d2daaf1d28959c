"""Weights & Biases: a run of the same name and a fixed id, its rows by optimizer step, the rest in its summary, tags and notes.

Nothing is sent unless you have logged in (`wandb login`) or set `WANDB_MODE`: without either, the run is kept offline in its folder, and
`wandb sync` sends it when you say so. A run that goes on has the same id: online only rows after the last one that arrived are sent;
offline each part is a folder that holds the whole run, so the last one is the one to sync. W&B keeps the first of two rows of a step, so
where recovery went back by itself and took other steps, what was first told of them stays; a replay tells the later ones.

No machine's facts, console output, code or git state are sent; only what `telling.py` lists.
"""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wellfit.integrations.trackers.telling import Ending, Story, setting

TAG = 64  # characters of a tag, at most


class WeightsAndBiases:
    """One run of a project."""

    def __init__(self, folder: Path, project: str):
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no crash reports of ours to their makers
        import wandb

        self.folder, self.project = folder, project or os.environ.get("WANDB_PROJECT") or "wellfit"
        self.where = ""
        self._library: Any = wandb
        self._run: Any = None
        self._reached = -1  # the last step that has arrived

    def begin(self, story: Story) -> None:
        settings = self._library.Settings(
            console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_machine_info=True,
            x_disable_meta=True, x_save_requirements=False,
        )  # fmt: skip
        mode = self._mode()
        chosen = {path: setting(value, 2000) for path, value in story.recipe.items()}
        self._run = self._library.init(
            project=self.project, id=story.id, name=story.name, mode=mode, settings=settings,
            resume="allow" if mode == "online" else None, dir=os.environ.get("WANDB_DIR") or str(self.folder),
        )  # fmt: skip
        self._run.config.update({**chosen, "run": dict(story.facts)}, allow_val_change=True)
        self._reached = self._run.step - 1 if self._run.resumed else -1
        self._run.define_metric("*", step_metric="_step", summary="last")
        kept = Path(self._run.dir).parent
        self.where = self._run.url or f"wandb sync {shlex.quote(os.path.relpath(kept))}"

    def row(self, step: int, time: float, values: Mapping[str, float]) -> None:
        if step >= self._reached and not all(name.startswith(("test/", "old/")) for name in values):
            self._run.log({**values, "_timestamp": time}, step=step)
            self._reached = step
        elif all(name.startswith(("test/", "old/")) for name in values):  # of the weights of an earlier step
            self._run.summary.update(dict(values))

    def text(self, step: int, time: float, name: str, text: str) -> None:
        """Texts are told at the end, in the run's notes."""

    def back_to(self, step: int, time: float) -> None:
        """W&B takes no row twice."""

    def flush(self) -> None:
        """It has threads of its own."""

    def end(self, ending: Ending) -> None:
        told = {"end": ending.reason or "not ended", "step": ending.step, **ending.numbers, **ending.scores}
        self._run.summary.update(told)
        self._run.notes = ending.text
        found = [str(finding["id"])[:TAG] for finding in ending.findings]
        self._run.tags = tuple(dict.fromkeys([*(self._run.tags or ()), ending.reason or "not ended", *found]))
        self._run.finish(exit_code=1 if ending.reason == "loss-not-finite" else 0)

    def _mode(self) -> str:
        """What the user has set; else online where there are credentials, and offline where there are none."""
        mode = os.environ.get("WANDB_MODE") or str(self._library.setup().settings.mode)
        if mode != "online" or os.environ.get("WANDB_MODE"):
            return mode
        return "online" if self._library.login(prompt=False, verify=False) else "offline"
