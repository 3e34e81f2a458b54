"""`ElasticFleet`: instances that can work on one batch together."""

from dataclasses import dataclass

from servegym.costmodels.elastic.cost import ElasticCost, validate_elastic_cost
from servegym.costmodels.errors import InputError


@dataclass(frozen=True, eq=False)
class ElasticFleet:
    """N instances with a pool of KV tokens each; instance `i` stands in node `i // instances_per_node`.

    InputError for numbers out of range, or a cost that does not cover N instances.
    """

    num_instances: int
    kv_tokens: int
    instances_per_node: int
    cost: ElasticCost

    def __post_init__(self) -> None:
        for name in ("num_instances", "kv_tokens", "instances_per_node"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be at least 1")
        validate_elastic_cost(self.cost)
        covered = self.cost.prefill_s.shape[1] - 1
        if covered < self.num_instances:
            raise InputError(
                f"num_instances = {self.num_instances}: must be at most {covered}, for which cost has times"
            )

    @property
    def max_group(self) -> int:
        """Most requests of a group that cost has times for."""
        return len(self.cost.iteration.lm_head_s) - 1
