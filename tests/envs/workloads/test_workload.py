import importlib.util
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import SloClass, Workload, generate, split
from servegym.envs.workloads.lengths import ConstantLengths

SLO_CLASSES = (SloClass("chat", 0.5, 0.05), SloClass("batch", np.inf, np.inf, 0.1), SloClass("api", 2.0, 0.1))


def full_workload() -> Workload:
    """Four requests with every optional column; blocks of request i start with 10 i."""
    return Workload(
        name="full",
        arrival_s=np.array([0.0, 1.0, 1.0, 4.0]),
        prompt_tokens=np.array([10, 20, 30, 40]),
        output_tokens=np.array([1, 2, 3, 4]),
        predicted_output_tokens=np.array([5, 6, 7, 8]),
        session_id=np.array([0, 1, 0, 1]),
        slo_class=np.array([2, 2, 0, 0]),
        slo_classes=SLO_CLASSES,
        priority=np.array([0, -1, 5, 0]),
        max_output_tokens=np.array([9, 8, 7, 4]),
        cancel_after_s=np.array([np.inf, 3.0, 0.5, np.inf]),
        image_tokens=np.array([0, 20, 0, 1]),
        parent=np.array([-1, -1, 0, 2]),
        think_s=np.array([0.0, 0.0, 2.5, 0.0]),
        prefix_ids=np.array([0, 1, 20, 21, 22, 30]),
        prefix_offsets=np.array([0, 2, 2, 5, 6]),
        prefix_block_tokens=8,
        source="trace.csv",
        source_line=np.array([2, 3, 4, 5]),
    )


def columns(workload: Workload) -> dict[str, list[float]]:
    return {
        name: column.tolist() for name, column in vars(workload).items() if isinstance(column, np.ndarray)
    }


def test_take_keeps_every_column_of_the_same_request():
    part = full_workload().take([2, 3])
    assert columns(part) == {
        "arrival_s": [1.0, 4.0],
        "prompt_tokens": [30, 40],
        "output_tokens": [3, 4],
        "predicted_output_tokens": [7, 8],
        "session_id": [0, 1],
        "slo_class": [0, 0],
        "priority": [5, 0],
        "max_output_tokens": [7, 4],
        "cancel_after_s": [0.5, np.inf],
        "image_tokens": [0, 1],
        "parent": [-1, 0],
        "think_s": [2.5, 0.0],
        "prefix_ids": [20, 21, 22, 30],
        "prefix_offsets": [0, 3, 4],
        "source_line": [4, 5],
    }
    assert columns(full_workload().take(slice(0, 2)))["prefix_ids"] == [0, 1]
    assert columns(full_workload().take(slice(0, 0)))["prefix_offsets"] == [0]
    assert full_workload().take(np.array([False, True, False, True])).prompt_tokens.tolist() == [20, 40]


def test_column_types_are_those_of_the_contract():
    workload = full_workload()
    assert workload.arrival_s.dtype == np.float64
    for name in ("prompt_tokens", "output_tokens", "predicted_output_tokens", "session_id", "priority"):
        assert getattr(workload, name).dtype == np.int32
    for name in ("max_output_tokens", "image_tokens", "parent", "source_line"):
        assert getattr(workload, name).dtype == np.int32
    assert workload.slo_class.dtype == np.int16
    assert workload.cancel_after_s.dtype == workload.think_s.dtype == np.float64
    assert workload.prefix_ids.dtype == workload.prefix_offsets.dtype == np.int64


def test_window_is_half_open_and_starts_at_zero():
    workload = full_workload()
    assert workload.window(1.0, 4.0).arrival_s.tolist() == [0.0, 0.0]
    assert workload.window(1.0, 4.5).arrival_s.tolist() == [0.0, 0.0, 3.0]
    assert workload.window(0.0, 1.0).prompt_tokens.tolist() == [10]
    assert workload.window(2.0, 3.0).num_requests == 0


def test_adjacent_windows_hold_every_request_once():
    workload = generate("poisson", 3.0, 1.0, 500, ConstantLengths(1, 1), np.random.SeedSequence(0))
    edges = [0.0, 10.0, float(workload.arrival_s[200]), 100.0, np.inf]
    parts = [workload.window(a, b) for a, b in pairwise(edges)]
    restored = np.concatenate([part.arrival_s + a for part, a in zip(parts, edges, strict=False)])
    np.testing.assert_allclose(restored, workload.arrival_s, rtol=1e-12)


