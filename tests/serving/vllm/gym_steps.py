"""Steps the gym's engine for scheduling agents through random workloads and random decisions.

    NUMBA_DISABLE_JIT=1 python -m tests.serving.vllm.gym_steps FOLDER

in an environment that has servegym. Iterations last a second and requests come at whole seconds. Writes
`steps.json`, a list of
    {"engine": {settings}, "requests": [{"arrival_s", "prompt", "output", "predicted"}, ...], "steps": [...]}
with for each iteration
    {"start_s", "choices": [...] where a decision was due, "scheduled": {request: tokens},
     "report": what a router sees of the replica once it has started}
and `observations.npz`: what the agent saw before each choice, in order (`engine`, `requests`).
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.envs.sim.llm.batch import begin_batch
from servegym.envs.sim.llm.decision_view import ENGINE_FEATURES, ROW_FEATURES, write_decision
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS, SHARES, VISIBLE, decide
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.fleet import submit
from servegym.envs.sim.llm.iteration import complete_iteration, start_batch
from servegym.envs.sim.llm.log import counting_log, recording_log
from servegym.envs.sim.llm.schedulers.agent import decision_due, may_run, start, unclaimed
from servegym.envs.sim.llm.setup import ReplicaSpec, load_requests, new_fleet
from servegym.envs.sim.llm.view import REPLICA_COLUMNS, REPLICA_FEATURES, write_replica_row
from servegym.envs.workloads import Workload

NUM_CASES = 10
NUM_REQUESTS = 60


class Case:
    """One engine and its workload, stepped to the end."""

    def __init__(self, number: int) -> None:
        self.rng = np.random.default_rng([7, number])
        rng = self.rng
        tokens, seats = (128, 8) if number % 2 else (256, 40)
        self.settings = {
            "max_num_batched_tokens": tokens,
            "max_num_seqs": seats,
            "num_kv_blocks": 40 if seats == 8 else 120,
            "block_size": 16,
            "reserve_full_prompt": number % 3 != 2,
        }
        self.workload = Workload(
            name="random",
            arrival_s=np.sort(rng.integers(0, 60, NUM_REQUESTS)).astype(float),
            prompt_tokens=rng.integers(1, 250, NUM_REQUESTS),
            output_tokens=rng.integers(1, 60, NUM_REQUESTS),
            predicted_output_tokens=rng.integers(1, 60, NUM_REQUESTS) if number % 4 < 2 else None,
            priority=np.arange(NUM_REQUESTS),
        )
        counted = counting_log()
        counted.counts[:3] = 100_000, 1_000_000, 100_000
        self.log = recording_log(counted)
        cost = linear_iteration_cost(max_num_batched_tokens=tokens, max_num_seqs=seats, overhead_s=1.0)
        spec = ReplicaSpec(Engine(scheduler="agent", **self.settings), cost)
        self.fleet = new_fleet([spec], NUM_REQUESTS, log=self.log)
        load_requests(self.fleet, np.arange(NUM_REQUESTS, dtype=np.int32), self.workload)
        self.engine_rows: list[np.ndarray] = []
        self.request_rows: list[np.ndarray] = []
        self.steps = list(self._steps())

    def _steps(self):
        fleet, replica = self.fleet, self.fleet.replicas[0]
        to_come, now_s = 0, 0.0
        while True:
            if replica.in_flight:
                now_s = float(replica.clock_s)
                complete_iteration(fleet, 0)
            elif not replica.num_unfinished:
                if to_come == NUM_REQUESTS:
                    return
                now_s = float(fleet.requests[to_come].arrival_s)
            while to_come < NUM_REQUESTS and fleet.requests[to_come].arrival_s <= now_s:
                submit(fleet, 0, to_come)
                to_come += 1
            if not replica.num_unfinished:
                continue
            entries, choices = int(self.log.counts[1]), []
            if decision_due(fleet, 0):
                choices = self._decide()
            else:
                begin_batch(fleet, 0)
                start(fleet, 0)
                start_batch(fleet, 0)
            row = np.zeros(REPLICA_FEATURES)
            write_replica_row(fleet, 0, now_s, row)
            scheduled = self.log.entries[entries : int(self.log.counts[1])]
            yield {
                "start_s": now_s,
                "choices": choices,
                "scheduled": {str(each.request): int(each.tokens) for each in scheduled},
                "report": {name: float(row[i]) for i, (name, _) in enumerate(REPLICA_COLUMNS)},
            }

    def _decide(self) -> list[int]:
        """Preempts now and then, admits some of those whom the share leaves tokens, starts the iteration.

        A share of which nothing is left for those admitted would leave them admitted without a token, which
        vLLM does not know; nor does it admit who was preempted in the same iteration.
        """
        fleet, rng = self.fleet, self.rng
        share = int(rng.choice([1, 2, 3, 3, 3]))
        choices: list[int] = []
        gone: set[int] = set()
        while True:
            engine_row, rows = (
                np.zeros(ENGINE_FEATURES, np.float32),
                np.zeros((NUM_ROWS, ROW_FEATURES), np.float32),
            )
            row_ids, mask = np.zeros(NUM_ROWS, np.int32), np.zeros(NUM_CHOICES, bool)
            write_decision(fleet, 0, engine_row, rows, row_ids, mask)
            self.engine_rows.append(engine_row)
            self.request_rows.append(rows)
            admissible = [
                row for row in np.flatnonzero(mask[:VISIBLE]).tolist() if int(row_ids[row]) not in gone
            ]
            if unclaimed(fleet, 0, SHARES[share])[0] <= 0:
                admissible = []
            running = np.flatnonzero(mask[VISIBLE:NUM_ROWS]).tolist()
            first = not choices or choices[-1] >= VISIBLE
            if first and running and rng.random() < 0.06:
                choice = VISIBLE + int(rng.choice(running))
                gone.add(int(row_ids[choice]))
            elif admissible and rng.random() < 0.8:
                choice = int(rng.choice(admissible))
            else:
                if may_run(fleet, 0, 0.0) and rng.random() < 0.15 and not (choices and choices[-1] < VISIBLE):
                    share = 0
                if not may_run(fleet, 0, SHARES[share]):  # nobody runs: somebody must be admitted
                    choice = int(np.flatnonzero(mask[:VISIBLE])[0])
                else:
                    choice = NUM_ROWS + share
            choices.append(choice)
            decide(fleet, 0, choice, row_ids)
            if choice >= NUM_ROWS:
                return choices

    def answer(self) -> dict[str, Any]:
        workload = self.workload
        predicted = workload.predicted_output_tokens
        return {
            "engine": self.settings,
            "requests": [
                {
                    "arrival_s": float(workload.arrival_s[i]),
                    "prompt": int(workload.prompt_tokens[i]),
                    "output": int(workload.output_tokens[i]),
                    "predicted": 0 if predicted is None else int(predicted[i]),
                }
                for i in range(NUM_REQUESTS)
            ],
            "steps": self.steps,
        }


def main(folder: str) -> None:
    """All cases, into the folder."""
    cases = [Case(number) for number in range(NUM_CASES)]
    Path(folder, "steps.json").write_text(json.dumps([case.answer() for case in cases]))
    np.savez_compressed(
        Path(folder, "observations.npz"),
        engine=np.array([row for case in cases for row in case.engine_rows]),
        requests=np.array([rows for case in cases for rows in case.request_rows]),
    )


if __name__ == "__main__":
    main(sys.argv[1])
