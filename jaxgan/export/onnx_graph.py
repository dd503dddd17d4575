"""A JAX function as an ONNX model.

The function is traced for a batch of n rows. Equations without an input of the graph are computed
now: tables and codes of noise levels become constants. Loops are unrolled, and every other equation
becomes a node or a few.

Rows never mix. So one row can stand for n equal ones: a constant has it in place of n, and ONNX
repeats it where that is needed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim, symbolic_shape
from jax.extend.core import ClosedJaxpr, Literal
from tqdm import tqdm

_OPSET, _IR = 18, 8
"""Versions of 2022 to 2023, so that older programs read the file too."""

_Value = Any
"""The name of a value in the graph, or an array that is known already."""


class Unsupported(Exception):
    """An equation has no counterpart. The text names its primitive."""


def to_onnx(
    function: Callable[..., jax.Array], inputs: dict[str, tuple[tuple[int, ...], Any]], output: str
) -> Any:
    """The ONNX model of a function.

    Args:
      function: arrays -> an array. The first dimension of each is n. Each row of the result must
        follow from that row of the arrays.
      inputs: the names of its arguments, with their shapes without n, and their types. The graph
        takes int64 for int32.
      output: the name of the result.

    Returns:
      An `onnx.ModelProto`.

    Raises:
      Unsupported: if the function has an operation without a counterpart.
    """
    from onnx import checker, helper

    (n,) = symbolic_shape("n")
    args = [jax.ShapeDtypeStruct((n, *shape), dtype) for shape, dtype in inputs.values()]
    traced = jax.make_jaxpr(function)(*args)
    graph = _Graph(next(iter(inputs)))
    values, declared = [], []
    for name, arg in zip(inputs, args, strict=True):
        integers = arg.dtype == jnp.int32
        declared.append(_value_info(name, arg.shape, np.int64 if integers else arg.dtype))
        values.append(graph.add("Cast", name, to=_onnx_type(np.int32)) if integers else name)
    (result,) = _run(graph, traced.jaxpr, traced.consts, values)
    (aval,) = traced.out_avals
    graph.add("Identity", graph.full(result, aval.shape), outputs=[output])
    made = helper.make_graph(
        graph.nodes,
        "generate",
        declared,
        [_value_info(output, aval.shape, aval.dtype)],
        graph.initializers,
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=_IR, producer_name="jaxgan")
    checker.check_model(model)
    return model


class _Graph:
    """The nodes and constants of a graph that is being made."""

    def __init__(self, first: str):
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._first = first
        self._names: dict[int, str] = {}
        self._by_content: dict[Any, str] = {}
        self._kept: list[Any] = []
        self._rows: str | None = None

    def add(
        self, kind: str, *inputs: _Value, outputs: Sequence[str] = (), **attributes: Any
    ) -> str:
        """Adds a node, and gives the name of its first output."""
        from onnx import helper

        names = [*outputs] or [f"v{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, [*map(self.name, inputs)], names, **attributes))
        return names[0]

    def name(self, value: _Value) -> str:
        """The name of a value. An array becomes a constant, and equal arrays become one."""
        if isinstance(value, str):
            return value
        # A loop uses the same array in each round, so most arrays are read once.
        if id(value) not in self._names:
            self._kept.append(value)  # else another array could get its id
            self._names[id(value)] = self._constant(_plain(np.asarray(value)))
        return self._names[id(value)]

    def _constant(self, array: np.ndarray) -> str:
        from onnx import numpy_helper

        content = (array.dtype.str, array.shape, array.tobytes())
        if content not in self._by_content:
            name = self._by_content[content] = f"c{len(self.initializers)}"
            self.initializers.append(numpy_helper.from_array(array, name))
        return self._by_content[content]

    def ints(self, *values: int) -> np.ndarray:
        """A list of numbers, such as a shape, as nodes take it."""
        return np.array(values, np.int64)

    def full(self, value: _Value, shape: Sequence[Any]) -> str:
        """The value with all n rows. `shape` has a symbol in place of n."""
        if isinstance(value, str):
            return value
        if not any(map(is_symbolic_dim, shape)):
            return self.name(value)
        if self._rows is None:
            sizes = self.add("Shape", self._first)
            self._rows = self.add("Slice", sizes, self.ints(0), self.ints(1))
        sizes = [self._rows if is_symbolic_dim(size) else self.ints(size) for size in shape]
        return self.add("Expand", value, self.add("Concat", *sizes, axis=0))

    def reshaped(self, value: _Value, shape: Sequence[Any]) -> _Value:
        """The value in another shape."""
        if isinstance(value, str):
            return self.add("Reshape", value, self.ints(*_with(shape, -1)))
        return jnp.reshape(value, _with(shape, 1))

    def transposed(self, value: _Value, order: Sequence[int]) -> _Value:
        """The value with its dimensions in another order."""
        if [*order] == sorted(order):
            return value
        if isinstance(value, str):
            return self.add("Transpose", value, perm=[*order])
        return jnp.transpose(value, order)


def _run(graph: _Graph, jaxpr: Any, consts: Sequence[Any], args: Sequence[_Value]) -> list[Any]:
    """Adds the equations of a program to a graph, and gives its results."""
    values: dict[Any, _Value] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, args, strict=True))

    def read(var: Any) -> _Value:
        aval: Any = var.aval
        return jnp.asarray(var.val, aval.dtype) if isinstance(var, Literal) else values[var]

    for equation in jaxpr.eqns:
        results = _run_equation(graph, equation, [read(var) for var in equation.invars])
        values |= dict(zip(equation.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _run_equation(graph: _Graph, equation: Any, args: list[_Value]) -> Sequence[_Value]:
    name, params = equation.primitive.name, equation.params
    inner: Any = params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")
    if name in _CALLS and inner is not None:
        consts = inner.consts if isinstance(inner, ClosedJaxpr) else ()
        return _run(graph, getattr(inner, "jaxpr", inner), consts, args)
    if name == "scan":
        return _run_scan(graph, equation, args)
    in_rows, out_rows = _has_rows(equation.invars), _has_rows(equation.outvars)
    known = not any(isinstance(arg, str) for arg in args)
    if known and not any(in_rows + out_rows) and name != "dim_as_value":  # n as a number
        return _evaluated(equation, args)
    # A sum over the rows, for example, has no rows.
    if name not in _RULES or (any(in_rows) and not all(out_rows)) or _counts_rows(equation):
        raise Unsupported(name)
    if known:
        return _evaluated(equation, args)
    results = _RULES[name](graph, equation, *args)
    return [results] if isinstance(results, str) else results


def _evaluated(equation: Any, args: list[Any]) -> Sequence[Any]:
    """The results of an equation whose arguments are known. One row stands for n."""
    params = {
        name: _with(value, 1) if type(value) is tuple else value
        for name, value in equation.params.items()
    }
    results = equation.primitive.bind(*args, **params)
    return results if equation.primitive.multiple_results else [results]


def _run_scan(graph: _Graph, equation: Any, args: list[_Value]) -> Sequence[_Value]:
    """Unrolls a loop."""
    params, body = equation.params, equation.params["jaxpr"]
    n_consts, n_carry = _scan_sizes(params)
    carry_end = n_consts + n_carry
    consts, carry, stacked = args[:n_consts], args[n_consts:carry_end], args[carry_end:]
    rounds: list[Sequence[_Value]] = []
    order = range(params["length"])
    order = order[::-1] if params["reverse"] else order
    for i in tqdm(order, "unrolling", leave=False, disable=None):
        now = [
            graph.add("Gather", x, np.array(i), axis=0) if isinstance(x, str) else x[i]
            for x in stacked
        ]
        results = _run(graph, body.jaxpr, body.consts, [*consts, *carry, *now])
        carry = results[:n_carry]
        rounds.append(results[n_carry:])
    if params["reverse"]:
        rounds.reverse()
    outputs = body.out_avals[n_carry:]
    columns = zip(zip(*rounds, strict=True), outputs, strict=True)
    return [*carry, *(_stacked(graph, parts, aval.shape) for parts, aval in columns)]


def _scan_sizes(params: Mapping[str, Any]) -> tuple[int, int]:
    """The numbers of constants and of carried values of a loop."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since jax 0.12
    return len(consts), len(carry)


