"""What comes out of a simulation."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.reference.elastic.fleet import Fleet, Iteration
from tests.reference.elastic.request import Request


@dataclass
class ElasticResults:
    """One entry per request in workload order, then the whole."""

    first_token_s: list[float]  # nan without a token
    finish_s: list[float]  # nan unless finished
    outcome: list[str]
    scale_ups: int
    pauses: int
    prefills: int  # iterations started
    decodes: int
    migrations: int
    migrated_tokens: int
    log: list[Iteration]  # in the order in which they started


def results_of(fleet: Fleet, requests: Sequence[Request]) -> ElasticResults:
    """Read off what the simulation has left behind."""
    return ElasticResults(
        first_token_s=[r.first_token_s for r in requests],
        finish_s=[r.finish_s for r in requests],
        outcome=[r.outcome for r in requests],
        scale_ups=fleet.scale_ups,
        pauses=fleet.pauses,
        prefills=sum(entry.kind == "prefill" for entry in fleet.log),
        decodes=sum(entry.kind == "decode" for entry in fleet.log),
        migrations=fleet.migrations,
        migrated_tokens=fleet.migrated_tokens,
        log=fleet.log,
    )
