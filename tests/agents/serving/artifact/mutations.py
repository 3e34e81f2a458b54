"""Artifacts damaged on purpose, and a process that tries them: `python -m` this module."""

import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from servegym.agents.serving.artifact.load import check_golden, load_artifact
from servegym.agents.serving.artifact.schema import (
    CARD_FILE,
    DESCRIPTION_FILE,
    GOLDEN_FILE,
    GRAPH_FILE,
    WEIGHTS_FILE,
)
from servegym.costmodels.errors import InputError

MEMORY_BYTES = 512 << 20
"""What trying all mutations may take beyond what the first, sound one took."""

LONGEST_S = 60
"""Of one mutation; after that it hangs."""

Rng = np.random.Generator
ARCHIVES = (WEIGHTS_FILE, GOLDEN_FILE)


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def flip_bits(folder: Path, rng: Rng) -> None:
    path = folder / str(rng.choice([GRAPH_FILE, WEIGHTS_FILE, GOLDEN_FILE, DESCRIPTION_FILE, CARD_FILE]))
    content = bytearray(path.read_bytes())
    for place in rng.integers(len(content), size=rng.integers(1, 9)):
        content[place] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def flip_bits_of_graph(folder: Path, rng: Rng) -> None:
    """In what is not weights, mostly: where a parser goes by what it reads."""
    path = folder / GRAPH_FILE
    content = bytearray(path.read_bytes())
    for place in rng.integers(len(content) // 2, size=rng.integers(1, 5)):
        content[place] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def cut_or_grow(folder: Path, rng: Rng) -> None:
    path = folder / str(rng.choice([GRAPH_FILE, WEIGHTS_FILE, GOLDEN_FILE, DESCRIPTION_FILE]))
    content = path.read_bytes()
    begin, end = sorted(rng.integers(len(content), size=2))
    changed = [content[:begin], content[:begin] + content[end:], content + content[begin:end], b"\0" * 9, b""]
    path.write_bytes(changed[rng.integers(len(changed))])


def other_content(folder: Path, rng: Rng) -> None:
    path = folder / str(rng.choice([GRAPH_FILE, WEIGHTS_FILE, GOLDEN_FILE, DESCRIPTION_FILE]))
    others = [
        rng.bytes(4096),
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'"' + b'\\"' * 400_000,
        b"9" * 1_000_000,
        b'{"schema_version": 4, "schema_version": 4}',
        b"NaN",
        "\ufeff{}".encode("utf-16"),
        b"\xff\xfe{}",
        pickle.dumps(Touches(str(folder / "touched"))),
        (folder / GOLDEN_FILE).read_bytes(),
        (folder / GRAPH_FILE).read_bytes(),
    ]
    path.write_bytes(others[rng.integers(len(others))])


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path))


def write_members(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)


def npy(array: np.ndarray, fortran: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asfortranarray(array) if fortran else array, allow_pickle=True)
    return file.getvalue()