def test_scale_rate_multiplies_the_rate():
    workload = full_workload()
    assert workload.scale_rate(2.0).arrival_s.tolist() == [0.0, 0.5, 0.5, 2.0]
    assert workload.scale_rate(2.0).rate_rps == 2 * workload.rate_rps == 1.5
    assert workload.duration_s == 4.0


def test_rate_of_too_few_requests_is_not_a_number():
    assert np.isnan(full_workload().take([0]).rate_rps)
    assert full_workload().take(slice(0, 0)).duration_s == 0.0


def test_thin_keeps_the_stated_share_and_the_order():
    workload = generate("poisson", 1.0, 1.0, 20_000, ConstantLengths(1, 1), np.random.SeedSequence(1))
    thinned = workload.thin(0.25, np.random.default_rng(0))
    assert abs(thinned.num_requests / 20_000 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 20_000)
    assert np.isin(thinned.arrival_s, workload.arrival_s).all()
    again = workload.thin(0.25, np.random.default_rng(0))
    assert again.arrival_s.tolist() == thinned.arrival_s.tolist()
    assert workload.thin(1.0, np.random.default_rng(0)).num_requests == 20_000
    assert workload.thin(0.0, np.random.default_rng(0)).num_requests == 0


def test_methods_leave_the_original_alone_and_share_no_memory():
    workload = full_workload()
    before = columns(workload)
    results = [
        workload.take(slice(0, 4)),
        workload.window(0.0, 9.0),
        workload.scale_rate(3.0),
        workload.thin(1.0, np.random.default_rng(0)),
        workload.with_predictions(np.array([9, 9, 9, 9])),
        *split(workload, 2.0),
    ]
    for result in results:
        for name, column in vars(result).items():
            if isinstance(column, np.ndarray):
                assert not np.shares_memory(column, getattr(workload, name))
                column[:] = 0
    assert columns(workload) == before


def test_construction_copies_the_columns():
    prompt_tokens = np.array([1, 2], dtype=np.int32)
    workload = Workload("copy", np.array([0.0, 1.0]), prompt_tokens, np.array([1, 1]))
    prompt_tokens[0] = 99
    assert workload.prompt_tokens.tolist() == [1, 2]


