"""`servegym train`: trains a policy into a run directory, and goes on there after a kill."""

import csv
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from servegym.agents.learners.algorithms import algorithm_of
from servegym.agents.learners.callbacks import LoadCurriculum
from servegym.agents.learners.checkpoint import checkpoints
from servegym.agents.learners.config import PPOConfig
from servegym.agents.learners.families import Family, family_of, vector_of
from servegym.agents.learners.imitation import imitate, imitate_decisions
from servegym.agents.learners.interrupts import deferred_interrupts
from servegym.agents.learners.process import set_up_learning
from servegym.agents.learners.training import resume as resume_learning
from servegym.agents.learners.training import train as learn
from servegym.agents.learners.vec_env import SB3VecEnv
from servegym.costmodels.errors import InputError
from servegym.envs.routing.logged import load_logged
from servegym.envs.routing.observation import Observation
from servegym.envs.scenario.traffic import Traffic
from servegym.experiments import run_directory as files
from servegym.experiments.configs import read_config
from servegym.experiments.provenance import code_diff, installed_packages, provenance
from servegym.experiments.tracking.config import TrackingConfig
from servegym.experiments.tracking.tracker import Subject, flat
from servegym.experiments.tracking.writer import tracked_run
from servegym.experiments.train_config import TrainConfig
from servegym.experiments.training_curve import TrainingCurve

__all__ = ["TrainConfig", "check", "score", "show", "train"]


def train(config: DictConfig) -> dict[str, Any]:
    """Trains what the configuration says, or what is left of it in its run directory.

    InputError where the run directory holds another run, naming the keys that differ, or where another
    process is at work in it. A finished run is reported and not repeated. Ctrl-C, or SIGTERM, ends it after
    the update that is being made, with a checkpoint.
    """
    settings = _settings(config)
    run_dir = Path(settings.run_dir)
    if not files.missing_files(run_dir):
        return _answer(settings, "finished before")
    with deferred_interrupts("this update"):
        return _train(settings, run_dir)


def check(config: DictConfig) -> str:
    """The run directory that a configuration is trained in. InputError as `train`, with nothing done."""
    settings = _settings(config)
    if files.missing_files(Path(settings.run_dir)):
        _environments(settings)
    return settings.run_dir


def score(answer: dict[str, Any]) -> float:
    """What a search minimises: minus the mean return of the last training episodes."""
    return -answer["training"]["mean_return"] if answer["training"] else float("nan")


def _train(settings: TrainConfig, run_dir: Path) -> dict[str, Any]:
    set_up_learning()  # before the first weight is drawn, which several threads do in another order of sums
    family, algorithm = family_of(settings.agent.network), algorithm_of(settings.agent)
    scenarios, vec_env = _environments(settings)
    vec_env.reset()  # refuses traffic that cannot be had or cannot be served
    curriculum = _curriculum(settings, scenarios)
    origin = {"scenario": settings.trained_on, **_sources(family, scenarios)}
    resumed = bool(checkpoints(run_dir))
    tensorboard = run_dir / files.TENSORBOARD_FOLDER if settings.tracking.tensorboard else None
    try:
        logged = None
        if not resumed:  # refuses bad values before it writes anything
            logged = _logged(settings, vec_env)
            fresh = algorithm.build(settings.agent, vec_env, settings.seed, tensorboard)
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"run_dir = {run_dir}: cannot be written ({error.strerror})") from error
    with files.locked(run_dir):
        _prepare(run_dir, settings, origin)
        _say(origin, settings, resumed)
        files.note(run_dir, "going on" if resumed else "started")
        started, processor_started = time.monotonic(), time.process_time()
        curve = [TrainingCurve(run_dir / files.CURVE_FILE, family.metrics), *curriculum]
        model: BaseAlgorithm
        try:
            with tracked_run(settings.tracking, run_dir, _subject(settings, run_dir)) as trackers:
                watching = [*curve, *trackers]
                if resumed:
                    kind = algorithm.model(settings.agent)
                    model = resume_learning(run_dir, vec_env, watching, tensorboard, kind)
                else:
                    if logged is not None:
                        assert isinstance(fresh, PPO)  # by PPOConfig
                        imitate_decisions(fresh, *logged, settings.agent.imitate_steps)
                    elif isinstance(settings.agent, PPOConfig) and settings.agent.imitate_steps > 0:
                        assert family.teacher is not None and isinstance(fresh, MaskablePPO)  # by PPOConfig
                        imitate(fresh, family.teacher(), settings.agent.imitate_steps, family.imitated)
                    model = learn(fresh, settings.total_steps, run_dir, watching, settings.checkpoint_steps)
        except KeyboardInterrupt:
            _stopped(run_dir)
            raise
        _finish(run_dir, model, time.monotonic() - started, time.process_time() - processor_started)
    return _answer(settings, "resumed" if resumed else "trained")


