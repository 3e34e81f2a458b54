"""TF-Serving: models in turns, each with a full batch or once its first request has waited for a timeout.

The shared batch scheduler of TensorFlow Serving, as its documentation of batching describes it: a queue for
each model, threads that take the next queue with a batch that is full or old enough, in turns. It knows no
deadlines and drops nothing.
"""

from servegym.agents.batch_schedulers.turns import in_turns
from servegym.agents.parameters import NonNegativeFloat, NonNegativeInt
from servegym.agents.published import Evidence, published
from servegym.envs.sim.batch.scheduler import BatchScheduler


@published(
    "batch_scheduler",
    source='TensorFlow Serving, "TensorFlow Serving Batching Guide" (shared batch scheduler)',
    evidence=Evidence.COMMON,
    complexity="O(M + log G) for a free GPU, O(1) while all are busy",
)
def tf_serving(max_batch: NonNegativeInt = 0, timeout_s: NonNegativeFloat = 1e-3) -> BatchScheduler:
    """The largest batch (0: that which takes half of the objective), and how long a request waits.

    The defaults are ours; their guide tells users to choose by experiment.
    """
    return in_turns("tf_serving", max_batch, timeout_s)
