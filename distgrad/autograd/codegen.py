"""The source of the functions that :mod:`distgrad.autograd.dispatch` compiles for each operation.

All that depends on an operation's signature is settled here, in text, so that the compiled functions hold
nothing but what their own operation needs.
"""

from __future__ import annotations

import inspect
from typing import Any

from distgrad.autograd.casting import POLICY
from distgrad.autograd.ops.shape_rules import broadcast_shape
from distgrad.autograd.primitive import DTYPE_CHARS, Composite, Primitive

__all__ = ["backward_source", "call_source", "public_signature", "retained_names"]

_UNWRAP = """\
    try:
        v_{x} = {x}._data
        n_{x} = {x}._node
        c_{x} = {x}._version
    except AttributeError:
{foreign}        v_{x} = {constant}({x}, {where!r}, {x!r})
        n_{x} = None
        c_{x} = UNCHANGED
"""

_FOREIGN = """\
        if not isinstance({x}, OPERANDS) and {x}.__class__ not in ARRAY_MODULES:
            return decline({x}, {where!r}, {x!r})
"""

_UNWRAP_SEQUENCE = """\
    v_{x}, n_{x}, c_{x} = unwrap_sequence({x}, {where!r}, {x!r})
"""

_CHECK_DTYPE = """\
    if v_{x}.__class__ in ARRAY_MODULES and v_{x}.dtype.char not in {chars!r}:
        raise wrong_dtype(record, {x!r}, v_{x})
"""

_TENSORS = """\
    try:
{arrays}    except AttributeError:
        ({inputs}) = tensors(record, ({inputs}))
{arrays}"""

_TENSOR = """\
    if {x}.__class__ not in PLAIN:
        {x} = as_operand({x})
"""

_TENSOR_SEQUENCE = """\
    {x} = [as_operand(_each) if _each.__class__ not in PLAIN else _each for _each in {x}]
    v_{x} = None
    for _each in {x}:
        if isinstance(_each, Tensor):
            v_{x} = _each._data
            break
"""

_CHECK_TENSOR = """\
    if {given}v_{x}.dtype.char not in {chars!r}:
        raise wrong_dtype(record, {x!r}, {x})
"""

_COMPOSE = """\
    xp = operations if v_{first}.__class__ is ndarray else operations_for(v_{first})
    try:
        return formula(xp, {arguments})
    except Exception as error:
        error.add_note({note!r})
        raise
"""

_RUN = """\
    try:
        y = {call}
    except DistgradError:
        raise
    except Exception as error:
        raise explain(record, error, ({values},)) from error
"""

_WRAP = """\
    if y.__class__ is not ndarray:
        y = as_array(y, record, ({values},))
{settle}    out = new(Tensor)
    out._data = y
    out._leaf = None
"""

_SETTLE = """\
    if y.dtype.char in {suspects}:
        y = settle(y, ({values},))
"""

_OWN = """\
    out._version = [0]
    out._aliases = None
"""

_SHARE = """\
    share(out, {x}, v_{x})
"""

_RECORD = """\
    if ({wanted}) and (_mode := modes.grad) and (_char := y.dtype.char) in "efdEFD":
        out._node = node = new(Node)
        node.op = record if _char in "efdE" else on_complex(record)
        node.number = next_number()
        node.edges = {edges}
        node.metas = {metas}
        node.saved = {saved}
        node.versions = {versions}
        node.hooks = node.outputs = node.retained = None
        _frame = getframe(1)
        if inside[_frame.f_code.co_filename]:
            _frame = outside(_frame)
        node.line = (_frame.f_code, _frame.f_lasti)
        if _mode is not True:
            _mode.recorded(node, (y,))
    else:
        out._node = None
"""

_SEVERAL = """\
    outs, node = several(record, y, ({values},), {wanted}{view})
    if node is not None:
        node.edges = {edges}
        node.metas = {metas}
        node.saved = {saved}
        node.versions = {versions}
    return outs
"""


_CHECK_ARGUMENTS = """\
    if {condition}:
        raise wrong_arguments({where!r}, {attributes!r}, {misplaced}, misnamed, {places})
"""


