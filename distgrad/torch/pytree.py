"""Containers in containers, taken apart and put together again: ``torch.utils._pytree``.

Nodes are dicts, lists, tuples, named tuples, deques and what :func:`register_pytree_node` was given; all else
is a leaf, None too.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distgrad.errors import OptionError

__all__ = [
    "SUPPORTED_NODES", "LeafSpec", "NodeDef", "PyTree", "TreeSpec", "register_pytree_node", "tree_all",
    "tree_any", "tree_flatten", "tree_is_leaf", "tree_leaves", "tree_map", "tree_map_", "tree_map_only",
    "tree_structure", "tree_unflatten",
]  # fmt: skip

PyTree = Any

_Apart = Callable[[Any], tuple[list[Any], Any]]
_Together = Callable[[Iterable[Any], Any], Any]


def _dict_apart(tree: Any) -> tuple[list[Any], Any]:
    return list(tree.values()), list(tree)


class NodeDef(NamedTuple):
    """What takes a node apart, into its children and what else it is, and puts it together again."""

    flatten_fn: _Apart
    unflatten_fn: _Together


#: By class; all named tuples are of one.
SUPPORTED_NODES: dict[Any, NodeDef] = {
    dict: NodeDef(_dict_apart, lambda values, keys: dict(zip(keys, values, strict=True))),
    OrderedDict: NodeDef(_dict_apart, lambda values, keys: OrderedDict(zip(keys, values, strict=True))),
    defaultdict: NodeDef(
        lambda tree: (list(tree.values()), (tree.default_factory, list(tree))),
        lambda values, given: defaultdict(given[0], zip(given[1], values, strict=True)),
    ),
    list: NodeDef(lambda tree: (list(tree), None), lambda values, _: list(values)),
    tuple: NodeDef(lambda tree: (list(tree), None), lambda values, _: tuple(values)),
    namedtuple: NodeDef(lambda tree: (list(tree), type(tree)), lambda values, kind: kind(*values)),
    deque: NodeDef(lambda tree: (list(tree), tree.maxlen), deque),
}


def register_pytree_node(
    cls: type, flatten_fn: _Apart, unflatten_fn: _Together, **options: Any
) -> None:  # fmt: skip
    """Let instances of a class be nodes.

    Args:
        cls: the class.
        flatten_fn: makes of an instance its children and whatever puts them together.
        unflatten_fn: makes an instance of the two.
        options: names for serialization, which is not here.
    """
    SUPPORTED_NODES[cls] = NodeDef(flatten_fn, unflatten_fn)


def _get_node_type(tree: Any) -> Any:
    """The class that a tree is a node of, if it is one: its own, and ``namedtuple`` for all of those."""
    named = isinstance(tree, tuple) and hasattr(tree, "_fields") and type(tree) not in SUPPORTED_NODES
    return namedtuple if named else type(tree)


@dataclass(frozen=True)
class TreeSpec:
    """What a tree is apart from its leaves.

    Attributes:
        type: of the node, ``namedtuple`` for all of those; None for a leaf.
        context: what its children are put together with.
        children_specs: of each child.
    """

    type: Any = None
    context: Any = None
    children_specs: Sequence[TreeSpec] = ()

    @property
    def num_leaves(self) -> int:
        """How many leaves it has."""
        return 1 if self.type is None else sum(each.num_leaves for each in self.children_specs)

    def is_leaf(self) -> bool:
        """Whether it is one leaf."""
        return self.type is None


LeafSpec = TreeSpec


def tree_is_leaf(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> bool:
    """Whether it is no node."""
    return _get_node_type(tree) not in SUPPORTED_NODES or bool(is_leaf is not None and is_leaf(tree))


def tree_flatten(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> tuple[list[Any], TreeSpec]:
    """The leaves of a tree, and its structure.

    Args:
        tree: containers in containers.
        is_leaf: says of a node whether it counts as a leaf.
    """
    if tree_is_leaf(tree, is_leaf):
        return [tree], LeafSpec()
    kind = _get_node_type(tree)
    children, context = SUPPORTED_NODES[kind].flatten_fn(tree)
    parts = [tree_flatten(each, is_leaf) for each in children]
    leaves = [leaf for part, _ in parts for leaf in part]
    return leaves, TreeSpec(kind, context, tuple(spec for _, spec in parts))


def tree_unflatten(leaves: Iterable[Any], treespec: TreeSpec) -> Any:
    """The tree of a structure with these leaves.

    Raises:
        OptionError: more or fewer leaves than it has.
    """
    given = list(leaves)
    if len(given) != treespec.num_leaves:
        raise OptionError(f"tree_unflatten: expected {treespec.num_leaves} leaves, got {len(given)}")
    if treespec.type is None:
        return given[0]
    children, start = [], 0
    for spec in treespec.children_specs:
        stop = start + spec.num_leaves
        children.append(tree_unflatten(given[start:stop], spec))
        start = stop
    return SUPPORTED_NODES[treespec.type].unflatten_fn(children, treespec.context)


def tree_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    """The leaves."""
    return tree_flatten(tree, is_leaf)[0]


def tree_structure(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> TreeSpec:
    """The structure."""
    return tree_flatten(tree, is_leaf)[1]


def tree_map(
    func: Callable[..., Any], tree: Any, *rests: Any, is_leaf: Callable[[Any], bool] | None = None
) -> Any:
    """The tree with each leaf changed; of several trees of one structure, by their leaves together.

    Raises:
        OptionError: trees of different structures.
    """
    leaves, spec = tree_flatten(tree, is_leaf)
    others = [tree_flatten(each, is_leaf) for each in rests]
    for _, other in others:
        if other != spec:
            raise OptionError(f"tree_map: expected trees of one structure, got {spec} and {other}")
    return tree_unflatten(map(func, leaves, *[each for each, _ in others]), spec)


def tree_map_(func: Callable[..., Any], tree: Any, *rests: Any) -> Any:
    """Call a function with each leaf, and return the tree as it is."""
    tree_map(func, tree, *rests)
    return tree


def tree_map_only(kind: Any, func: Callable[[Any], Any], tree: Any) -> Any:
    """As :func:`tree_map`, leaves of other types left as they are."""
    return tree_map(lambda leaf: func(leaf) if isinstance(leaf, kind) else leaf, tree)


def tree_any(pred: Callable[[Any], bool], tree: Any) -> bool:
    """Whether it holds for any leaf."""
    return any(map(pred, tree_leaves(tree)))


def tree_all(pred: Callable[[Any], bool], tree: Any) -> bool:
    """Whether it holds for all leaves."""
    return all(map(pred, tree_leaves(tree)))
