"""A command by its name: what a sweep needs of it, in whatever process a run takes place."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from servegym.experiments.configs import read_config
from servegym.experiments.studies import digest

digest.register()  # in every process that composes configurations


@dataclass(frozen=True)
class Command:
    """The command `name`, which is the file experiments/NAME.py (see hydra_app.py)."""

    name: str

    @property
    def module(self) -> ModuleType:
        """Its file, imported."""
        return importlib.import_module(f"servegym.experiments.{self.name}")

    @property
    def schema(self) -> type:
        """What its configuration is an instance of."""
        schema: type = getattr(self.module, "".join(map(str.capitalize, self.name.split("_"))) + "Config")
        return schema

    def run(self, config: DictConfig) -> dict[str, Any]:
        """Does what the command is for; its answer."""
        answer: dict[str, Any] = getattr(self.module, self.name)(config)
        return answer

    def check(self, config: DictConfig) -> str | None:
        """The folder that a run would write, None for none. InputError for what `run` would refuse unread."""
        if hasattr(self.module, "check"):
            folder: str | None = self.module.check(config)
            return folder
        return getattr(read_config(config, self.schema), "out", None)

    @property
    def can_be_searched(self) -> bool:
        """Whether its answers have a score."""
        return hasattr(self.module, "score")

    def score(self, answer: dict[str, Any]) -> float:
        """What a search minimises; not a number for commands that have none."""
        return float(self.module.score(answer)) if self.can_be_searched else float("nan")

    def figures(self, answer: dict[str, Any]) -> dict[str, float]:
        """What a table of runs shows of an answer."""
        for key in ("metrics", "training"):
            if isinstance(answer.get(key), dict):
                found: dict[str, float] = answer[key]
                return found
        return {"score": answer["score"]} if "score" in answer else {}
