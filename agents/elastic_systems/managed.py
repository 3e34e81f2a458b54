"""Systems that are managers of the elastic fleet itself: LoongServe and fixed parallelism."""

from servegym.agents.elastic_managers import make_elastic_manager
from servegym.agents.elastic_systems.system import ElasticSystem, ServedRequests, served_by_fleet
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.sim.elastic.simulate import simulate_elastic
from servegym.envs.workloads import Workload


def managed(name: str, **parameters: object) -> ElasticSystem:
    """The scenario's instances under the manager `name`; InputError as `make_elastic_manager`."""
    manager = make_elastic_manager(name, **parameters)

    def serve(scenario: ElasticScenario, workload: Workload) -> ServedRequests:
        return served_by_fleet(simulate_elastic(scenario.fleet, workload, manager))

    return ElasticSystem(name, serve)
