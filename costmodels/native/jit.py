"""`jit` and `kernel`: the ways this project compiles functions for the simulator.

Numba caches machine code per file and notices when that file changes, but not when a function that it
calls in another file does. Importing this module therefore compares the sources with a stamp left by
the last import and removes this project's own cached code where they differ. It looks beside the
sources only: where NUMBA_CACHE_DIR points elsewhere, clear that folder after an edit.
"""

import collections
import functools
import hashlib
import importlib.util
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

import numba
from numba.core import types
from numba.core.caching import IndexDataCacheFile
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.lowering import Lower
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering


def _folders() -> list[Path]:
    """The folders of this project that hold compiled functions."""
    folders = [Path(__file__).resolve().parents[1]]
    for package in ("envs", "agents"):
        spec = importlib.util.find_spec(f"servegym.{package}")
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).resolve().parent)
    return folders


def _clear_stale_code() -> None:
    folders = _folders()
    digest = hashlib.sha256()
    sources = sorted(path for folder in folders for path in folder.rglob("*.py"))
    for path in sources:
        digest.update(path.read_bytes())
    stamp = folders[0] / "__pycache__" / "compiled_sources.sha256"
    try:
        if stamp.exists() and stamp.read_text() == digest.hexdigest():
            return
        for folder in folders:
            for pattern in ("*.nbi", "*.nbc"):
                for path in folder.rglob(pattern):
                    path.unlink(missing_ok=True)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(digest.hexdigest())
    except OSError:
        return  # a read-only installation never changes under its cache


_clear_stale_code()

Function = TypeVar("Function", bound=Callable[..., Any])


class CacheFiles(IndexDataCacheFile):  # type: ignore[misc]
    """Numba's own, where no two processes write a file of code of the same name.

    Two that compile a function for different arguments at once would else give their files the same number,
    and the index of one might name the code of the other.
    """

    def _data_name(self, number: int) -> str:
        stem, _, suffix = super()._data_name(number).rpartition(".")
        return f"{stem}.{os.getpid()}.{suffix}"


CPUDispatcher._recent = collections.deque(maxlen=4096)  # functions that an index names, read from the cache
"""Numba keeps the last 128 alive. Of more, one may be gone when the index that names it is written
again, which then fails ("underlying object has vanished")."""

_numba_jit = functools.partial(numba.njit, cache=True, nogil=True)


def _njit(function: Callable[..., Any], **options: Any) -> Any:
    dispatcher = _numba_jit(**options)(function)
    if not numba.config.DISABLE_JIT:  # else it is the function itself
        dispatcher._cache._cache_file.__class__ = CacheFiles
    return dispatcher


def jit(function: Function) -> Function:
    """Decorator: compiled without the interpreter, cached on disk, other threads may run meanwhile."""
    return cast(Function, _njit(function))


def jit_for(signature: Any) -> Callable[[Function], Function]:
    """`jit` for one signature (a numba type), known before the first call."""
    return cast(Callable[[Function], Function], _numba_jit(signature))


def _counted_from_the_front(signature: Any) -> Any:
    """The signature of an array access with its indices taken for unsigned numbers."""

    def unsigned(index: Any) -> Any:
        if isinstance(index, types.BaseTuple):  # type: ignore[attr-defined]
            return types.Tuple([unsigned(part) for part in index.types])  # type: ignore[attr-defined]
        signed = isinstance(index, types.Integer) and index.signed and not isinstance(index, types.Literal)  # type: ignore[attr-defined]
        return types.uint64 if signed else index

    if not isinstance(signature.args[0], types.Array):
        return signature
    return signature.replace(args=(signature.args[0], unsigned(signature.args[1]), *signature.args[2:]))


class _KernelLower(Lower):  # type: ignore[misc]
    """Numba's own, without the code that makes `array[i]` with a negative `i` count from the end."""

    def lower_getitem(self, resty: Any, expr: Any, value: Any, index: Any, signature: Any) -> Any:
        return super().lower_getitem(resty, expr, value, index, _counted_from_the_front(signature))

    def lower_setitem(self, target: Any, index: Any, value: Any, signature: Any) -> Any:
        return super().lower_setitem(target, index, value, _counted_from_the_front(signature))


@register_pass(mutates_CFG=True, analysis_only=False)
class _KernelLowering(NativeLowering):  # type: ignore[misc]
    _name = "native_lowering_of_kernels"

    @property
    def lowering_class(self) -> type[Lower]:
        return _KernelLower


class _KernelCompiler(CompilerBase):  # type: ignore[misc]
    """Numba's own pipeline with that lowering."""

    def define_pipelines(self) -> list[Any]:
        """One pipeline."""
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes = [
            (_KernelLowering if step is NativeLowering else step, why) for step, why in pipeline.passes
        ]
        pipeline.finalize()
        return [pipeline]


_kernel = functools.partial(
    _njit,
    _nrt=False,
    error_model="numpy",
    pipeline_class=_KernelCompiler,
    no_cpython_wrapper=True,
    no_cfunc_wrapper=True,
)


def _widened(argument: Any) -> Any:
    """int64 for signed integers of any size, constants or not; others but for their being constants."""
    if isinstance(argument, types.Integer) and argument.signed:  # type: ignore[attr-defined]
        return types.int64
    return types.unliteral(argument)  # type: ignore[attr-defined]


class _KernelDispatcher(CPUDispatcher):  # type: ignore[misc]
    """Numba's own with less to compile.

    One version serves integers of any size, and Python has no way in: where it calls a kernel (tests do), a
    function that does so is compiled first.
    """

    def get_call_template(self, arguments: Any, keywords: Any) -> Any:
        """What a compiled caller calls."""
        signature, folded = self._compiler.fold_argument_types(arguments, keywords)
        template, *_ = super().get_call_template(tuple(map(_widened, folded)), {})
        return template, signature, folded, {}

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        in_order = inspect.signature(self.py_func).bind(*arguments, **named).args
        return _callable_from_python(self)(*in_order)


@functools.cache
def _callable_from_python(dispatcher: _KernelDispatcher) -> Any:
    return numba.njit(lambda *arguments: dispatcher(*arguments))


def _compiled(function: Callable[..., Any], inlined: bool) -> Any:
    # Numba's cache goes by the name alone: code of a function that is also compiled with `jit` would be taken
    # for this one's, and has another way in.
    own = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    functools.update_wrapper(own, function)
    own.__qualname__ += ".routine" if not inlined else ".kernel"
    dispatcher = _kernel(own, forceinline=inlined)
    if not numba.config.DISABLE_JIT:
        dispatcher.__class__ = _KernelDispatcher
    return dispatcher


def kernel(function: Function) -> Function:
    """Decorator for what compiled code calls in its inner loop, and nothing else.

    Inlined by LLVM, and without reference counts: the caller's arrays outlive the call. Passing the
    simulator's state by value and counting references to its arrays would take most of its time. Dividing
    by zero gives infinity, as in NumPy, instead of a check at every division. An index that is computed must
    not be negative: it would not count from the end.
    """
    return cast(Function, _compiled(function, True))


def routine(function: Function) -> Function:
    """Decorator for what `kernel`s call now and then: the same, but not inlined by force.

    LLVM calls one copy of it where it is long, so that the code compiled, and compiled again inside its
    callers, stays small.
    """
    return cast(Function, _compiled(function, False))
