"""Named tuples passed by pointer, so that compiling does not drown in them.

Numba passes a tuple of arrays as hundreds of separate numbers through every call: compiling the simulator
so takes minutes. `struct` hands compiled code the address of those numbers instead; a field is read where
it is used. In Python a struct has the attributes of its tuple, so the same functions run without compiling.

A struct is constant: compiled code may write into its arrays, never to its fields. It holds no references,
so it must outlive the calls it is passed to, which is so for any argument.
"""

import functools
import hashlib
import operator
from collections.abc import MutableSequence, Sequence
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
    lower_builtin,
    lower_getattr_generic,
    models,
    register_model,
    type_callable,
    unbox,
)

Fields = TypeVar("Fields")


def struct(fields: Fields) -> Fields:
    """A NamedTuple (of arrays, numbers, structs) as a struct."""
    return fields if numba.config.DISABLE_JIT else cast(Fields, _Struct(fields))


def struct_array(elements: Sequence[Fields]) -> MutableSequence[Fields]:
    """Several NamedTuples of the same types; compiled code gets the struct `array[i]` by pointer, too.

    An element may be replaced, in Python, by another of the same types.
    """
    if numba.config.DISABLE_JIT:
        return list(elements)
    return cast(MutableSequence[Fields], _StructArray(list(map(fields_of, elements))))


def fields_of(a_struct: Fields) -> Any:
    """The NamedTuple that a struct was made of."""
    return a_struct.elements[0] if isinstance(a_struct, _StructArray) else a_struct


class _StructArray:
    """Tuples, and their contents in memory as compiled code has them, one after the other."""

    def __init__(self, elements: Sequence[Any]) -> None:
        self.elements = list(elements)
        layout, *others = [_layout(element) for element in elements]
        self._element_layout = layout
        if any(other != layout for other in others):
            raise TypeError(f"a struct array of {layout} and others")
        key = type(self), layout
        if key not in _TYPES:
            _TYPES[key] = self._type_of(numba.typeof(elements[0]))
        # Numba looks here for the type: found out once, not at every call that a struct is passed to.
        self._numba_type_ = _TYPES[key]
        self._memory = np.array([_words(element) for element in elements], np.uint64)
        self.address = _address(self._memory)

    def _type_of(self, fields: types.Type) -> types.Type:
        return StructArrayType(fields)

    def __len__(self) -> int:
        return len(self.elements)

    def __getitem__(self, index: int) -> Any:
        return self.elements[index]

    def __setitem__(self, index: int, element: Any) -> None:
        fields = fields_of(element)
        if _layout(fields) != self._element_layout:
            raise TypeError(f"{_layout(fields)} in a struct array of {self._element_layout}")
        self.elements[index] = fields
        self._memory[index] = _words(fields)


class _Struct(_StructArray):
    def __init__(self, fields: Any) -> None:
        super().__init__([fields])

    def _type_of(self, fields: types.Type) -> types.Type:
        return StructType(fields)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.elements[0], name)


def _short_name(fields: Any) -> str:
    """Types are told apart by name, and names stand in every line of the code: the full one has pages."""
    return hashlib.sha256(str(fields).encode()).hexdigest()[:16]


Constants = tuple[tuple[str, float], ...]
"""Fields that have always the same value, and that value."""


class StructType(types.Type):
    """Numba's type of a struct: a pointer to a tuple of type `fields`."""

    def __init__(self, fields: types.Type, constants: Constants = ()) -> None:
        self.fields, self.constants = fields, constants
        super().__init__(name=f"Struct({_short_name((fields, constants))})")


class StructArrayType(types.Type):
    """Numba's type of a struct array: a pointer to the first of them; with `constants` there is but one."""

    def __init__(self, fields: types.Type, constants: Constants = ()) -> None:
        self.fields, self.constants = fields, constants
        super().__init__(name=f"StructArray({_short_name((fields, constants))})")


@functools.cache
def knowing(struct_type: Any, field: str, **constants: float) -> Any:
    """The type of a struct to code that is compiled for some of them only: those where the struct in `field`,
    or the one struct of an array, has these values in its fields.

    It takes the same pointer; only functions that are called by address can be compiled for it.
    """
    if numba.config.DISABLE_JIT:
        return struct_type
    names, kinds = struct_type.fields.fields, list(struct_type.fields.types)
    known = kinds[names.index(field)]
    kinds[names.index(field)] = type(known)(known.fields, tuple(constants.items()))
    return StructType(types.NamedTuple(kinds, struct_type.fields.instance_class))  # type: ignore[attr-defined]


_POINTER = ir.IntType(8).as_pointer()


@register_model(StructType)
@register_model(StructArrayType)
class _PointerModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _POINTER)


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
    for name, number in typ.constants:
        if name == attr:
            return context.get_constant(typ.fields.types[index], number)
    pointer = builder.bitcast(value, context.get_value_type(typ.fields).as_pointer())
    field = builder.load(cgutils.gep_inbounds(builder, pointer, 0, index))
    field.set_metadata("invariant.load", builder.module.add_metadata([]))
    return impl_ret_borrowed(context, builder, typ.fields.types[index], field)


@type_callable(operator.getitem)
def _type_getitem(context: Any) -> Any:
    def typer(array: Any, index: Any) -> Any:
        if isinstance(array, StructArrayType) and isinstance(index, types.Integer):
            return StructType(array.fields, array.constants)
        return None

    return typer


@lower_builtin(operator.getitem, StructArrayType, types.Integer)
def _get_element(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    array, index = args
    if sig.args[0].constants:
        return array
    pointer = builder.bitcast(array, context.get_value_type(sig.args[0].fields).as_pointer())
    return builder.bitcast(builder.gep(pointer, [index], inbounds=True), _POINTER)


_TYPES: dict[Any, types.Type] = {}
"""By layout: numba takes milliseconds to find out the type of an array of records."""


def _layout(value: Any) -> Any:
    """Equal for values of equal numba types."""
    if isinstance(value, tuple):
        return type(value), *map(_layout, value)
    if isinstance(value, np.ndarray):
        # a table of one column is both; numba takes it for the first
        order = "C" if value.flags.c_contiguous else "F" if value.flags.f_contiguous else "A"
        return value.dtype, value.ndim, order, value.flags.writeable, value.flags.aligned
    return value._numba_type_ if isinstance(value, _StructArray) else type(value)


def _address(array: np.ndarray) -> int:
    return array.ctypes.data  # `__array_interface__` describes every field of a record, too


def _words(value: Any) -> list[int]:
    """A value as numba has it in memory, in words of 8 bytes.

    An array is owner (twice; nobody, so that reference counts are left alone), number of items, their bytes,
    data, shape and strides.
    """
    if isinstance(value, tuple):
        return [word for field in value for word in _words(field)]
    if isinstance(value, np.ndarray):
        extent = [value.size, value.itemsize, _address(value), *value.shape, *value.strides]
        return [0, 0, *(number % 2**64 for number in extent)]
    if isinstance(value, _StructArray):
        return [value.address]
    if isinstance(value, float):
        return [int(np.float64(value).view(np.uint64))]
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return [int(value) % 2**64]
    raise TypeError(f"{value!r} in a struct: must be an array, a struct, an int or a float")
