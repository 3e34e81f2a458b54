"""`policy.json` is read within bounds, and every value that matters is checked."""

import json
import time
from pathlib import Path

import pytest

from servegym.agents.serving.artifact.description import check, golden_shapes, parse, weight_shapes
from servegym.agents.zoo import ZOO
from servegym.costmodels.errors import InputError

PATH = Path("policy.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 500_000, "more than 32 objects and lists in each other"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "more than 32"),
        (b'{"a": 1, "a": 2}', "a name stands twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "not a number"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[1]", "must be an object"),
        (b"", "not JSON"),
    ],
)
def test_other_json_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(content, PATH)


def test_brackets_in_strings_do_not_count() -> None:
    assert parse(json.dumps({"a": "[{" * 100 + '\\"' * 9}).encode(), PATH)["a"].startswith("[{[{")


def test_a_string_without_an_end_is_seen_once() -> None:
    begin_s = time.process_time()
    with pytest.raises(InputError, match="not JSON"):
        parse(b'{"a": "' + b'\\"' * 500_000, PATH)
    assert time.process_time() - begin_s < 10  # to begin again at each quote would take hours


def test_shapes_follow_from_the_sizes() -> None:
    description = json.loads((ZOO / "two_level" / "policy.json").read_text())
    check(description, PATH)
    weights, golden = weight_shapes(description), golden_shapes(description)
    assert weights["router.encode_replica.weight"] == (32, 42)
    assert weights["scheduler.whole.encode.weight"] == (32, 141)
    assert golden["replicas_8"] == (48, 8, 15)
    assert golden["logits_8"] == (48, 8 + 68)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("schema_version",), True, "schema_version = True"),
        (("schema_version",), "4", "schema_version = '4'"),
        (("level",), ["router"], "level = "),
        (("network", "hidden"), 1 << 40, "network.hidden is missing or malformed: must be a whole number"),
        (("network", "hidden"), 64.0, "network.hidden"),
        (("network", "layers"), 0, "network.layers"),
        (("network", "kind"), "engine_scorer", "network.kind .*: must be one of mlp, gnn, attention"),
        (("network", "kind"), "mlp", "num_replicas .*: must be a whole number from 1 to 4096"),
        (("num_replicas",), 8, "num_replicas .*: must be null"),
        (("golden", "observations"), 10**9, "golden.observations .* from 1 to 256"),
        (("golden", "fleet_sizes"), [], "golden.fleet_sizes"),
        (("golden", "fleet_sizes"), [4, 4], "golden.fleet_sizes .*: must be different numbers"),
        (("golden", "fleet_sizes"), [10**9], "golden.fleet_sizes"),
        (("inputs", "request", "dtype"), "object", "inputs.request.dtype .*: must be float32"),
        (("inputs", "replicas", "shape"), ["batch", 8, 15], "inputs.replicas.shape"),
        (("inputs", "request", "features"), [1], "inputs.request.features"),
        (("inputs", "engine"), {}, "inputs is missing or malformed"),
        (("files", "policy.npz"), None, "files.policy.npz .*: must be an object"),
        (("files", "policy.npz", "bytes"), -1, "files.policy.npz.bytes"),
        (("files", "policy.onnx", "sha256"), "0" * 63, "files.policy.onnx.sha256 .*: must be 64 hex"),
        (("provenance",), [], "provenance .*: must be an object"),
    ],
)
def test_other_values_are_refused(place: tuple[str, ...], value: object, message: str) -> None:
    description = json.loads((ZOO / "router" / "policy.json").read_text())
    inner = description
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(InputError, match=message):
        check(description, PATH)
