"""The network of an exported policy, run by ONNX Runtime."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from servegym.agents.serving.artifact.schema import Level
from servegym.costmodels.errors import InputError

MOST_FLEETS = 64
"""Fleet sizes whose buffers are kept; a fleet that grows past all bounds does not fill the memory."""


class OnnxNetwork:
    """A graph from its bytes, which ONNX Runtime gets when it is first used or at `open`.

    InputError then, where the runtime is missing or refuses them, and where it fails at a decision.
    """

    name = "onnx"

    def __init__(self, graph: bytes, level: Level, where: str) -> None:
        self._graph, self._level, self._where = graph, level, where
        self._bound: dict[int, _Bound] = {}

    def open(self) -> None:
        """Gives the graph to ONNX Runtime now, so that nothing is left to be refused later."""
        _ = self._session

    @functools.cached_property
    def _session(self) -> Any:
        return _session(self._graph, self._where)

    def scores(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (K, A) of arrays with a leading axis K, float32 and contiguous."""
        try:
            scores: np.ndarray = self._session.run(["logits"], observation)[0]
        except Exception as error:  # ONNX Runtime raises its own types
            raise self._failed(error) from error
        return scores

    def score_one(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (A,) of arrays without that axis, in a buffer that the next call overwrites."""
        num_replicas = len(observation["replicas"]) if "replicas" in self._level.inputs else 0
        bound = self._bound.get(num_replicas) or self._bind(num_replicas)
        for name, buffer in bound.inputs:
            buffer[...] = observation[name]
        try:
            self._session.run_with_iobinding(bound.binding)
        except Exception as error:
            raise self._failed(error) from error
        return bound.scores

    def _failed(self, error: Exception) -> InputError:
        return InputError(f"{self._where}: ONNX Runtime cannot run it: {_line(error)}")

    def _bind(self, num_replicas: int) -> "_Bound":
        """Fixed buffers for fleets of a size: nothing is allocated or copied at a decision but the inputs."""
        if len(self._bound) >= MOST_FLEETS:
            self._bound.clear()
        binding, inputs = self._session.io_binding(), []
        for name, of in self._level.inputs.items():
            buffer = np.zeros(of.shape(1, num_replicas), np.float32)
            binding.bind_input(name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
            inputs.append((name, buffer[0, ...]))
        scores = np.zeros((1, self._level.num_actions(num_replicas)), np.float32)
        binding.bind_output("logits", "cpu", 0, np.float32, scores.shape, scores.ctypes.data)
        bound = self._bound[num_replicas] = _Bound(binding, tuple(inputs), scores[0])
        return bound


class _Bound(NamedTuple):
    """What one fleet size is decided in: views of the arrays that ONNX Runtime reads and writes."""

    binding: Any
    inputs: tuple[tuple[str, np.ndarray], ...]
    scores: np.ndarray


def _session(graph: bytes, where: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("onnxruntime is not installed: pip install 'servegym[serving]'") from error
    options = onnxruntime.SessionOptions()
    # One request at a time on a busy host: threads that spin for work would only take it from others.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        # Without a second try, which the package announces on standard output.
        return onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime raises its own types, one for each way a graph can be bad
        raise InputError(f"{where}: ONNX Runtime cannot load it: {_line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
