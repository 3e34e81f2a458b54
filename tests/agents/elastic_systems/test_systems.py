"""Systems on the GPUs of an elastic scenario: one clock, their own rules."""

import numpy as np
import pytest

from servegym.agents.elastic_systems import SYSTEMS, ServedRequests, make_elastic_system
from servegym.agents.elastic_systems.engines import kv_tokens_on
from servegym.costmodels.elastic.presets import Degree, load_prefill_laws
from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import model_spec
from servegym.envs.elastic_scenario import load_elastic_scenario
from servegym.envs.workloads import Workload

LAWS = load_prefill_laws("lwm_7b", "a800_sxm")
EIGHT, FOUR = LAWS[Degree(8, 1, False)], LAWS[Degree(4, 1, False)]
pytestmark = pytest.mark.compiled


def serve(
    name: str, *requests: tuple[float, int, int], scenario: str = "mixed_8a800", **parameters: object
) -> ServedRequests:
    """What becomes of requests (arrival, prompt, output)."""
    arrival_s, prompt, output = (np.array(column) for column in zip(*requests, strict=True))
    workload = Workload("by hand", arrival_s.astype(float), prompt, output)
    return make_elastic_system(name, **parameters).serve(load_elastic_scenario(scenario), workload)


@pytest.mark.parametrize("name", ["vllm", "chunked_prefill"])
def test_a_prompt_alone_takes_what_the_law_of_one_instance_says(name: str) -> None:
    served = serve(name, (1.0, 100_000, 2))
    assert served.first_token_s[0] == pytest.approx(1.0 + EIGHT.seconds([100_000]), rel=1e-9)
    assert served.finish_s[0] > served.first_token_s[0] + 0.012  # a decode iteration launches its kernels
    assert served.duration_s == served.finish_s[0]
    assert served.num_scale_ups == 0


def test_vllm_prefills_whole_prompts_before_any_decode() -> None:
    served = serve("vllm", (0.0, 1_000, 500), (1.0, 50_000, 2), (1.0, 60_000, 2))
    both_s = EIGHT.seconds([50_000, 60_000])
    assert served.first_token_s[1] == served.first_token_s[2]
    assert both_s <= served.first_token_s[1] - 1.0 <= both_s + 0.02  # after the iteration under way
    assert served.finish_s[0] - served.first_token_s[0] > both_s


def test_chunks_of_all_prompts_go_together_and_each_iteration_has_its_constant() -> None:
    served = serve("chunked_prefill", (0.0, 8_000, 1), (0.0, 8_000, 1), chunk=2_000)
    constant_s = EIGHT.constant_s
    assert served.first_token_s.tolist() == pytest.approx([EIGHT.seconds([8_000] * 2) + 3 * constant_s] * 2)


def test_decodes_go_on_beside_chunks() -> None:
    """They wait for a chunk of the long prompt at a time, and for all of it where prompts are whole."""
    requests = ((0.0, 1_000, 130), (1.0, 200_000, 2))
    whole, chunked = (
        serve(name, *requests, **how) for name, how in (("vllm", {}), ("chunked_prefill", {"chunk": 2_000}))
    )
    assert whole.finish_s[0] - whole.first_token_s[0] > EIGHT.seconds([200_000])
    assert chunked.finish_s[0] < whole.finish_s[0]
    assert chunked.first_token_s[1] > whole.first_token_s[1]


def test_mii_shares_its_tokens_between_decodes_and_prompts() -> None:
    """Prompts in order, 100 tokens an iteration, the last of them cut."""
    served = serve("deepspeed_mii", (0.0, 150, 1), (0.0, 50, 1), max_num_batched_tokens=100, max_num_seqs=10)
    first, second = served.first_token_s
    assert first == second == pytest.approx(EIGHT.seconds([150]) + EIGHT.seconds([50]), rel=1e-9)


def test_distserve_prefills_on_four_and_moves_what_it_has_computed() -> None:
    served = serve("distserve", (0.0, 64_000, 2))
    assert served.first_token_s[0] == pytest.approx(FOUR.seconds([64_000]), rel=1e-9)
    moving_s = 64_000 * model_spec("lwm_7b").kv_bytes_per_token / (4 * 400 * 2.0**30)
    decode_s = served.finish_s[0] - served.first_token_s[0] - moving_s
    assert 0.012 < decode_s < 0.05


def test_distserve_needs_gpus_to_split() -> None:
    with pytest.raises(InputError, match="elastic_system distserve: 8 GPUs on each of 2 nodes: must be"):
        serve("distserve", (0.0, 100, 2), scenario="mixed_16a800")
    with pytest.raises(InputError, match=r"elastic_system.memory_share = 0.01: leaves no KV memory"):
        serve("distserve", (0.0, 100, 2), memory_share=0.01)


def test_nodes_take_turns() -> None:
    alone = serve("vllm", (0.0, 100_000, 1), scenario="mixed_16a800").first_token_s[0]
    served = serve("vllm", *[(0.0, 100_000, 1)] * 3, scenario="mixed_16a800")
    assert served.first_token_s[1] == pytest.approx(alone)
    assert served.first_token_s[0] == served.first_token_s[2] > 1.9 * alone


@pytest.mark.parametrize("name", [*SYSTEMS])
def test_what_is_too_long_is_rejected_and_the_others_served(name: str) -> None:
    served = serve(name, (0.0, 1_000, 10), (0.5, 950_000, 10), (1.0, 1_000, 10))
    assert served.rejected.tolist() == [False, True, False]
    assert served.finished.tolist() == [True, False, True]
    assert np.isnan(served.first_token_s[1])
    assert served.arrival_s.tolist() == [0.0, 0.5, 1.0]


def test_memory_of_a_larger_replica_holds_the_weights_once() -> None:
    scenario = load_elastic_scenario("mixed_8a800")
    model, fleet = model_spec("lwm_7b"), scenario.config.fleet
    weights = model.parameter_count * model.bytes_per_parameter / model.kv_bytes_per_token
    assert kv_tokens_on(fleet, 2) == fleet.kv_tokens
    assert kv_tokens_on(fleet, 8) == int(4 * fleet.kv_tokens + 3 * weights)
    assert kv_tokens_on(fleet, 8) == pytest.approx(900_000, rel=0.03)  # what the artifact gives TP8


@pytest.mark.parametrize("name", ["vllm", "deepspeed_mii"])
def test_memory_of_less_than_a_block_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="elastic_system.kv_tokens = 3: must be at least a block of "):
        serve(name, (0.0, 100, 2), kv_tokens=3)


def test_unknown_systems_and_parameters_are_refused() -> None:
    with pytest.raises(InputError, match="elastic_system = orca: must be one of loongserve, "):
        make_elastic_system("orca")
    with pytest.raises(InputError, match="elastic_system.max_num_seqs = 0: must be at least 1"):
        make_elastic_system("vllm", max_num_seqs=0)
    with pytest.raises(InputError, match="elastic_system vllm: "):
        make_elastic_system("vllm", chunk=3)