class _Name(str):
    """A text that stands in a signature as it is."""

    __repr__ = str.__str__


def _header(parameters: list[inspect.Parameter]) -> str:
    """The public signature as text, with defaults taken from the formula's."""
    plain = [
        each.replace(
            annotation=each.empty,
            default=each.empty if each.default is each.empty else _Name(f"default_{each.name}"),
        )
        for each in parameters
    ]
    return str(inspect.Signature(plain))


def call_source(record: Primitive, operator: str = "") -> str:
    """The source of the public function.

    Args:
        record: the primitive.
        operator: ``"left"`` or ``"right"`` for an operator's method, whose ``self`` is the first or the
            second input, and which gives way to operands that it does not know.
    """
    if isinstance(record, Composite):
        return _composite_source(record)
    parameters = list(public_signature(record).parameters.values())
    if operator and (record.attributes or len(record.inputs) != 2):
        raise TypeError(f"operator {record.name}: expected two inputs and no attributes, got {parameters}")
    if operator == "right":
        parameters.reverse()
    body = _opening(record, parameters, checked=bool(record.attributes))
    if record.name in POLICY:
        body.append(_cast_source(record))
    body += [_unwrap_source(record, x, operator) for x in record.inputs]
    values = ", ".join(f"*v_{x}" if record.variadic else f"v_{x}" for x in record.inputs)
    body.append(
        _RUN.format(
            call=_call_expression(record, values),
            values=values,
        )
    )
    if record.outputs != 1:
        body.append(_record_source(record, _SEVERAL, values))
    else:
        body.append(
            _WRAP.format(values=values, settle=_settle_source(record, values))
            + (_SHARE.format(x=record.inputs[0]) if record.view else _OWN)
        )
        body.append(_record_source(record, _RECORD) if record.vjps else "    out._node = None\n")
        body.append("    return out\n")
    return "".join(body)


def _composite_source(record: Composite) -> str:
    """The source of the public function of a composite: its inputs as tensors, and the formula on those."""
    parameters = list(public_signature(record).parameters.values())
    body = _opening(record, parameters, checked=True)
    sequence = next((each.name for each in parameters if each.kind is each.VAR_POSITIONAL), None)
    loose = [x for x in record.attributes if record.signature.parameters[x].annotation == "Any"]
    body += [_TENSOR.format(x=x) for x in loose]
    if sequence is not None:
        body.append(_TENSOR_SEQUENCE.format(x=sequence))
    elif record.inputs:
        arrays = "".join(
            f"        v_{x} = {f'None if {x} is None else ' if x in record.optional else ''}{x}._data\n"
            for x in record.inputs
        )
        body.append(_TENSORS.format(inputs="".join(f"{x}, " for x in record.inputs), arrays=arrays))
    if record.dtypes != "all":
        body += [
            _CHECK_TENSOR.format(
                x=x,
                given=f"{x} is not None and " if x in record.optional else "",
                chars=DTYPE_CHARS[record.dtypes],
            )
            for x in record.inputs
        ]
    if record.name in POLICY:
        cast = _tuple([*([f"*{sequence}"] if sequence else record.inputs), *loose])
        body.append(f"    if ACTIVE:\n        {cast} = cast_inputs({record.name!r}, {cast})\n")
    first = sequence or record.inputs[0]
    names = list(record.signature.parameters)[1:]
    arguments = ", ".join(f"*{x}" if x == sequence else _passed(record, x) for x in names)
    body.append(_COMPOSE.format(first=first, arguments=arguments, note=f"in {record.name}"))
    return "".join(body)


