"""Hands a sweep's words to Hydra's sweepers, and to nobody before."""

from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class TaskWords(Callback):
    """What the sweeper is given to make runs of.

    Hydra first composes the configuration once with the words of the whole sweep, where a choice of several
    counts as none: `agent=ppo_mlp,ppo_gnn agent.hidden=8` would have nothing to set `hidden` in.
    """

    words: ClassVar[list[str]] = []

    OVERRIDE = f"+hydra.callbacks.task_words._target_={__name__}.TaskWords"

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """The words in place of none."""
        config.hydra.overrides.task = list(self.words)
