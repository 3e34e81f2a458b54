"""Calls through an address, so that callers are compiled without the code they call.

Numba compiles every function into each of its callers again. A large one is compiled once instead, and called
through an address kept in a struct.
"""

import functools
from collections.abc import Callable
from typing import Any

import numba
from numba.core import types
from numba.extending import intrinsic


@functools.cache
def address_of(function: Callable[..., None], *argument_types: types.Type) -> Any:
    """Compiles a `kernel` or `routine` that returns nothing for these arguments, for `call_at`."""
    if numba.config.DISABLE_JIT:
        return function
    function.compile(argument_types)  # type: ignore[attr-defined]
    compiled = function.overloads[argument_types]  # type: ignore[attr-defined]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


if numba.config.DISABLE_JIT:

    def call_at(address: Any, arguments: tuple[Any, ...]) -> None:
        """Calls the function at an address, which must have been compiled for arguments of these types."""
        address(*arguments)

else:

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