def _stacked(graph: _Graph, parts: Sequence[_Value], shape: Sequence[Any]) -> _Value:
    if not any(isinstance(part, str) for part in parts):
        return jnp.stack([*parts])
    whole = (graph.reshaped(graph.full(part, shape), (1, *shape)) for part in parts)
    return graph.add("Concat", *whole, axis=0)


# What the dimensions of an equation say of rows


def _has_rows(variables: Sequence[Any]) -> list[bool]:
    return [any(map(is_symbolic_dim, var.aval.shape)) for var in variables]


def _counts_rows(equation: Any) -> bool:
    """Whether a dimension has n but is not n alone, such as 2 n; whether two dimensions are n; or
    whether the values depend on the number of their row."""
    for var in [*equation.invars, *equation.outvars]:
        symbols = [str(size) for size in var.aval.shape if is_symbolic_dim(size)]
        if symbols not in ([], ["n"]):
            return True
    if equation.primitive.name != "iota":
        return False
    return is_symbolic_dim(equation.params["shape"][equation.params["dimension"]])


def _before_rows(shape: Sequence[Any]) -> int:
    """The product of the sizes before n."""
    at = next(i for i, size in enumerate(shape) if is_symbolic_dim(size))
    return math.prod(shape[:at])


def _with(sizes: Sequence[Any], rows: int) -> tuple[Any, ...]:
    """The sizes, with a number in place of n."""
    return tuple(rows if is_symbolic_dim(size) else size for size in sizes)