def _logged(settings: TrainConfig, vec_env: SB3VecEnv) -> tuple[Observation, np.ndarray] | None:
    """Decisions of a real router to learn from first, if there are any."""
    if not isinstance(settings.agent, PPOConfig) or settings.agent.imitate_log is None:
        return None
    space: Any = vec_env.observation_space
    return load_logged(settings.agent.imitate_log, space["replicas"].shape[0])


def _environments(settings: TrainConfig) -> tuple[list[Any], SB3VecEnv]:
    """The scenarios that are trained on, and their environments side by side."""
    family = family_of(settings.agent.network)
    scenarios = [family.scenario(config) for config in settings.scenarios]
    return scenarios, SB3VecEnv(vector_of(family, settings.num_envs, scenarios))


def show(answer: dict[str, Any]) -> None:
    """Prints what came out and what to do next."""
    run_dir = answer["run_dir"]
    console = Console(soft_wrap=True)
    line = f"{answer['status'].capitalize()}: {run_dir}, {answer['steps']:,} decisions, seed {answer['seed']}"
    family = family_of(answer["network"])
    if answer["training"]:
        value = answer["training"][family.shown.metric] * family.shown.factor
        line += f"; {family.shown.label} in the last training episodes {value:.1f} {family.shown.unit}"
    console.print(line)
    export = f"; servegym export run_dir={run_dir}" if family.level else ""
    console.print(f"Next: servegym evaluate run_dir={run_dir}{export}")


def _settings(config: DictConfig) -> TrainConfig:
    """What is to be trained: the configuration composed, held against the one in the run directory."""
    if config.resume:
        return _settings_to_resume(config)
    settings = read_config(config, TrainConfig)
    settings.tracking.check_installed()
    run_dir = Path(settings.run_dir)
    if (run_dir / files.CONFIG_FILE).is_file():
        differing = files.differing_keys(files.load_run_config(run_dir), settings)
        if differing:
            raise InputError(
                f"run_dir = {run_dir}: holds another run, which differs in {', '.join(differing)}; "
                "choose another run_dir, or go on with that run by resume=true"
            )
    elif not files.may_begin_in(run_dir):
        raise InputError(
            f"run_dir = {run_dir}: exists and is no run directory; must be a new folder or a run's"
        )
    return settings


def _settings_to_resume(config: DictConfig) -> TrainConfig:
    """The run directory's own configuration; nothing else may be given beside it."""
    given = [word.lstrip("+").partition("=")[0] for word in HydraConfig.get().overrides.task]
    others = [key for key in given if key.partition(".")[0] not in files.WHEREABOUTS]
    if others:
        raise InputError(f"resume=true takes everything from run_dir: leave out {', '.join(others)}")
    if "run_dir" not in given:
        raise InputError("resume=true: no value for run_dir, the folder of the run to go on with")
    settings = files.load_run_config(Path(config.run_dir))
    settings.run_dir = config.run_dir  # it may have been moved
    if any(key.partition(".")[0] == "tracking" for key in given):
        tracking = OmegaConf.to_object(config.tracking)
        assert isinstance(tracking, TrackingConfig)  # by the schema
        settings.tracking = tracking
    settings.tracking.check_installed()
    return settings


def _sources(family: Family, scenarios: list[Any]) -> dict[str, Any]:
    """Where requests come from, and what of them is kept for testing: of several scenarios, each once."""
    sources = [family.source(scenario) for scenario in scenarios]
    if len(sources) == 1:
        return sources[0]
    return {
        "workload_source": ", ".join(dict.fromkeys(each["workload_source"] for each in sources)),
        "held_out": [each["held_out"] for each in sources if each["held_out"] is not None],
    }


