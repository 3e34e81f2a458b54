"""What came back from load: a row for every request, and what clients have felt."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from servegym.envs.metrics import latency_s, percentile, tpot_s, ttft_s
from servegym.envs.sim.llm.simulate import OUTCOMES, Counts, Results, Times
from servegym.envs.workloads import Workload
from servegym.experiments.load_generator.received_stream import NO_STATUS, ReceivedStream
from servegym.experiments.simulate import requests_table

FINISHED, CANCELLED, LOST = range(len(OUTCOMES))


@dataclass(frozen=True, eq=False)
class LoadResults:
    """What happened to each of N requests, in workload order; all times in seconds of the workload.

    results: as a simulation's; arrival_s is when a request was due, outcome `lost` that of whatever did
    not come back whole, replica the one that says it has answered. sent_s: when it was sent, NaN: never.
    longest_gap_s: between events of the answer. status: of HTTP, 0 without an answer. num_tokens: that
    came in order, num_repeated: that came again. answered_twice: bool, another answer was to the same
    request. wrong: bool, tokens of another request came, or not in order. errors: what went wrong, ""
    where nothing did.
    """

    results: Results
    sent_s: Times
    longest_gap_s: Times
    status: Counts
    num_tokens: Counts
    num_repeated: Counts
    answered_twice: np.ndarray
    wrong: np.ndarray
    errors: Sequence[str]

    @classmethod
    def of(
        cls,
        workload: Workload,
        streams: Sequence[ReceivedStream | None],
        *,
        due_s: Times,
        sent_s: Times,
        cancelled_s: Times,
        began_s: float,
        time_scale: float,
    ) -> "LoadResults":
        """Of what was received for each request, None where it was never sent; times on the wall.

        due_s, sent_s, cancelled_s: since `began_s`, by the clock of the streams.
        """
        never = ReceivedStream("", 0, lambda: None)
        never.error = "never sent"
        received = [never if stream is None else stream for stream in streams]
        whole = np.array(
            [each.is_whole(o) for each, o in zip(received, workload.output_tokens.tolist(), strict=True)],
            bool,
        )
        first_s = (np.array([each.first_token_s for each in received]) - began_s) / time_scale
        last_s = (np.array([each.last_token_s for each in received]) - began_s) / time_scale
        cancelled = ~np.isnan(cancelled_s)
        count = workload.num_requests
        none = np.zeros(count, np.int64)
        seen: set[str] = set()
        twice = []
        for each in received:
            twice.append(each.answered_id in seen)
            if each.answered_id is not None:
                seen.add(each.answered_id)
        results = Results(
            arrival_s=due_s / time_scale,
            prompt_tokens=workload.prompt_tokens.astype(np.int64),
            output_tokens=workload.output_tokens.astype(np.int64),
            replica=np.array([each.replica for each in received], np.int64),
            scheduled_s=np.full(count, np.nan),
            first_token_s=first_s,
            finish_s=np.where(whole, last_s, np.nan),
            preemptions=none,
            hit_tokens=none,
            outcome=np.where(whole, FINISHED, np.where(cancelled, CANCELLED, LOST)),
            cancelled_s=np.where(whole, np.nan, cancelled_s / time_scale),
            retries=none,
            migrations=none,
        )
        errors = [
            "" if ok or left else each.error or f"{each.num_tokens} tokens came"
            for each, ok, left in zip(received, whole.tolist(), cancelled.tolist(), strict=True)
        ]
        return cls(
            results=results,
            sent_s=sent_s / time_scale,
            longest_gap_s=np.array([each.longest_gap_s for each in received]) / time_scale,
            status=np.array([each.status for each in received], np.int64),
            num_tokens=np.array([each.num_tokens for each in received], np.int64),
            num_repeated=np.array([each.num_repeated for each in received], np.int64),
            answered_twice=np.array(twice, bool),
            wrong=np.array([each.is_wrong for each in received], bool),
            errors=errors,
        )

    def summary(self) -> dict[str, float]:
        """Counts of requests, mean and percentiles of what those that finished have felt, and of delays.

        send_delay_s: how late requests were sent, which says whether the machine was quick enough.
        """
        results = self.results
        lost = results.outcome == LOST
        answer: dict[str, float] = {
            "num_requests": len(lost),
            "num_finished": int((results.outcome == FINISHED).sum()),
            "num_cancelled": int((results.outcome == CANCELLED).sum()),
            "num_lost": int(lost.sum()),
            "num_refused": int((lost & (self.status >= 400)).sum()),
            "num_unanswered": int((lost & (self.status == NO_STATUS)).sum()),
            "num_cut_off": int((lost & (self.status == 200)).sum()),
            "num_duplicated": int((self.answered_twice | (self.num_repeated > 0)).sum()),
            "num_wrong": int(self.wrong.sum()),
        }
        finished = results.finished
        for name, values in (
            ("ttft_s", ttft_s(results)[finished]),
            ("tpot_s", tpot_s(results)[finished]),
            ("latency_s", latency_s(results)[finished]),
            ("send_delay_s", self.sent_s - results.arrival_s),
        ):
            ordered = np.sort(values[~np.isnan(values)])
            answer[f"mean_{name}"] = float(ordered.mean()) if len(ordered) else math.nan
            answer[f"p50_{name}"] = percentile(ordered, 50)
            answer[f"p99_{name}"] = percentile(ordered, 99)
        span_s = float(np.nanmax(results.finish_s) - results.arrival_s.min()) if finished.any() else math.nan
        answer["makespan_s"] = span_s
        answer["output_tokens_per_s"] = float(self.num_tokens.sum()) / span_s
        return answer

    def per_replica(self) -> dict[int, int]:
        """How many requests each replica has finished; -1: those that did not say so."""
        replicas, counts = np.unique(self.results.replica[self.results.finished], return_counts=True)
        return dict(zip(replicas.tolist(), counts.tolist(), strict=True))

    def table(self) -> pa.Table:
        """A row per request: the columns that simulations have as well, and those of this."""
        table = requests_table(self.results)
        table = table.drop_columns(["scheduled_s", "preemptions", "hit_tokens", "retries", "migrations"])
        for name in (
            "sent_s",
            "longest_gap_s",
            "status",
            "num_tokens",
            "num_repeated",
            "answered_twice",
            "wrong",
        ):
            column = getattr(self, name)
            mask = np.isnan(column) if column.dtype == np.float64 else None
            table = table.append_column(name, pa.array(column, mask=mask))
        return table.append_column("error", pa.array(self.errors))