def _shape(variable: Any) -> tuple[Any, ...]:
    return variable.aval.shape


# Types


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(_plain_type(array.dtype))


def _plain_type(dtype: Any) -> np.dtype:
    """The type itself; float32 for bfloat16, in which ONNX Runtime does not compute on CPUs."""
    return np.dtype(np.float32 if dtype == jnp.bfloat16 else dtype)


def _onnx_type(dtype: Any) -> int:
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(_plain_type(dtype))


def _value_info(name: str, shape: Sequence[Any], dtype: Any) -> Any:
    from onnx import helper

    sizes = ["n" if is_symbolic_dim(size) else int(size) for size in shape]
    return helper.make_tensor_value_info(name, _onnx_type(dtype), sizes)


# The rules: (graph, equation, *arguments) -> results


def _node(kind: str, **attributes: Any) -> Callable[..., str]:
    return lambda graph, equation, *args: graph.add(kind, *args, **attributes)


def _chain(*kinds: str) -> Callable[..., str]:
    """Several nodes; each takes the result of the one before."""

    def rule(graph: _Graph, equation: Any, *args: _Value) -> str:
        value = graph.add(kinds[0], *args)
        for kind in kinds[1:]:
            value = graph.add(kind, value)
        return value

    return rule


def _logic(kind: str) -> Callable[..., str]:
    def rule(graph: _Graph, equation: Any, *args: _Value) -> str:
        if equation.invars[0].aval.dtype != bool:
            raise Unsupported(equation.primitive.name)
        return graph.add(kind, *args)

    return rule


def _reduction(kind: str) -> Callable[..., str]:
    def rule(graph: _Graph, equation: Any, x: _Value) -> str:
        return graph.add(kind, x, graph.ints(*equation.params["axes"]), keepdims=0)

    return rule


def _number(graph: _Graph, equation: Any, value: float) -> np.ndarray:
    return np.array(value, _plain_type(equation.invars[0].aval.dtype))


def _convert(graph: _Graph, equation: Any, x: str) -> str:
    old, new = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
    same = _plain_type(old) == _plain_type(new)
    return x if same else graph.add("Cast", x, to=_onnx_type(new))


def _broadcast(graph: _Graph, equation: Any, x: str) -> str:
    old, new = _shape(equation.invars[0]), _shape(equation.outvars[0])
    places = dict(zip(equation.params["broadcast_dimensions"], old, strict=True))
    spread = [places.get(i, 1) for i in range(len(new))]
    x = graph.reshaped(x, spread)
    if spread == [*new]:
        return x
    # A size of 1 keeps that of x.
    return graph.add("Expand", x, graph.ints(*_with(new, 1)))


def _reshape(graph: _Graph, equation: Any, x: str) -> str:
    old, new = _shape(equation.invars[0]), _shape(equation.outvars[0])
    if _before_rows(old) != _before_rows(new):
        raise Unsupported("reshape")  # it would mix rows
    return graph.reshaped(x, new)


def _concatenate(graph: _Graph, equation: Any, *args: _Value) -> str:
    whole = [graph.full(x, _shape(var)) for x, var in zip(args, equation.invars, strict=True)]
    return graph.add("Concat", *whole, axis=equation.params["dimension"])