def _curriculum(settings: TrainConfig, scenarios: Sequence[Any]) -> list[BaseCallback]:
    """What raises the rate of training episodes, if anything. InputError where there is no rate to raise."""
    start_rate = settings.agent.start_rate
    if start_rate == 1:
        return []
    traffics = [getattr(scenario, "traffic", None) for scenario in scenarios]
    of_llm_serving = [traffic for traffic in traffics if isinstance(traffic, Traffic)]
    if len(of_llm_serving) < len(traffics):
        raise InputError(f"agent.start_rate = {start_rate}: must be 1 but for scenarios of LLM fleets")
    return [LoadCurriculum(of_llm_serving, start_rate, settings.total_steps)]


def _prepare(run_dir: Path, settings: TrainConfig, origin: dict[str, Any]) -> None:
    """Makes the run directory and writes down what the run is, at its first start."""
    command = "servegym train " + " ".join(map(shlex.quote, HydraConfig.get().overrides.task))
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / files.COMMAND_FILE).open("a") as file:
        file.write(command.strip() + "\n")
    begun = (run_dir / files.CONFIG_FILE).is_file()
    if not begun or not (run_dir / files.PROVENANCE_FILE).is_file():
        origin = {**origin, "network": settings.agent.network, "seed": settings.seed, **provenance()}
        files.write_text(run_dir / files.CODE_FILE, code_diff())
        files.write_text(run_dir / files.PACKAGES_FILE, installed_packages())
        files.write_text(run_dir / files.PROVENANCE_FILE, json.dumps(origin, indent=2) + "\n")
    if not begun:
        files.save_config(settings, run_dir)


def _subject(settings: TrainConfig, run_dir: Path) -> Subject:
    """The run as trackers describe it."""
    parameters = {key: value for key, value in asdict(settings).items() if key not in files.WHEREABOUTS}
    origin = json.loads((run_dir / files.PROVENANCE_FILE).read_text())
    return Subject(run_dir.resolve().name, flat(parameters), flat(origin))


def _say(origin: dict[str, Any], settings: TrainConfig, resumed: bool) -> None:
    doing = "Going on with" if resumed else "Training"
    print(
        f"{doing} {settings.agent.network} by {settings.agent.algorithm} on {origin['scenario']} "
        f"({origin['workload_source']}), "
        f"{settings.total_steps:,} decisions in {settings.num_envs} environments, into {settings.run_dir}",
        file=sys.stderr,
    )


def _stopped(run_dir: Path) -> None:
    """Says where a run that was asked to stop goes on."""
    saved = checkpoints(run_dir)
    reached = int(saved[-1].name.removeprefix("step_")) if saved else 0
    files.note(run_dir, f"stopped; goes on from decision {reached}")
    print(
        f"servegym: stopped with a checkpoint after {reached:,} decisions; the same command goes on there, "
        f"or servegym train run_dir={run_dir} resume=true",
        file=sys.stderr,
    )


def _finish(run_dir: Path, model: BaseAlgorithm, elapsed_s: float, processor_s: float) -> None:
    """Writes the trained network, and then that the run is complete, with seconds since its start."""
    partial = run_dir / f".{files.POLICY_FILE}.partial"
    torch.save(model.policy.network.state_dict(), partial)  # type: ignore[union-attr]
    partial.replace(run_dir / files.POLICY_FILE)
    seconds = {"elapsed_s": round(elapsed_s, 3), "processor_s": round(processor_s, 3)}
    finished = {"steps": model.num_timesteps, **seconds}
    files.write_text(run_dir / files.FINISHED_FILE, json.dumps(finished) + "\n")
    files.note(run_dir, "finished")


def _answer(settings: TrainConfig, status: str) -> dict[str, Any]:
    run_dir = Path(settings.run_dir)
    origin = json.loads((run_dir / files.PROVENANCE_FILE).read_text())
    rows = []
    if (run_dir / files.CURVE_FILE).is_file():
        with (run_dir / files.CURVE_FILE).open(newline="") as file:
            rows = list(csv.DictReader(file))
    return {
        "status": status,
        "run_dir": str(run_dir),
        **json.loads((run_dir / files.FINISHED_FILE).read_text()),
        **{key: origin[key] for key in ("scenario", "workload_source", "network", "seed")},
        "training": {key: float(value) for key, value in rows[-1].items()} if rows else None,
    }
