"""vLLM's own scheduler with the plugin, stepped without a GPU: something stands in for the model."""

import itertools
import json
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, SpeculativeConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from servegym.agents.serving.engine.engine import Engine
from servegym.agents.serving.plugins.vllm import ServegymScheduler

MAX_MODEL_LEN = 4096
VOCABULARY = 1 << 20
SMALLEST_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": MAX_MODEL_LEN,
}

init_none_hash(sha256)


def make_scheduler(
    policy: Any = None,
    *,
    num_blocks: int = 40,
    block_size: int = 16,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 128,
    is_async: bool = False,
    prefix_caching: bool = False,
    scheduling_policy: str = "fcfs",
    deadline_s: float | None = None,
    cls: Any = ServegymScheduler,
    additional_config: dict[str, Any] | None = None,
    num_drafts: int = 0,
    **options: Any,
) -> Any:
    """A scheduler with `num_blocks` usable blocks; policy: an EnginePolicy; None: vLLM's own rules."""
    cache = CacheConfig(block_size=block_size, enable_prefix_caching=prefix_caching)
    cache.num_gpu_blocks = num_blocks + 1
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(SMALLEST_LLAMA))
        model = ModelConfig(
            model=folder, skip_tokenizer_init=True, dtype="float32", seed=0, max_model_len=MAX_MODEL_LEN
        )
    config = VllmConfig(
        model_config=model,
        cache_config=cache,
        scheduler_config=SchedulerConfig(
            policy=scheduling_policy,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            max_model_len=MAX_MODEL_LEN,
            is_encoder_decoder=False,
            scheduler_cls=cls,
            **options,
        ),
        additional_config=additional_config or {},
        speculative_config=_drafting(num_drafts) if num_drafts else None,
    )
    config.scheduler_config.async_scheduling = is_async  # vLLM turns it off where there is no GPU
    spec = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    scheduler = config.scheduler_config.get_scheduler_cls()(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=num_blocks + 1,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=block_size,
        hash_block_size=block_size,
        log_stats=True,
    )
    if policy is not None:
        scheduler.engine = Engine(policy, deadline_s=deadline_s)
    return scheduler


def _drafting(num_drafts: int) -> SpeculativeConfig:
    return SpeculativeConfig(
        method="ngram", num_speculative_tokens=num_drafts, prompt_lookup_min=2, prompt_lookup_max=3
    )


def make_request(
    number: int,
    prompt: int | list[int],
    num_outputs: int,
    *,
    arrival_s: float | None = None,
    priority: int = 0,
    block_size: int = 16,
    **parameters: Any,
) -> Request:
    """Request `number`; a prompt that is a number gets that many tokens, like nobody else's."""
    tokens = prompt if isinstance(prompt, list) else [token(number, -1 - i) for i in range(prompt)]
    return Request(
        request_id=str(number),
        prompt_token_ids=tokens,
        sampling_params=SamplingParams(max_tokens=num_outputs, ignore_eos=True, **parameters),
        pooling_params=None,
        arrival_time=time.time() if arrival_s is None else arrival_s,
        priority=priority,
        block_hasher=get_request_block_hasher(block_size, sha256),
    )


def token(number: int, position: int) -> int:
    """What the model says as a request's output number `position`."""
    return (number * 7919 + position * 104_729 + 13) % VOCABULARY


class Stepped(NamedTuple):
    """What came of a workload: by request its outputs and the step that ended it; tokens by step."""

    outputs: dict[int, list[int]]
    finished: dict[int, int]
    scheduled: list[dict[int, int]]
    num_preemptions: int

    def mean_finish(self) -> float:
        """Mean step at which a request finished."""
        return sum(self.finished.values()) / len(self.finished)


