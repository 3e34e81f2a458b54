"""Graphs are let through as `servegym export` writes them, and refused with anything else in them."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from servegym.agents.serving.artifact.onnx_check import check_graph
from servegym.agents.serving.artifact.schema import LEVELS
from servegym.agents.zoo import ZOO, zoo_policies
from servegym.costmodels.errors import InputError

ROUTER = LEVELS["router"]


def model() -> ModelProto:
    return onnx.load_model_from_string((ZOO / "router" / "policy.onnx").read_bytes())


@pytest.mark.parametrize("name", zoo_policies())
def test_graphs_of_the_zoo_pass(name: str) -> None:
    check_graph((ZOO / name / "policy.onnx").read_bytes(), LEVELS[name], None, "here")


def in_another_file(changed: ModelProto) -> None:
    tensor = changed.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def outside_data_only(changed: ModelProto) -> None:
    changed.graph.initializer[0].external_data.add(key="location", value="weights.bin")


def huge(changed: ModelProto) -> None:
    changed.graph.initializer[0].dims[:] = [2**31, 2**31]


def too_short(changed: ModelProto) -> None:
    changed.graph.initializer[0].raw_data = b"abc"


def huge_shape(changed: ModelProto) -> None:
    shape = numpy_helper.from_array(np.array([2**20, 2**20]), "shape")
    changed.graph.initializer.append(shape)


def text(changed: ModelProto) -> None:
    changed.graph.initializer.append(helper.make_tensor("text", TensorProto.STRING, [1], [b"x"]))


def loop(changed: ModelProto) -> None:
    changed.graph.node[0].op_type = "Loop"


def a_graph_within(changed: ModelProto) -> None:
    changed.graph.node[0].attribute.append(helper.make_attribute("body", onnx.GraphProto(name="b")))


def of_a_domain(changed: ModelProto) -> None:
    changed.graph.node[0].domain = "ai.onnx.contrib"


def opset_of_a_domain(changed: ModelProto) -> None:
    changed.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def function(changed: ModelProto) -> None:
    changed.functions.append(onnx.FunctionProto(name="Add", domain="evil"))


def sparse(changed: ModelProto) -> None:
    changed.graph.sparse_initializer.append(onnx.SparseTensorProto())


def training(changed: ModelProto) -> None:
    changed.training_info.append(onnx.TrainingInfoProto())


def another_input(changed: ModelProto) -> None:
    changed.graph.input[0].name = "engine"


def input_of_another_shape(changed: ModelProto) -> None:
    changed.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 8


def input_of_another_type(changed: ModelProto) -> None:
    changed.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def two_outputs(changed: ModelProto) -> None:
    changed.graph.output.append(changed.graph.output[0])


def no_graph(changed: ModelProto) -> None:
    changed.ClearField("graph")


@pytest.mark.parametrize(
    "change",
    [
        in_another_file,
        outside_data_only,
        huge,
        too_short,
        huge_shape,
        text,
        loop,
        a_graph_within,
        of_a_domain,
        opset_of_a_domain,
        function,
        sparse,
        training,
        another_input,
        input_of_another_shape,
        input_of_another_type,
        two_outputs,
        no_graph,
    ],
)
def test_anything_else_is_refused(change: Callable[[ModelProto], None]) -> None:
    changed = model()
    change(changed)
    with pytest.raises(InputError, match="^here: not a graph that servegym export wrote: "):
        check_graph(changed.SerializeToString(), ROUTER, None, "here")


def test_a_graph_for_one_fleet_is_not_one_for_all() -> None:
    content = (ZOO / "router" / "policy.onnx").read_bytes()
    with pytest.raises(InputError, match="inputs"):
        check_graph(content, ROUTER, 4, "here")


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", b"\x0b"])
def test_what_is_no_message_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="^here: not a graph"):
        check_graph(content, ROUTER, None, "here")
