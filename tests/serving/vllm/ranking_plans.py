"""Plans of a published ranking for states that come in, line by line, in an environment that has servegym.

python -m tests.serving.vllm.ranking_plans NAME
"""

import json
import sys

import numpy as np

from servegym.agents.serving.contracts import REQUEST_COLUMNS, EngineLimits, EngineState
from servegym.agents.serving.heuristics import RankedScheduler


def main(name: str) -> None:
    """Answers until nothing more comes in."""
    policy = RankedScheduler(name)
    for line in sys.stdin:
        limits, waiting, running, free_blocks = json.loads(line)
        rows = [np.array(each, np.float64).reshape(-1, len(REQUEST_COLUMNS)) for each in (waiting, running)]
        plan = policy.plan(EngineState(EngineLimits(*limits), *rows, free_blocks))
        print(json.dumps(plan), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