def run(
    scheduler: Any,
    requests: Iterable[tuple[int, Request]] | Iterable[Request],
    *,
    in_flight: int = 0,
    max_steps: int = 20_000,
    each_step: Callable[[int], None] | None = None,
    drafts: random.Random | None = None,
) -> Stepped:
    """Steps until all have finished. requests: with the steps that they come at, or all at once.

    in_flight: iterations that are scheduled before the oldest one's output is known (1 for the asynchronous
    scheduler). The model: whoever has no more tokens to compute samples one; with `drafts` some are guessed
    ahead, about half of them right.
    """
    to_come = deque(each if isinstance(each, tuple) else (0, each) for each in requests)
    stepped = Stepped({int(each.request_id): [] for _, each in to_come}, {}, [], 0)
    under_way: deque[tuple[Any, dict[str, list[int]]]] = deque()
    num_preemptions = 0
    while to_come or scheduler.has_unfinished_requests() or under_way:
        step = len(stepped.scheduled)
        assert step < max_steps, (
            f"{len(to_come)} to come, {scheduler.get_request_counts()} (running, waiting)"
        )
        while to_come and to_come[0][0] <= step:
            scheduler.add_request(to_come.popleft()[1])
        if each_step is not None:
            each_step(step)
        output = scheduler.schedule()
        preempted = output.preempted_req_ids or set()
        num_preemptions += len(preempted)
        # vLLM's workers are not made for a request that goes and comes in one iteration.
        assert not preempted & output.num_scheduled_tokens.keys()
        runs = {each for each in scheduler.requests.values() if each.status == RequestStatus.RUNNING}
        assert runs == set(scheduler.running) and len(runs) == len(scheduler.running)
        stepped.scheduled.append({int(name): count for name, count in output.num_scheduled_tokens.items()})
        under_way.append((output, _sampled(scheduler, output)))
        while len(under_way) > in_flight or (under_way and not scheduler.has_unfinished_requests()):
            _complete(scheduler, *under_way.popleft(), stepped, step)
        if drafts is not None:
            _draft(scheduler, drafts)
        if under_way and not output.num_scheduled_tokens:
            _complete(scheduler, *under_way.popleft(), stepped, step)
    return stepped._replace(num_preemptions=num_preemptions)


def _sampled(scheduler: Any, output: Any) -> dict[str, list[int]]:
    """The token of each request of the iteration; its place follows from what has been computed of it."""
    sampled = {}
    for name in output.num_scheduled_tokens:
        request = scheduler.requests[name]
        guesses = output.scheduled_spec_decode_tokens.get(name, [])
        place = request.num_computed_tokens - len(guesses) - request.num_prompt_tokens
        tokens = [token(int(name), place + i) for i in range(len(guesses) + 1)]
        right = sum(
            1
            for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(guesses, tokens, strict=False))
        )
        sampled[name] = [] if request.is_prefill_chunk else tokens[: right + 1]
    return sampled


def _draft(scheduler: Any, draw: random.Random) -> None:
    """Guesses of the tokens that those who decode will sample next."""
    names = [each.request_id for each in scheduler.running if not each.is_prefill_chunk]
    guesses = []
    for name in names:
        place = scheduler.requests[name].num_output_tokens
        tokens = [token(int(name), place + i) for i in range(scheduler.num_spec_tokens)]
        guesses.append([each if draw.random() < 0.5 else 0 for each in tokens])
    scheduler.update_draft_token_ids(DraftTokenIds(names, guesses))


def _complete(
    scheduler: Any, output: Any, sampled: dict[str, list[int]], stepped: Stepped, step: int
) -> None:
    names = list(output.num_scheduled_tokens)
    answers = scheduler.update_from_output(
        output,
        ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: row for row, name in enumerate(names)},
            sampled_token_ids=[sampled[name] for name in names],
        ),
    )
    for group in answers.values():
        for answer in group.outputs:
            stepped.outputs[int(answer.request_id)] += answer.new_token_ids
            if answer.finish_reason is not None:
                stepped.finished[int(answer.request_id)] = step + 1


def free_blocks(scheduler: Any) -> int:
    """Blocks that nobody holds."""
    return scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
