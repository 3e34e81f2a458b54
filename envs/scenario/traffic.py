"""Traffic: the requests of a scenario, training episodes and test workloads that share none."""

from dataclasses import replace
from pathlib import Path
from typing import TypedDict

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.scenario.clients import with_clients
from servegym.envs.scenario.config import EpisodeConfig, WorkloadConfig
from servegym.envs.scenario.sessions import Fits, with_sessions
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.prefix_state import shared_block_keys
from servegym.envs.workloads import (
    PREDICTORS,
    FittedWorkload,
    Workload,
    find_data,
    generate,
    load_fitted,
    read_trace,
    split,
)
from servegym.envs.workloads.laps import in_laps
from servegym.envs.workloads.learned_predictor import LearnedPredictor
from servegym.envs.workloads.rate_profile import load_profile
from servegym.envs.workloads.stretches import Stretches

_TEST = 2**32 - 1  # spawn key of test traffic, beyond any number of training episodes
_TRAIN = 2**32 - 2  # of the whole training part


def _trace_path(config: WorkloadConfig) -> Path | None:
    """The trace's file, or None where the generator stands in for it.

    A generator stands in only for the trace that it was fitted to, so a misspelt file is an error.
    """
    if config.trace is None:
        if config.fitted is None:
            raise InputError(
                "scenario.workload.trace and workload.fitted are both null: one of them must be given"
            )
        return None
    path = Path(config.trace)
    found = path if path.is_file() else find_data(config.trace)
    if found is not None:
        return found
    if config.fitted is None or path.name != load_fitted(config.fitted).provenance["source"]:
        raise InputError(
            f"scenario.workload.trace = {config.trace}: no such file, here or in the data folder "
            "(SERVEGYM_DATA, else ../shared/data), and no generator was fitted to it"
        )
    return None


def _refuse_contents(trace: Workload, session_turns: float) -> None:
    """Raises InputError where the trace says itself what its requests have in common."""
    for column in ("parent", "session_id", "prefix_ids"):
        if getattr(trace, column) is not None:
            raise InputError(
                f"scenario.workload.clients.session_turns = {session_turns}: must be 1, as the trace has "
                f"{column}"
            )


class HeldOut(TypedDict):
    """The part of a trace that training never sees: its last `test_s` seconds."""

    trace: str  # name of the file
    test_s: float