def _opening(record: Primitive, parameters: list[inspect.Parameter], checked: bool) -> list[str]:
    """The head of a public function, and where ``checked`` the look at arguments that it does not take."""
    if not checked:
        return [f"def {record.name}{_header(parameters)}:\n"]
    room = _with_room_for_errors(record, parameters)
    misplaced = "misplaced" if any(each.name == "misplaced" for each in room) else "()"
    condition = "misnamed" if misplaced == "()" else "misnamed or misplaced"
    kinds = inspect.Parameter
    named = (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    keywords = tuple(each.name for each in parameters if each.kind in named)
    return [
        f"def {record.name}{_header(room)}:\n",
        _CHECK_ARGUMENTS.format(
            condition=condition,
            where=record.name,
            attributes=keywords,
            misplaced=misplaced,
            places=sum(each.kind is kinds.POSITIONAL_OR_KEYWORD for each in parameters),
        ),
    ]


def _with_room_for_errors(record: Primitive, parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """Parameters that take wrong arguments too, so that their error can name the right ones."""
    kinds = inspect.Parameter
    place = next((i for i, each in enumerate(parameters) if each.kind is each.KEYWORD_ONLY), None)
    out = [*parameters, kinds("misnamed", kinds.VAR_KEYWORD)]
    if place is not None and not any(each.kind is each.VAR_POSITIONAL for each in parameters):
        out.insert(place, kinds("misplaced", kinds.VAR_POSITIONAL))
    return out


def _cast_source(record: Primitive) -> str:
    """How autocast changes the inputs."""
    inputs = record.inputs[0] if record.variadic else f"[{', '.join(record.inputs)}]"
    return f"    if ACTIVE:\n        {inputs} = cast_inputs({record.name!r}, {inputs})\n"


def _unwrap_source(record: Primitive, x: str, operator: str) -> str:
    """How one input becomes an array, and is checked."""
    unwrap = _UNWRAP_SEQUENCE if record.variadic else _UNWRAP
    constant = "lone" if len(record.inputs) == 1 else "constant"
    text = unwrap.format(
        x=x,
        where=record.name,
        constant="optional" if x in record.optional else constant,
        foreign=_FOREIGN.format(x=x, where=record.name) if operator else "",
    )
    if record.dtypes != "all":
        check = _CHECK_DTYPE.format(x=x, chars=DTYPE_CHARS[record.dtypes])
        if record.variadic:
            check = check.replace(f"v_{x}", "each")
            check = f"    for each in v_{x}:\n" + "".join(f"    {line}\n" for line in check.splitlines())
        text += check
    return text


def _settle_source(record: Primitive, values: str) -> str:
    """How a result gets the dtype of its inputs; where the caller has said another dtype, not at all."""
    settles = (
        (record.result == "promote" or callable(record.result))
        and record.inputs
        and "dtype" not in record.attributes
    )
    suspects = "MIXED" if record.shape is broadcast_shape else "WIDE"
    return _SETTLE.format(values=values, suspects=suspects) if settles else ""


def _passed(record: Primitive, name: str) -> str:
    parameter = record.signature.parameters[name]
    return name if parameter.kind is parameter.POSITIONAL_ONLY else f"{name}={name}"


def _call_expression(record: Primitive, values: str) -> str:
    """How the formula is called: on the host's arrays by itself."""
    arguments = values + "".join(f", {_passed(record, name)}" for name in record.attributes)
    here, there = f"formula(numpy_module, {arguments})", f"run(record, formula, {arguments})"
    if record.variadic or not record.inputs:
        return there if record.inputs else here
    return f"{here} if v_{record.inputs[0]}.__class__ is ndarray else {there}"


def _record_source(record: Primitive, template: str, values: str = "") -> str:
    """Fill in what a node holds: edges, metas, and the saved values that its vjps name."""
    if record.variadic:
        x = record.inputs[0]
        wanted = f"any(n_{x})"
        edges = f"tuple(n_{x})"
        metas = f"tuple([(v.shape, v.dtype) for v in v_{x}])"
    else:
        wanted = " or ".join(f"n_{x} is not None" for x in record.vjps) or "False"
        edges = _tuple(f"n_{x}" if x in record.vjps else "None" for x in record.inputs)
        metas = _tuple(
            f"(v_{x}.shape, v_{x}.dtype) if n_{x} is not None else None" if x in record.vjps else "None"
            for x in record.inputs
        )
    saved, versions = [], []
    for name in retained_names(record):
        needed = _needed_condition(record, name)
        saved.append(f"({_saved_expression(record, name)}) if {needed} else None")
        if name == "y" and record.outputs != 1:
            versions.append("*[(each._version, each._version[0]) for each in outs]")
        elif name == "y":
            versions.append(f"(out._version, out._version[0]) if {needed} else None")
        elif name in record.inputs and record.variadic:
            versions.append(f"*[(cell, cell[0]) for cell in c_{name}]")
        elif name in record.inputs:
            versions.append(f"(c_{name}, c_{name}[0]) if {needed} else None")
    return template.format(
        values=values,
        wanted=wanted,
        edges=edges,
        metas=metas,
        saved=_tuple(saved),
        versions=_tuple(versions),
        view=f", {record.inputs[0]}, v_{record.inputs[0]}" if record.view else "",
    )


def _tuple(texts: Any) -> str:
    return "(" + "".join(f"{text}, " for text in texts) + ")"


def retained_names(record: Primitive) -> list[str]:
    """What the vjps need, each name once, in a fixed order."""
    names: dict[str, None] = {}
    for vjp in record.vjps.values():
        names.update(dict.fromkeys(name for name in vjp.names if name not in ("needs", "into", "before")))
    return list(names)


def _needed_condition(record: Primitive, name: str) -> str:
    if record.variadic or name in record.attributes:
        return "True"
    users = [x for x, vjp in record.vjps.items() if name in vjp.names]
    return " or ".join(f"n_{x} is not None" for x in users)


def _saved_expression(record: Primitive, name: str) -> str:
    if name == "y" or name in record.attributes:
        return name
    if name in record.inputs:
        return f"tuple(v_{name})" if record.variadic else f"v_{name}"
    x, _, kind = name.rpartition("_")
    if record.variadic:
        return f"tuple([v.{kind} for v in v_{x}])"
    return f"getattr(v_{x}, {kind!r}, ())" if kind == "shape" else f"v_{x}.{kind}"


def backward_source(record: Primitive) -> str:
    """The source of ``backward(xp, g, saved, edges, walk)``, which returns a gradient for each input.

    A vjp that takes ``before`` takes from the walk what has come to its first input so far.
    """
    names = retained_names(record)
    body = ["def backward(xp, g, saved, edges, walk):\n"]
    if names:
        body.append(f"    {_tuple(f's_{name}' for name in names)} = saved\n")
    results = []
    joint: dict[int, str] = {}
    for i, x in enumerate(record.inputs):
        vjp = record.vjps.get(x)
        if vjp is None:
            results.append("None")
            continue
        function = f"vjp_{vjp.inputs[0]}"
        places = [record.inputs.index(name) for name in vjp.inputs]
        needs = _tuple(f"edges[{place}] is not None" for place in places)
        if record.variadic:
            needs = "tuple([e is not None for e in edges])"
        into = _tuple(f"home(edges[{place}])" for place in places)
        before = f"(walk.take(edges[{places[0]}]),)"
        given = {"needs": needs, "into": into, "before": before}
        arguments = "".join(f", {given.get(name, f's_{name}')}" for name in vjp.names)
        if record.variadic:
            body.append(f"    return {function}(xp, g{arguments})\n")
        elif len(vjp.inputs) == 1:
            results.append(f"{function}(xp, g{arguments}) if edges[{i}] is not None else None")
        else:
            if id(vjp) not in joint:
                joint[id(vjp)] = f"j_{x}"
                wanted = " or ".join(f"edges[{place}] is not None" for place in places)
                nothing = f"(None,) * {len(places)}"
                body.append(f"    j_{x} = {function}(xp, g{arguments}) if {wanted} else {nothing}\n")
            results.append(f"{joint[id(vjp)]}[{vjp.inputs.index(x)}]")
    if not record.variadic:
        body.append(f"    return {_tuple(results)}\n")
    return "".join(body)


def public_signature(record: Primitive) -> inspect.Signature:
    """The formula's signature without ``xp``, and with a sequence as one argument."""
    signature = record.signature
    parameters = list(signature.parameters.values())[1:]
    if record.variadic:  # what follows a sequence in the formula is a keyword there
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = [each.replace(kind=kind) for each, kind in zip(parameters, kinds, strict=False)] + (
            parameters[2:]
        )
    return signature.replace(parameters=parameters)
