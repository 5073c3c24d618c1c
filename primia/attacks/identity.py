"""What a trainer is, in words: equal for equal ones, in every process, and different for others."""

import dataclasses
from functools import partial
from types import BuiltinFunctionType, CellType, FunctionType, MethodType
from typing import Any


def words_for(thing: Any, *, within: tuple[int, ...] = ()) -> str:
    """Describe a function, a method with its object, or a callable dataclass with its fields.

    Of a function its module and qualified name count, with what it closes over; its code is that of a file. Anything
    else is described by `repr`, which of a plain object names its place in memory: such a thing equals nothing in
    another process.

    Args:
        thing: to be described.
        within: identities of what it is a part of.
    """
    if id(thing) in within:  # a function that calls itself
        return "itself"
    parts = partial(words_for, within=(*within, id(thing)))
    match thing:
        case MethodType():
            return f"{parts(thing.__func__)} of {parts(thing.__self__)}"
        case FunctionType():
            return f"{thing.__module__}.{thing.__qualname__}{[parts(value) for value in _closed_over(thing)] or ''}"
        case BuiltinFunctionType() | type():
            return f"{thing.__module__}.{thing.__qualname__}"
        case partial():
            return f"{parts(thing.func)} with {parts(thing.args)} and {parts(sorted(thing.keywords.items()))}"
        case tuple() | list():
            return f"({', '.join(parts(each) for each in thing)})"
        case _ if dataclasses.is_dataclass(thing):
            told = [f"{field.name}={parts(getattr(thing, field.name))}" for field in dataclasses.fields(thing)]
            return f"{parts(type(thing))}({', '.join(told)})"
        case _:
            return repr(thing)


def _closed_over(function: FunctionType) -> list[Any]:
    """Values of the variables that a function takes from where it was defined."""
    return [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