def test_with_predictions_replaces_only_the_predictions():
    workload = full_workload()
    changed = columns(workload.with_predictions([1, 2, 3, 4]))
    assert changed.pop("predicted_output_tokens") == [1, 2, 3, 4]
    expected = columns(workload)
    expected.pop("predicted_output_tokens")
    assert changed == expected


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("arrival_s", [0.0, 2.0, 1.0, 4.0], r"arrival_s\[2\] is 1.0, allowed: ascending"),
        ("arrival_s", [0.0, 1.0, np.nan, 4.0], r"arrival_s\[2\] is nan"),
        ("arrival_s", [0.0, 1.0, 2.0, np.inf], r"arrival_s\[3\] is inf"),
        ("arrival_s", [-1.0, 1.0, 2.0, 4.0], r"arrival_s\[0\] is -1.0"),
        ("arrival_s", [[0.0, 1.0, 2.0, 4.0]], r"arrival_s has shape \(1, 4\)"),
        ("prompt_tokens", [1, 0, 1, 1], r"prompt_tokens\[1\] is 0, allowed: integers from 1 to 2147483647"),
        ("output_tokens", [1, 1, 1, 2**31], r"output_tokens\[3\] is 2147483648"),
        ("output_tokens", [1, 1, -7, 1], r"output_tokens\[2\] is -7"),
        ("output_tokens", [1.0, 1.0, 1.0, 1.0], "float64, allowed: integers"),
        ("predicted_output_tokens", [1, 1, 1], r"predicted_output_tokens has shape \(3,\), allowed: \(4,\)"),
        ("session_id", [0, 0, 0, -1], r"session_id\[3\] is -1"),
        ("slo_class", [0, 1, 2, 3], r"slo_class\[3\] is 3, allowed: 0 to 2"),
        ("slo_classes", (), r"slo_class\[0\] is 2, allowed: none without slo_classes"),
        ("priority", [0, 0, 2**31, 0], r"priority\[2\] is 2147483648"),
        ("max_output_tokens", [1, 2, 2, 4], r"output_tokens\[2\] is 3, allowed: at most max_output_tokens"),
        ("cancel_after_s", [1.0, 0.0, 1.0, 1.0], r"cancel_after_s\[1\] is 0.0, allowed: above 0"),
        ("cancel_after_s", [1.0, 1.0, 1.0, np.nan], r"cancel_after_s\[3\] is nan"),
        ("image_tokens", [0, 0, 31, 0], r"image_tokens\[2\] is 31, allowed: at most prompt_tokens"),
        ("image_tokens", [0, -1, 0, 0], r"image_tokens\[1\] is -1"),
        ("parent", [-1, 1, 0, 0], r"parent\[1\] is 1, allowed: earlier requests, or -1"),
        ("parent", [-2, -1, -1, -1], r"parent\[0\] is -2"),
        ("parent", None, "parent and think_s go together"),
        ("think_s", [0.0, 0.0, np.inf, 0.0], r"think_s\[2\] is inf, allowed: finite, at least 0"),
        ("think_s", [0.0, 0.0, -1.0, 0.0], r"think_s\[2\] is -1.0"),
        ("prefix_block_tokens", 0, "prefix_block_tokens is 0, allowed: at least 1"),
        ("prefix_block_tokens", 20, r"number of prefix_ids\[0\] is 2, allowed: at most the blocks of 20"),
        ("prefix_ids", [0, 1, 20, 21, 1, 30], "line 4: request 2: prefix id 1 does not follow"),
        ("prefix_ids", [0, 1, 20, 20, 22, 30], "request 2: prefix id 20 does not follow"),
        ("prefix_ids", None, "go together"),
        ("prefix_offsets", [0, 2, 1, 5, 6], r"prefix_offsets\[2\] is 1, allowed: ascending"),
        ("prefix_offsets", [0, 2, 2, 5, 5], "from 0 to 5, allowed: from 0 to 6"),
        ("prefix_offsets", [1, 2, 2, 5, 6], "from 1 to 6"),
    ],
)
def test_bad_columns_are_refused(column, values, message):
    given = np.array(values) if isinstance(values, list) else values
    arguments = vars(full_workload()) | {column: given}
    with pytest.raises(InputError, match=message) as caught:
        Workload(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda w: w.window(2.0, 2.0),
        lambda w: w.window(-1.0, 2.0),
        lambda w: w.window(np.nan, 2.0),
        lambda w: w.scale_rate(0.0),
        lambda w: w.scale_rate(np.inf),
        lambda w: w.scale_rate(np.nan),
        lambda w: w.thin(1.5, np.random.default_rng(0)),
        lambda w: w.thin(np.nan, np.random.default_rng(0)),
        lambda w: w.with_predictions([1, 2, 3]),
        lambda w: w.take([1, 0]),
        lambda w: split(w, 0.0),
        lambda w: split(w, 4.0),
        lambda w: split(w, np.nan),
    ],
)
def test_bad_arguments_are_refused(call):
    with pytest.raises(InputError, match="allowed"):
        call(full_workload())


def test_check_fits_counts_blocks_as_the_specification_does():
    # ceil((p + o - 1) / 16): 17 tokens end with 16 in the cache, 18 with 17.
    one_block = Workload("fits", np.array([0.0]), np.array([15]), np.array([2]))
    one_block.check_fits(num_kv_blocks=1, block_size=16)
    two_blocks = Workload("long", np.array([0.0]), np.array([15]), np.array([3]))
    two_blocks.check_fits(num_kv_blocks=2, block_size=16)
    with pytest.raises(
        InputError, match="'long': request 0 with 15 prompt and 3 output .* needs 2 KV blocks"
    ):
        two_blocks.check_fits(num_kv_blocks=1, block_size=16)


def test_check_fits_names_the_first_request_and_its_line():
    workload = full_workload()  # ends with 10, 21, 32 and 43 tokens in the cache
    with pytest.raises(
        InputError, match=r"trace.csv, line 4: request 2 .* needs 3 KV blocks of 15 .* most 2"
    ):
        workload.check_fits(num_kv_blocks=2, block_size=15)
    with pytest.raises(InputError, match=r"trace.csv, line 4: request 1 "):
        workload.take([0, 2, 3]).check_fits(num_kv_blocks=2, block_size=15)


def test_check_fits_does_not_overflow():
    longest = np.array([2**31 - 1])
    with pytest.raises(InputError, match="needs 268435456 KV blocks"):
        Workload("huge", np.array([0.0]), longest, longest).check_fits(10, 16)