def _slice(graph: _Graph, equation: Any, x: str) -> str:
    params, shape = equation.params, _shape(equation.invars[0])
    axes = [i for i, size in enumerate(shape) if not is_symbolic_dim(size)]
    steps = params["strides"] or (1,) * len(shape)
    bounds = ([of[i] for i in axes] for of in (params["start_indices"], params["limit_indices"]))
    start, end = (graph.ints(*values) for values in bounds)
    return graph.add(
        "Slice", x, start, end, graph.ints(*axes), graph.ints(*(steps[i] for i in axes))
    )


def _split(graph: _Graph, equation: Any, x: str) -> list[str]:
    axis, at, parts = equation.params["axis"], 0, []
    for size in map(int, equation.params["sizes"]):
        bounds = graph.ints(at), graph.ints(at + size)
        parts.append(graph.add("Slice", x, *bounds, graph.ints(axis)))
        at += size
    return parts


def _pad(graph: _Graph, equation: Any, x: str, value: _Value) -> str:
    low, high, inner = zip(*equation.params["padding_config"], strict=True)
    if any(inner):
        raise Unsupported("pad")
    return graph.add("Pad", x, graph.ints(*low, *high), value)


def _dot(graph: _Graph, equation: Any, x: _Value, y: _Value) -> str:
    """A product of matrices, after both have the shapes [*batch, M, K] and [*batch, K, N]."""
    (x_sum, y_sum), (x_batch, y_batch) = equation.params["dimension_numbers"]
    x_shape, y_shape = map(_shape, equation.invars)
    x_free = [i for i in range(len(x_shape)) if i not in (*x_sum, *x_batch)]
    y_free = [i for i in range(len(y_shape)) if i not in (*y_sum, *y_batch)]
    x = graph.transposed(x, [*x_batch, *x_free, *x_sum])
    y = graph.transposed(y, [*y_batch, *y_sum, *y_free])
    batch = [x_shape[i] for i in x_batch]
    k = math.prod(x_shape[i] for i in x_sum)
    if len(x_free) != 1 or len(x_sum) != 1:
        x = graph.reshaped(x, [*batch, math.prod(x_shape[i] for i in x_free), k])
    if len(y_free) != 1 or len(y_sum) != 1:
        y = graph.reshaped(y, [*batch, k, math.prod(y_shape[i] for i in y_free)])
    product = graph.add("MatMul", x, y)
    if len(x_free) == len(y_free) == 1:
        return product
    return graph.reshaped(product, _shape(equation.outvars[0]))