def header(shape: object, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def change_member(folder: Path, rng: Rng) -> None:
    path = folder / str(rng.choice(ARCHIVES))
    arrays = arrays_of(path)
    name = str(rng.choice(sorted(arrays)))
    array = arrays[name]
    touches = np.array([Touches(str(folder / "touched"))], object)
    changed: list[Callable[[], bytes]] = [
        lambda: npy(array.astype(np.float64)),
        lambda: npy(array.astype(np.float16)),
        lambda: npy(array.astype(">f4")),
        lambda: npy(array.astype(np.int32)),
        lambda: npy(array.astype("U3")),
        lambda: npy(touches),
        lambda: header((10**9, 10**9)) + array.tobytes(),
        lambda: header((-1, -1)) + array.tobytes(),
        lambda: header("(" * 300 + ")" * 300) + array.tobytes(),
        lambda: header(array.shape, "'|O'") + pickle.dumps(touches[0]),
        lambda: header(array.shape, "[('x', '<f4')]") + array.tobytes(),
        lambda: npy(array.reshape(-1)[::-1]),
        lambda: npy(np.atleast_2d(array).T),
        lambda: npy(np.atleast_2d(array), fortran=True),
        lambda: npy(array * np.float32(np.nan)),
        lambda: npy(array * np.float32(np.inf)),
        lambda: npy(array + np.float32(1e-9)),
        lambda: npy(array * np.float32(1e30)),
        lambda: npy(-array),
        lambda: bytes(200 << 20),
        lambda: b"",
    ]
    new = changed[rng.integers(len(changed))]()
    write_members(path, [(f"{key}.npy", new if key == name else npy(arrays[key])) for key in arrays])


def change_members(folder: Path, rng: Rng) -> None:
    path = folder / str(rng.choice(ARCHIVES))
    members = [(f"{name}.npy", npy(array)) for name, array in arrays_of(path).items()]
    place = int(rng.integers(len(members)))
    odd = ["../../evil.npy", "/tmp/evil.npy", "..\\evil.npy", "a/../b.npy", "b\0.npy", "x" * 9999, "evil.pkl"]
    kind = rng.integers(6)
    if kind == 0:
        members.append((odd[rng.integers(len(odd))], npy(np.zeros(3, np.float32))))
    elif kind == 1:
        members[place] = (odd[rng.integers(len(odd))], members[place][1])
    elif kind == 2:
        members.append(members[place])
    elif kind == 3:
        del members[place]
    elif kind == 4:
        members += [(f"member_{i}.npy", b"") for i in range(3_000)]
    else:
        members.reverse()  # harmless
    write_members(
        path, members, int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED]))
    )


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places_in(inner, (*path, key))
    return found


def change_description(folder: Path, rng: Rng) -> None:
    path = folder / DESCRIPTION_FILE
    description = json.loads(path.read_text())
    used = [place for place in places_in(description) if place[0] != "provenance"]
    *way, last = used[rng.integers(len(used))]
    inner = description
    for key in way:
        inner = inner[key]
    junk = [None, -1, 0, 1, 7, True, 1e308, 2**70, "x" * 100, "../../etc/passwd", [], {}, [[]], {"a": 1}, "4"]
    if rng.random() < 0.2:
        del inner[last]
    else:
        inner[last] = junk[rng.integers(len(junk))]
    path.write_text(json.dumps(description))


def change_sizes(folder: Path, rng: Rng) -> None:
    """Sizes within their bounds that are not those of the files."""
    path = folder / DESCRIPTION_FILE
    description = json.loads(path.read_text())
    network, golden = description["network"], description["golden"]
    changes: list[Callable[[], object]] = [
        lambda: network.update(hidden=1024, layers=16),
        lambda: network.update(kind="attention"),
        lambda: network.update(kind="mlp") or description.update(num_replicas=4096),
        lambda: network.update(layers=1),
        lambda: golden.update(observations=256),
        lambda: golden.update(fleet_sizes=[4096]),
        lambda: golden.update(fleet_sizes=[1]),
        lambda: golden.update(fleet_sizes=[8, 8]),
    ]
    changes[rng.integers(len(changes))]()
    path.write_text(json.dumps(description))


def change_graph(folder: Path, rng: Rng) -> None:
    path = folder / GRAPH_FILE
    model = onnx.load_model_from_string(path.read_bytes())
    graph = model.graph
    node = graph.node[rng.integers(len(graph.node))]
    tensor = graph.initializer[rng.integers(len(graph.initializer))]
    kind = rng.integers(12)
    if kind == 0:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "/etc/passwd"), ("offset", "0"), ("length", "16")):
            tensor.external_data.add(key=key, value=value)
        tensor.ClearField("raw_data")
    elif kind == 1:
        node.op_type = str(
            rng.choice(["Loop", "If", "Scan", "RandomNormal", "PyOp", "ConstantOfShape", "Tile"])
        )
    elif kind == 2:
        node.domain = str(rng.choice(["com.microsoft", "ai.onnx.contrib", "evil"]))
    elif kind == 3:
        node.attribute.append(onnx.helper.make_attribute("body", graph.__class__()))
    elif kind == 4:
        tensor.dims[:] = [[2**31, 2**31], [-1], [0], [2**62, 4], [1] * 99][rng.integers(5)]
    elif kind == 5:
        tensor.data_type = int(rng.integers(0, 24))
    elif kind == 6:
        sizes = onnx.numpy_helper.from_array(np.array([2**40, 2**40]), tensor.name)
        tensor.CopyFrom(sizes)
    elif kind == 7:
        other = graph.node[rng.integers(len(graph.node))]
        node.op_type, other.op_type = other.op_type, node.op_type
    elif kind == 8:
        del graph.node[rng.integers(len(graph.node))]
    elif kind == 9:
        node.input[rng.integers(len(node.input))] = str(rng.choice(["replicas", "logits", "nobody", ""]))
    elif kind == 10:
        model.functions.append(onnx.FunctionProto(name="f", domain="evil"))
    else:
        each = [graph.input[0], graph.output[0]][rng.integers(2)]
        each.type.tensor_type.elem_type = int(rng.integers(0, 24))
    path.write_bytes(model.SerializeToString())