def test_split_puts_every_request_in_exactly_one_part():
    workload = generate("gamma", 5.0, 2.0, 2_000, ConstantLengths(3, 4), np.random.SeedSequence(3))
    workload = workload.with_predictions(np.arange(1, 2_001))  # the identity of each request
    train, test = split(workload, 120.0)
    seen = np.concatenate([train.predicted_output_tokens, test.predicted_output_tokens])
    assert seen.tolist() == list(range(1, 2_001))
    cut_s = workload.arrival_s[-1] - 120.0
    assert train.arrival_s[-1] < cut_s
    assert test.arrival_s[0] >= 0
    np.testing.assert_allclose(test.arrival_s + cut_s, workload.arrival_s[train.num_requests :], rtol=1e-12)
    assert test.arrival_s[-1] == pytest.approx(120.0)
    assert train.arrival_s.tolist() == workload.arrival_s[: train.num_requests].tolist()


def test_a_request_at_the_cut_is_held_out():
    workload = Workload("cut", np.array([0.0, 3.0, 5.0]), np.array([1, 2, 3]), np.array([1, 1, 1]))
    train, test = split(workload, 2.0)
    assert train.prompt_tokens.tolist() == [1]
    assert test.prompt_tokens.tolist() == [2, 3]
    assert test.arrival_s.tolist() == [0.0, 2.0]


def test_the_package_imports_no_heavy_library():
    # servegym.envs itself registers environments, so its own __init__ is left out of this.
    program = (
        "import importlib.util as u, sys\n"
        "for name in ('torch', 'numba', 'gymnasium'): sys.modules[name] = None\n"
        "sys.modules['servegym.envs'] = u.module_from_spec(u.find_spec('servegym.envs'))\n"
        "import servegym.envs.workloads\n"
    )
    assert importlib.util.find_spec("numba") is not None
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def chains() -> Workload:
    """Requests 0, 2, 5 and 1, 3 are chains; 4 is alone. The session id is the first of the chain."""
    return Workload(
        "chains",
        np.arange(6.0),
        np.array([10, 10, 30, 30, 10, 90]),
        np.array([5, 5, 5, 5, 5, 5]),
        session_id=np.array([0, 1, 0, 1, 4, 0]),
        parent=np.array([-1, -1, 0, 1, -1, 2]),
        think_s=np.array([0.0, 0.0, 1.0, 2.0, 0.0, 3.0]),
    )


def test_a_follow_up_keeps_its_parent_or_becomes_open_loop():
    part = chains().take([0, 2, 3, 5])
    assert part.parent.tolist() == [-1, 0, -1, 1]
    assert part.arrival_s.tolist() == [0.0, 2.0, 3.0, 5.0]
    assert chains().window(2.0, 6.0).parent.tolist() == [-1, -1, -1, 0]


def test_thin_keeps_chains_whole():
    one = chains()
    many = Workload(
        "many",
        np.arange(6000.0),
        np.tile(one.prompt_tokens, 1000),
        np.tile(one.output_tokens, 1000),
        session_id=np.add.outer(10 * np.arange(1000), one.session_id).ravel(),
        parent=np.where(one.parent < 0, -1, np.add.outer(6 * np.arange(1000), one.parent)).ravel(),
        think_s=np.tile(one.think_s, 1000),
    )
    thinned = many.thin(0.3, np.random.default_rng(0))
    ids, counts = np.unique(thinned.session_id, return_counts=True)
    assert counts.tolist() == [{0: 3, 1: 2, 4: 1}[i % 10] for i in ids.tolist()]
    assert abs(len(ids) / 3000 - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 3000)
    followed = thinned.parent >= 0
    assert (thinned.session_id[thinned.parent[followed]] == thinned.session_id[followed]).all()


def test_a_faster_rate_leaves_thinking_and_patience_alone():
    faster = full_workload().scale_rate(2.0)
    assert faster.think_s.tolist() == [0.0, 0.0, 2.5, 0.0]
    assert faster.cancel_after_s.tolist() == [np.inf, 3.0, 0.5, np.inf]


def test_without_contents_a_follow_up_must_hold_its_parents_prompt_and_output():
    with pytest.raises(
        InputError, match=r"prompt_tokens\[1\] is 14, allowed: at least the prompt and output"
    ):
        Workload(
            "short",
            np.array([0.0, 0.0]),
            np.array([10, 14]),
            np.array([5, 1]),
            parent=np.array([-1, 0]),
            think_s=np.array([0.0, 0.0]),
        )


def test_impossible_objectives_are_refused():
    with pytest.raises(InputError, match="SLO class 'chat': ttft_s is 0.0, allowed: above 0"):
        SloClass("chat", 0.0, 1.0)
    with pytest.raises(InputError, match="tpot_s is nan"):
        SloClass("chat", 1.0, np.nan)
    with pytest.raises(InputError, match="weight is inf, allowed: finite"):
        SloClass("chat", 1.0, 1.0, np.inf)
