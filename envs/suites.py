"""Suites: scenarios that belong together, frozen under a name and a version, `conf/suite/NAME.yaml`.

A suite is what policies of one environment are compared on, and what a generalist is trained on. Its entries
are scenarios of `conf/scenario` with overrides; those that are `test_only` are never trained on. Whoever
changes an entry raises the version: figures quote both.
"""

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from servegym.costmodels.errors import InputError
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.compose import compose_group, compose_scenario
from servegym.envs.scenario.config import ScenarioConfig


@dataclass
class SuiteEntry:
    """One scenario of a suite."""

    scenario: str = MISSING  # a name in conf/scenario
    why: str = MISSING  # what makes scheduling hard here
    overrides: list[str] = field(default_factory=list)  # as on the command line, without "scenario."
    test_only: bool = False
    metric: str | None = None  # null: the suite's


@dataclass
class Suite:
    """Schema of `conf/suite/*.yaml`.

    environment: the id of what policies play. metric: of `envs.metrics.summarise`, of which less is better.
    """

    name: str = MISSING
    version: int = MISSING
    environment: str = ""
    metric: str = "mean_latency_s"
    entries: dict[str, SuiteEntry] = field(default_factory=dict)
    practice: dict[str, SuiteEntry] = field(default_factory=dict)  # never compared on: other GPUs, loads, ...

    @property
    def training(self) -> list[str]:
        """Names of what is trained on: entries that are not for testing only, and all of `practice`."""
        return [name for name, entry in self.entries.items() if not entry.test_only] + list(self.practice)

    def config(self, entry_name: str) -> ScenarioConfig:
        """The configuration of an entry, which bears the entry's name. InputError lists the entries."""
        known = self.entries | self.practice
        if entry_name not in known:
            raise InputError(f"suite {self.name}: {entry_name}: must be one of {', '.join(known)}")
        entry = known[entry_name]
        words = [
            f"+scenario.{word[1:]}" if word.startswith("+") else f"scenario.{word}"
            for word in (*entry.overrides, f"name={entry_name}")
        ]
        return compose_scenario(entry.scenario, tuple(words))

    def build(self, entry_name: str) -> Scenario:
        """The scenario of an entry, ready to run."""
        return Scenario(self.config(entry_name))

    def metric_of(self, entry_name: str) -> str:
        """By which policies are compared on an entry."""
        return self.entries[entry_name].metric or self.metric


def load_suite(name: str) -> Suite:
    """The suite `conf/suite/<name>.yaml`. InputError for an unknown name, listing the known ones."""
    return compose_group("suite", name, Suite)


ConfigStore.instance().store(group="suite", name="schema", node=Suite)