class Traffic:
    """The requests of a scenario: training episodes and test workloads that share none.

    fits: which requests of a workload fit somewhere, bool (N,).
    `source` says where they come from: the trace's file, or the generator's fitted parameters. `held_out`
    is the test part of a trace; None with a generator, whose streams never meet. training_rate: what the rate
    of training episodes yet to come is multiplied by, for who trains on light load first.
    """

    held_out: HeldOut | None
    training_rate: float = 1.0

    def __init__(self, config: WorkloadConfig, episode: EpisodeConfig, fits: Fits) -> None:
        self.config = config
        self.episode = episode
        self._fits = fits
        path = _trace_path(config)
        self._train: Workload | None = None
        self._stretches: Stretches | None = None
        self._test: Workload | None = None
        self._fitted: FittedWorkload | None = None
        if path is not None:
            self.source = f"trace {path.name}"
            self.held_out = HeldOut(trace=path.name, test_s=config.test_s)
            trace = read_trace(path, config.format)
            if config.clients.session_turns > 1:
                _refuse_contents(trace, config.clients.session_turns)
            self._train, self._test = split(trace, config.test_s)
            self._stretches = Stretches(self._train)
            self._compression = config.rate_rps / (self._train.rate_rps * config.keep)
        else:
            assert config.fitted is not None  # _trace_path has seen to it
            self.source = f"generator fitted to {config.fitted}"
            self.held_out = None
            self._fitted = load_fitted(config.fitted)
        self._profile = None if config.profile is None else load_profile(config.profile)
        self._predictor = self._learned_predictor() if config.predictor == "learned" else None

    def train_workload(self, seed: np.random.SeedSequence) -> Workload:
        """One training episode of `episode.requests` requests, its first arrival at 0."""
        traffic_seed, prediction_seed, client_seed, session_seed = seed.spawn(4)
        rng = np.random.default_rng(traffic_seed)
        spread = self.episode.rate_spread
        rate_factor = self.training_rate * rng.uniform(1 - spread, 1 + spread)
        if self._stretches is None:
            begin_s = 0.0 if self.config.period_s is None else rng.uniform(0, self.config.period_s)
            workload = self._generate(self.episode.requests, rate_factor, traffic_seed, begin_s)
        else:
            workload = self._stretch_of_training_part(rate_factor, rng)
        return self._with_what_clients_ask(workload, client_seed, session_seed, prediction_seed)

    def test_workload(self, seed: int) -> Workload:
        """The test part, thinned (or generated) with this seed. InputError where thinning leaves nothing."""
        return self._whole_part(self._test, np.random.SeedSequence(seed, spawn_key=(_TEST,)))

    def training_part(self, seed: int) -> Workload:
        """The whole training part, thinned as `test_workload` is (or as many requests generated)."""
        return self._whole_part(self._train, np.random.SeedSequence(seed, spawn_key=(_TRAIN,)))

    def long_workload(self, split: str, num_requests: int, seed: np.random.SeedSequence) -> Workload:
        """So many requests at the scenario's rate, the first at 0, even where the trace has fewer.

        Of a trace, its part for `split`, "train" or "test", begins anywhere and is played in laps (laps.py).
        Generated ones are new with every seed, whatever the split, and begin anywhere in their profile.
        InputError where the trace cannot be played in laps.
        """
        traffic_seed, prediction_seed, client_seed, session_seed = seed.spawn(4)
        rng = np.random.default_rng(traffic_seed)
        part = self._test if split == "test" else self._train
        if part is None:
            begin_s = 0.0 if self.config.period_s is None else rng.uniform(0, self.config.period_s)
            workload = self._generate(num_requests, 1.0, traffic_seed, begin_s)
        else:
            laps = in_laps(part, num_requests, self.config.keep, rng)
            workload = laps.from_first_arrival(self._compression)
        return self._with_what_clients_ask(workload, client_seed, session_seed, prediction_seed)

    def _whole_part(self, part: Workload | None, seeds: np.random.SeedSequence) -> Workload:
        traffic_seed, prediction_seed, client_seed, session_seed = seeds.spawn(4)
        if part is None:
            workload = self._generate(self._num_generated_for_test(), 1.0, traffic_seed)
        else:
            rng = np.random.default_rng(traffic_seed)
            workload = part.thin(self.config.keep, rng).scale_rate(self._compression)
            if workload.num_requests == 0:
                which = "test" if part is self._test else "training"
                raise InputError(
                    f"scenario.workload.keep = {self.config.keep}: leaves none of the "
                    f"{part.num_requests} {which} requests with seed {seeds.entropy}, must leave at least "
                    f"one (a larger keep{' or test_s' if part is self._test else ''} does)"
                )
        return self._with_what_clients_ask(workload, client_seed, session_seed, prediction_seed)

    @property
    def parts(self) -> list[Workload]:
        """The training part and the test part of the trace; none with a generator."""
        return [part for part in (self._train, self._test) if part is not None]

    @property
    def mean_output_tokens(self) -> float:
        """Of a request of the training part, or of the generator: what an operator can know beforehand."""
        if self._fitted is not None:
            return self._fitted.lengths.mean_output_tokens
        assert self._train is not None
        return float(self._train.output_tokens.mean())

    def max_requests(self, split: str) -> int:
        """The most requests an episode of `split` ("train" or "test") can have."""
        if split == "train":
            return self.episode.requests
        return self._num_generated_for_test() if self._test is None else self._test.num_requests

    def max_shared_blocks(self, num_requests: int, block_size: int) -> int:
        """The most KV blocks with contents that others may share, in an episode of so many requests."""
        most = 0
        for part in (self._train, self._test):
            if part is not None:
                _, offsets = shared_block_keys(part, block_size)
                most = max(most, int(np.sort(np.diff(offsets))[-num_requests:].sum()))
        return most

    def _num_generated_for_test(self) -> int:
        assert self._fitted is not None
        return max(1, round(self.config.test_s * self._fitted.rate_rps * self.config.keep))

    def check_fits(self, engine: Engine) -> None:
        """Raises InputError where the engine could never serve a request of the trace."""
        for part in (self._train, self._test):
            if part is not None:
                part.check_fits(engine.num_kv_blocks, engine.block_size)  # names the line
                engine.check_fits(part)

    def _generate(
        self, num_requests: int, rate_factor: float, seed: np.random.SeedSequence, begin_s: float = 0.0
    ) -> Workload:
        """begin_s: where in the profile's period, if there is one, in time at an even rate."""
        assert self._fitted is not None
        cv = self._fitted.interarrival_cv if self.config.arrivals == "gamma" else 1.0
        rate_rps = self.config.rate_rps * rate_factor
        workload = generate(self.config.arrivals, rate_rps, cv, num_requests, self._fitted.lengths, seed)
        if self._profile is None:
            return workload
        assert self.config.period_s is not None  # WorkloadConfig has seen to it
        moved_s = self._profile.warp(
            np.concatenate([[begin_s], workload.arrival_s + begin_s]), self.config.period_s
        )
        return replace(workload, arrival_s=moved_s[1:] - moved_s[0])

    def _stretch_of_training_part(self, rate_factor: float, rng: np.random.Generator) -> Workload:
        """`episode.requests` requests kept from a stretch that starts anywhere."""
        assert self._stretches is not None
        stretch = self._stretches.draw(self.episode.requests, self.config.keep, rng)
        return stretch.from_first_arrival(self._compression * rate_factor)

    def _learned_predictor(self) -> LearnedPredictor:
        """InputError where it was trained on what this traffic holds out."""
        path = self.config.predictor_parameters["path"]
        predictor = LearnedPredictor.load(path)
        seen, own = predictor.trained_on, self.held_out
        if seen is None or own is None or seen["trace"] != own["trace"]:
            return predictor
        if seen["test_s"] < own["test_s"]:
            raise InputError(
                f"scenario.workload.predictor_parameters.path = {path}: was trained on all but the last "
                f"{seen['test_s']:g} s of {own['trace']}, must not have seen the last {own['test_s']:g} s"
            )
        return predictor

    def _with_what_clients_ask(
        self,
        workload: Workload,
        client_seed: np.random.SeedSequence,
        session_seed: np.random.SeedSequence,
        prediction_seed: np.random.SeedSequence,
    ) -> Workload:
        workload = with_clients(workload, self.config.clients, client_seed)
        workload = with_sessions(workload, self.config.clients, self._fits, session_seed)
        return self._with_predictions(workload, prediction_seed)

    def _with_predictions(self, workload: Workload, seed: np.random.SeedSequence) -> Workload:
        if self._predictor is not None:
            predictions = self._predictor.predict(workload)
            return workload.with_predictions(predictions, self.config.prediction_refinement)
        name, parameters = self.config.predictor, self.config.predictor_parameters
        if self.config.prediction_error is not None:
            name, parameters = "noisy", {"mean_relative_error": self.config.prediction_error}
        if name is None:
            return workload
        predict = PREDICTORS[name]
        rng = np.random.default_rng(seed)
        predictions = predict(workload.output_tokens, rng=rng, **parameters)
        return workload.with_predictions(predictions, self.config.prediction_refinement)
