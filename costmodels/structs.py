"""Named tuples passed by pointer, so that compiling does not drown in them.

Numba passes a tuple of arrays as hundreds of separate numbers through every call: compiling the simulator
so takes minutes. `struct` hands compiled code the address of those numbers instead; a field is read where
it is used. In Python a struct has the attributes of its tuple, so the same functions run without compiling.

A struct is constant: compiled code may write into its arrays, never to its fields. It holds no references,
so it must outlive the calls it is passed to, which is so for any argument.
"""

import hashlib
import operator
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_borrowed
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    intrinsic,
    lower_builtin,
    lower_getattr_generic,
    models,
    register_model,
    type_callable,
    typeof_impl,
    unbox,
)

Fields = TypeVar("Fields")


def struct(fields: Fields) -> Fields:
    """A NamedTuple (of arrays, numbers, structs) as a struct."""
    return fields if numba.config.DISABLE_JIT else cast(Fields, _Struct(fields))


def struct_array(elements: Sequence[Fields]) -> Sequence[Fields]:
    """Several NamedTuples of the same types; compiled code gets the struct `array[i]` by pointer, too."""
    return elements if numba.config.DISABLE_JIT else cast(Sequence[Fields], _StructArray(elements))


def fields_of(a_struct: Fields) -> Any:
    """The NamedTuple that a struct was made of."""
    return a_struct.elements[0] if isinstance(a_struct, _StructArray) else a_struct


class _StructArray:
    """Tuples, and their contents in memory as compiled code has them, one after the other."""

    def __init__(self, elements: Sequence[Any]) -> None:
        self.elements = tuple(elements)
        words = -(-_size_of(elements[0]) // 8)
        self._memory = np.zeros((len(elements), words), np.uint64)
        self.address = self._memory.ctypes.data
        for element, place in zip(elements, self._memory, strict=True):
            if numba.typeof(element) != numba.typeof(elements[0]):
                raise TypeError(f"a struct array of {numba.typeof(element)} and {numba.typeof(elements[0])}")
            _write(element, place.ctypes.data)
        self.numba_type = self._type_of(numba.typeof(elements[0]))

    def _type_of(self, fields: Any) -> Any:
        return StructArrayType(fields)

    def __len__(self) -> int:
        return len(self.elements)

    def __getitem__(self, index: int) -> Any:
        return self.elements[index]


class _Struct(_StructArray):
    def __init__(self, fields: Any) -> None:
        super().__init__([fields])

    def _type_of(self, fields: Any) -> Any:
        return StructType(fields)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.elements[0], name)


def _short_name(fields: types.Type) -> str:
    """Types are told apart by name, and names stand in every line of the code: the full one has pages."""
    return hashlib.sha256(str(fields).encode()).hexdigest()[:16]


class StructType(types.Type):
    """Numba's type of a struct: a pointer to a tuple of type `fields`."""

    def __init__(self, fields: types.Type) -> None:
        self.fields = fields
        super().__init__(name=f"Struct({_short_name(fields)})")


class StructArrayType(types.Type):
    """Numba's type of a struct array: a pointer to the first of them."""

    def __init__(self, fields: types.Type) -> None:
        self.fields = fields
        super().__init__(name=f"StructArray({_short_name(fields)})")


_POINTER = ir.IntType(8).as_pointer()


@register_model(StructType)
@register_model(StructArrayType)
class _PointerModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _POINTER)


@typeof_impl.register(_StructArray)
def _typeof_array(value: Any, context: Any) -> Any:
    return value.numba_type  # made once: it takes longer than most calls


@typeof_impl.register(_Struct)
def _typeof(value: Any, context: Any) -> Any:
    return value.numba_type


@unbox(StructType)
@unbox(StructArrayType)
def _unbox(typ: Any, obj: Any, c: Any) -> Any:
    address = c.pyapi.object_getattr_string(obj, "address")
    number = c.pyapi.long_as_longlong(address)
    c.pyapi.decref(address)
    return NativeValue(c.builder.inttoptr(number, _POINTER))


@infer_getattr
class _StructAttribute(AttributeTemplate):  # type: ignore[misc]
    key = StructType

    def generic_resolve(self, typ: Any, attr: str) -> Any:
        """The type of a field; None where there is none of that name."""
        names = typ.fields.fields
        return typ.fields.types[names.index(attr)] if attr in names else None


@lower_getattr_generic(StructType)
def _get_field(context: Any, builder: Any, typ: Any, value: Any, attr: str) -> Any:
    index = typ.fields.fields.index(attr)
    pointer = builder.bitcast(value, context.get_value_type(typ.fields).as_pointer())
    field = builder.load(cgutils.gep_inbounds(builder, pointer, 0, index))
    field.set_metadata("invariant.load", builder.module.add_metadata([]))
    return impl_ret_borrowed(context, builder, typ.fields.types[index], field)


@type_callable(operator.getitem)
def _type_getitem(context: Any) -> Any:
    def typer(array: Any, index: Any) -> Any:
        if isinstance(array, StructArrayType) and isinstance(index, types.Integer):
            return StructType(array.fields)
        return None

    return typer


@lower_builtin(operator.getitem, StructArrayType, types.Integer)
def _get_element(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    array, index = args
    pointer = builder.bitcast(array, context.get_value_type(sig.args[0].fields).as_pointer())
    return builder.bitcast(builder.gep(pointer, [index], inbounds=True), _POINTER)


@intrinsic
def _write_fields(typing_context: Any, fields: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = _without_owners(context, builder, sig.args[0], args[0])
        builder.store(value, builder.inttoptr(args[1], value.type.as_pointer()))
        return context.get_dummy_value()

    return types.void(fields, types.int64), codegen


def _without_owners(context: Any, builder: Any, typ: Any, value: Any) -> Any:
    """Arrays that do not know who owns their memory: reference counts are not for them to touch."""
    if isinstance(typ, types.Array):
        array = cgutils.create_struct_proxy(typ)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()
    if isinstance(typ, types.BaseTuple):  # type: ignore[attr-defined]
        for i, part in enumerate(typ.types):
            inner = _without_owners(context, builder, part, builder.extract_value(value, i))
            value = builder.insert_value(value, inner, i)
    return value


@intrinsic
def _num_bytes(typing_context: Any, fields: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_constant(types.int64, context.get_abi_sizeof(context.get_value_type(sig.args[0])))

    return types.int64(fields), codegen


@numba.njit(cache=True)
def _write(fields: Any, address: int) -> None:
    _write_fields(fields, address)


@numba.njit(cache=True)
def _size_of(fields: Any) -> int:
    size: int = _num_bytes(fields)
    return size