def change_indices(folder: Path, rng: Rng) -> None:
    """Axes, bounds and shapes in the graph become others, within bounds and beyond."""
    path = folder / GRAPH_FILE
    model = onnx.load_model_from_string(path.read_bytes())
    of_int64 = [each for each in model.graph.initializer if each.data_type == onnx.TensorProto.INT64]
    tensor = of_int64[rng.integers(len(of_int64))]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[...] = rng.choice([-1, 0, 1, 2, 50, -50, 4096, 65_536, 2**31, 2**62, -(2**63)])
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    path.write_bytes(model.SerializeToString())


def change_folder(folder: Path, rng: Rng) -> None:
    names = sorted(path.name for path in folder.iterdir())
    path, other = (folder / str(name) for name in rng.choice(names, 2, replace=False))
    kind = rng.integers(8)
    if kind == 0:
        target = shutil.move(path, folder.parent / f"{folder.name}-{path.name}")
        path.symlink_to(target)
    elif kind == 1:
        path.unlink()
        path.symlink_to("/dev/zero")
    elif kind == 2:
        path.unlink()
        os.mkfifo(path)
    elif kind == 3:
        path.unlink()
        path.mkdir()
    elif kind == 4:
        path.unlink()
    elif kind == 5:
        os.truncate(path, 1 << 40)
    elif kind == 6:
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    else:  # harmless
        (folder / "sitecustomize.py").write_text(f"open({str(folder / 'touched')!r}, 'w')")
        (folder / "policy.pkl").write_bytes(pickle.dumps(Touches(str(folder / "touched"))))


MUTATIONS = (
    flip_bits,
    flip_bits_of_graph,
    cut_or_grow,
    other_content,
    change_member,
    change_members,
    change_description,
    change_sizes,
    change_graph,
    change_indices,
    change_folder,
)


def describe_again(folder: Path) -> None:
    """Lengths and digests of the files as they are now, as by somebody who means harm and knows how."""
    path = folder / DESCRIPTION_FILE
    try:
        description = json.loads(path.read_text())
        for name, about in description["files"].items():
            content = (folder / name).read_bytes()
            about.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        path.write_text(json.dumps(description))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError, MemoryError):
        pass


def outcome(folder: Path) -> str:
    """ "refused" or "harmless" of an artifact, by each backend; anything else is raised."""
    found = []
    for backend in ("numpy", "onnx"):
        try:
            check_golden(load_artifact(folder, backend), folder)
            found.append("harmless")
        except InputError as error:
            found.append(f"refused: {error}")
    assert all("\n" not in each and len(each) < 2_000 for each in found), found
    assert not (folder / "touched").exists(), "code was run"
    return " | ".join(found)


def main(sound: Path, scratch: Path, first: int, count: int) -> None:
    """Tries mutations `first` to `first + count`; prints for each a line of JSON with what became of it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert outcome(sound) == "harmless | harmless"
    page = resource.getpagesize()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * page
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, taken + MEMORY_BYTES))
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        folder = scratch / str(number)
        shutil.copytree(sound, folder)
        mutate = MUTATIONS[number % len(MUTATIONS)]
        mutate(folder, rng)
        if rng.random() < 0.8 and mutate is not change_folder:
            describe_again(folder)
        signal.alarm(LONGEST_S)
        print(json.dumps([number, mutate.__name__, outcome(folder)]), flush=True)
        signal.alarm(0)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
