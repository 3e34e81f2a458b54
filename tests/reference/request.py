"""A request: what its client asks for, where it is, and what has happened to it."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from servegym.costmodels.errors import InputError
from tests.reference.blocks import Block
from tests.reference.sendings import Sending


@dataclass(eq=False)
class Request:
    """One request of the workload, by workload index."""

    index: int
    arrival_s: float  # of a follow-up: set when its parent has finished
    prompt_tokens: int
    output_tokens: int
    max_output_tokens: int
    predicted_output_tokens: float = 0.0
    prediction_refinement: float | None = None  # the page's q
    priority: int = 0
    tenant: int = 0
    ttft_slo_s: float = math.inf
    tpot_slo_s: float = math.inf
    urgent: bool = False  # of priority 0 or less, where the workload has priorities
    cancel_after_s: float = math.inf
    image_tokens: int = 0
    parent: "Request | None" = None
    think_s: float = 0.0
    prefix_ids: Sequence[int] = ()
    prefix_block_tokens: int = 0

    # Where it is: future, router, dispatch, waiting, running, swapped, link or ended.
    place: str = "future"
    outcome: str = ""  # finished, cancelled or lost, once it has ended
    replica: int = -1
    holder: int = -1  # the replica that holds its KV blocks
    journey: int = 0  # grows when it leaves or is sent: what was under way to it before is void
    sending: Sending | None = None  # the last time it was sent by the router
    gap_s: float = 0.0
    caused_s: float = -math.inf  # the event that caused its coming to the router

    generated: int = 0
    computed: int = 0
    table: list[Block] = field(default_factory=list)
    tokens_in_flight: int = 0
    decoding: bool = False  # it has sampled a token since it was last admitted
    brought: bool = False  # it waits with KV that another replica has computed
    encoded: bool = False
    queue_key: tuple[float, ...] = ()
    rank_key: float = math.nan  # by a ranking, when it last entered such a queue; else its priority
    rank_memory: NDArray[np.float64] | None = None  # a ranking's own; None: not asked about it here yet
    admitted_hit_tokens: int = 0  # prefix tokens hit, if admitted in the iteration being scheduled
    host_blocks: int = 0  # blocks swapped out

    scheduled_s: float = math.nan
    first_token_s: float = math.nan
    finish_s: float = math.nan
    cancelled_s: float = math.nan
    preemptions: int = 0
    retries: int = 0
    migrations: int = 0
    hit_tokens: int = 0
    discarded_tokens: int = 0  # computed or hit, then lost
    contents_by_block_size: dict[int, list[Hashable]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rank_key = self.priority

    @property
    def known(self) -> int:
        return self.prompt_tokens + self.generated

    def predicted_remaining(self, running: bool) -> float:
        """ "Refined predictions": of a running request better the further it has come."""
        if not running or self.prediction_refinement is None:
            return self.predicted_output_tokens - self.generated
        c = (2 / self.prediction_refinement - 1) ** 2 - 1
        error = self.predicted_output_tokens - self.output_tokens
        error /= math.sqrt(1 + c * self.generated / self.output_tokens)
        return max(1.0, self.output_tokens - self.generated + error)

    @property
    def session(self) -> int:
        """The number of the request that its chain of follow-ups begins with."""
        return self.index if self.parent is None else self.parent.session

    @property
    def prefix(self) -> int:
        """Equal for prompts that begin with the same contents; -1 where contents are not given."""
        return self.prefix_ids[0] % 2**53 if self.prefix_ids else -1

    @property
    def final_kv_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens - 1

    def contents(self, block_size: int) -> list[Hashable]:
        """What identifies the content of each full block of its `p + o` tokens, and of all before it."""
        if block_size not in self.contents_by_block_size:
            self.contents_by_block_size[block_size] = self._contents(block_size)
        return self.contents_by_block_size[block_size]

    def _contents(self, block_size: int) -> list[Hashable]:
        contents: list[Hashable] = []
        of_parent = self.parent.contents(block_size) if self.parent else []
        like_parent = True
        for i in range((self.prompt_tokens + self.output_tokens) // block_size):
            first, end = i * block_size, (i + 1) * block_size
            content: Hashable = ("private", self.index, i)
            if end <= self.prompt_tokens and first < len(self.prefix_ids) * self.prefix_block_tokens:
                of_id, position = divmod(first, self.prefix_block_tokens)
                content = ("shared", self.prefix_ids[of_id], position)
            elif like_parent and i < len(of_parent) and end <= self.prompt_tokens:
                content = of_parent[i]
            like_parent = like_parent and i < len(of_parent) and content == of_parent[i]
            contents.append(content)
        return contents

    def lose_progress(self) -> None:
        """Its KV is gone; generated tokens stay known."""
        self.discarded_tokens += self.computed
        self.computed = 0
        self.decoding = False
        self.brought = False
        self.tokens_in_flight = 0

    def start_anew(self) -> None:
        """After a failure: nothing of it is left but its arrival."""
        self.lose_progress()
        self.generated = 0
        self.first_token_s = math.nan
        self.encoded = False
        self.retries += 1


def requests_of(workload: Any) -> list[Request]:
    """The requests of anything with the columns of `Workload` (absent ones may be missing or None).

    Raises `InputError` for times that do not ascend and for requests without tokens.
    """

    def column(name: str, default: Any) -> Any:
        values = getattr(workload, name, None)
        return [default] * len(workload.arrival_s) if values is None else values

    requests: list[Request] = []
    limits = column("max_output_tokens", None)
    parents = column("parent", -1)
    offsets = getattr(workload, "prefix_offsets", None)
    classes = getattr(workload, "slo_class", None)
    for i, arrival_s in enumerate(workload.arrival_s):
        prompt, output = int(workload.prompt_tokens[i]), int(workload.output_tokens[i])
        request = Request(
            index=i,
            arrival_s=float(arrival_s),
            prompt_tokens=prompt,
            output_tokens=output,
            max_output_tokens=output if limits[i] is None else int(limits[i]),
            predicted_output_tokens=float(column("predicted_output_tokens", 0)[i]),
            prediction_refinement=getattr(workload, "prediction_refinement", None),
            priority=int(column("priority", 0)[i]),
            tenant=int(column("tenant", 0)[i]),
            urgent=bool(column("priority", 1)[i] <= 0),
            cancel_after_s=float(column("cancel_after_s", math.inf)[i]),
            image_tokens=int(column("image_tokens", 0)[i]),
            parent=requests[parents[i]] if parents[i] >= 0 else None,
            think_s=float(column("think_s", 0.0)[i]),
        )
        if classes is not None:
            request.ttft_slo_s = workload.slo_classes[classes[i]].ttft_s
            request.tpot_slo_s = workload.slo_classes[classes[i]].tpot_s
        if offsets is not None:
            request.prefix_ids = [int(x) for x in workload.prefix_ids[offsets[i] : offsets[i + 1]]]
            request.prefix_block_tokens = int(workload.prefix_block_tokens)
        requests.append(request)
    _check(requests)
    return requests


def _check(requests: list[Request]) -> None:
    before_s = -math.inf
    for i, request in enumerate(requests):
        if not before_s <= request.arrival_s < math.inf:  # nor nan
            raise InputError(
                f"request {i}: arrival_s {request.arrival_s}, must be finite and not before {before_s}"
            )
        before_s = request.arrival_s
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise InputError(f"request {i}: prompt and output must have at least 1 token")
        if request.max_output_tokens < request.output_tokens:
            raise InputError(f"request {i}: limit {request.max_output_tokens} is below its output")