def _gather(graph: _Graph, equation: Any, x: _Value, indices: _Value) -> str:
    """x[indices] or x[:, indices]; or a part of x that begins at known indices, as x[:, 1:3]."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, places, result = map(_shape, [*equation.invars, *equation.outvars])
    if not isinstance(indices, str) and len(places) == 1:
        starts = dict(zip(numbers.start_index_map, indices.tolist(), strict=True))
        axes = [i for i, size in enumerate(shape) if not is_symbolic_dim(size)]
        bounds = [starts.get(i, 0) for i in axes]
        ends = [start + sizes[i] for start, i in zip(bounds, axes, strict=True)]
        part = graph.add("Slice", x, graph.ints(*bounds), graph.ints(*ends), graph.ints(*axes))
        return graph.reshaped(part, result)
    axis, *others = numbers.collapsed_slice_dims or (None,)
    ones = (*range(axis or 0, (axis or 0) + len(places) - 1),)
    takes_rows = (
        axis is not None
        and not others
        and numbers.start_index_map == (axis,)
        and not numbers.operand_batching_dims
        and sizes == (*shape[:axis], 1, *shape[axis + 1 :])
        and numbers.offset_dims == tuple(i for i in range(len(result)) if i not in ones)
    )
    if not takes_rows:
        raise Unsupported("gather")
    return graph.add("Gather", x, graph.reshaped(indices, places[:-1]), axis=axis)


def _select(graph: _Graph, equation: Any, which: _Value, *cases: _Value) -> str:
    if len(cases) != 2 or equation.invars[0].aval.dtype != bool:
        raise Unsupported("select_n")
    return graph.add("Where", which, cases[1], cases[0])


def _round(graph: _Graph, equation: Any, x: str) -> str:
    if equation.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise Unsupported("round")
    return graph.add("Round", x)


def _clamp(graph: _Graph, equation: Any, low: _Value, x: _Value, high: _Value) -> str:
    return graph.add("Min", graph.add("Max", x, low), high)


def _power(graph: _Graph, equation: Any, x: str) -> str:
    return graph.add("Pow", x, _number(graph, equation, equation.params["y"]))


def _log1p(graph: _Graph, equation: Any, x: str) -> str:
    return graph.add("Log", graph.add("Add", x, _number(graph, equation, 1)))


def _expm1(graph: _Graph, equation: Any, x: str) -> str:
    return graph.add("Sub", graph.add("Exp", x), _number(graph, equation, 1))


def _convolution(graph: _Graph, equation: Any, x: _Value, kernel: _Value) -> str:
    """A convolution, or a transposed one if the images are dilated."""
    params = equation.params
    numbers, strides = params["dimension_numbers"], params["window_strides"]
    low, high = zip(*params["padding"], strict=True)
    options: dict[str, Any] = {"dilations": params["rhs_dilation"]}
    if params["batch_group_count"] != 1 or not isinstance(x, str):
        raise Unsupported("conv_general_dilated")
    x, kernel = (
        graph.transposed(x, numbers.lhs_spec),
        graph.transposed(kernel, numbers.rhs_spec),  # [out, in, *sizes]
    )
    groups, stretch = params["feature_group_count"], params["lhs_dilation"]
    if any(s != 1 for s in stretch):
        if groups != 1 or isinstance(kernel, str) or any(s != 1 for s in strides):
            raise Unsupported("conv_general_dilated")
        reach = [d * (k - 1) for d, k in zip(params["rhs_dilation"], kernel.shape[2:], strict=True)]
        starts = [r - p for r, p in zip(reach, low, strict=True)]
        ends = [r - p for r, p in zip(reach, high, strict=True)]
        kernel = jnp.flip(kernel, range(2, kernel.ndim)).swapaxes(0, 1)
        if min(starts) < 0:
            raise Unsupported("conv_general_dilated")
        options |= {"output_padding": [max(-end, 0) for end in ends]}
        options |= {"strides": stretch, "pads": [*starts, *(max(end, 0) for end in ends)]}
        result = graph.add("ConvTranspose", x, kernel, **options)
    else:
        if min(*low, *high) < 0:
            raise Unsupported("conv_general_dilated")
        options |= {"strides": strides, "pads": [*low, *high], "group": groups}
        result = graph.add("Conv", x, kernel, **options)
    return graph.transposed(result, np.argsort(numbers.out_spec).tolist())


_CALLS = {
    *("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
}
"""Primitives that call an inner program."""
_RULES: dict[str, Callable[..., Any]] = {
    "add": _node("Add"),
    "sub": _node("Sub"),
    "mul": _node("Mul"),
    "div": _node("Div"),
    "max": _node("Max"),
    "min": _node("Min"),
    "pow": _node("Pow"),
    "neg": _node("Neg"),
    "abs": _node("Abs"),
    "sign": _node("Sign"),
    "floor": _node("Floor"),
    "ceil": _node("Ceil"),
    "round": _round,
    "exp": _node("Exp"),
    "log": _node("Log"),
    "log1p": _log1p,
    "expm1": _expm1,
    "sqrt": _node("Sqrt"),
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "square": lambda graph, equation, x: graph.add("Mul", x, x),
    "integer_pow": _power,
    "tanh": _node("Tanh"),
    "logistic": _node("Sigmoid"),
    "erf": _node("Erf"),
    "erfc": lambda graph, equation, x: graph.add(
        "Sub", _number(graph, equation, 1), graph.add("Erf", x)
    ),
    "sin": _node("Sin"),
    "cos": _node("Cos"),
    "eq": _node("Equal"),
    "ne": _chain("Equal", "Not"),
    "lt": _node("Less"),
    "le": _node("LessOrEqual"),
    "gt": _node("Greater"),
    "ge": _node("GreaterOrEqual"),
    "and": _logic("And"),
    "or": _logic("Or"),
    "not": _logic("Not"),
    "clamp": _clamp,
    "select_n": _select,
    "copy": lambda graph, equation, x: x,
    "stop_gradient": lambda graph, equation, x: x,
    "convert_element_type": _convert,
    "reduce_precision": lambda graph, equation, x: x,
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_prod": _reduction("ReduceProd"),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "transpose": lambda graph, equation, x: graph.transposed(x, equation.params["permutation"]),
    "concatenate": _concatenate,
    "slice": _slice,
    "split": _split,
    "pad": _pad,
    "iota": lambda graph, equation: None,  # never an input of the graph: always evaluated
    "dot_general": _dot,
    "gather": _gather,
    "conv_general_dilated": _convolution,
}
"""By the names of primitives. Each treats rows alike, and none mixes them unless it drops n."""
