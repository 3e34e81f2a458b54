"""Calls through an address, so that callers are compiled without the code they call.

Numba compiles every function into each of its callers again. A large one is compiled once instead, and called
through an address kept in a struct.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


@functools.cache
def address_of(function: Callable[..., None], *argument_types: types.Type) -> Any:
    """Of a function that returns nothing, compiled for these arguments, for `call_at`."""
    if numba.config.DISABLE_JIT:
        return function
    if argument_types not in function.overloads:  # type: ignore[attr-defined]
        function.compile(argument_types)  # type: ignore[attr-defined]
    compiled = function.overloads[argument_types]  # type: ignore[attr-defined]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


class Callback:
    """A Python function of two integers, which compiled code calls by its `address`, for `call_back`.

    It lives as long as this object. What it raises is kept; the call then returns 1, else 0.
    """

    def __init__(self, function: Callable[[int, int], None]) -> None:
        self._error: BaseException | None = None

        def call(first: int, second: int) -> int:
            try:
                function(first, second)
            except BaseException as error:
                self._error = error
                return 1
            return 0

        self._pointer = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(call)
        self.address = int(ctypes.cast(self._pointer, ctypes.c_void_p).value or 0)

    def raise_error(self) -> None:
        """Raises what the function has raised, if it has."""
        if self._error is not None:
            raise self._error


if numba.config.DISABLE_JIT:

    def call_back(address: int, first: int, second: int) -> int:
        """Calls a `Callback`; 1 where it has raised an exception, 0 else."""
        kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        return int(kind(address)(first, second))

    def call_at(address: Any, arguments: tuple[Any, ...]) -> None:
        """Calls the function at an address, which must have been compiled for arguments of these types."""
        address(*arguments)

else:

    @intrinsic
    def call_back(typing_context: Any, address: Any, first: Any, second: Any) -> Any:
        """Calls a `Callback`; 1 where it has raised an exception, 0 else."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = ir.IntType(64)
            function = builder.inttoptr(args[0], ir.FunctionType(word, [word, word]).as_pointer())
            return builder.call(function, args[1:])

        return types.int64(types.int64, types.int64, types.int64), codegen

    @intrinsic
    def call_at(typing_context: Any, address: Any, arguments: Any) -> Any:
        """Calls the function at an address, which must have been compiled for arguments of these types."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args[1].types
            values = [builder.extract_value(args[1], i) for i in range(len(kinds))]
            function_type = context.call_conv.get_function_type(types.none, kinds)
            function = builder.inttoptr(args[0], function_type.as_pointer())
            status, _ = context.call_conv.call_function(builder, function, types.none, kinds, values)
            with builder.if_then(status.is_error, likely=False):
                context.call_conv.return_status_propagate(builder, status)
            return context.get_dummy_value()

        return types.void(address, arguments), codegen
