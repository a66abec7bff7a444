"""``torch.distributed.device_mesh``: ranks in a grid, with groups of them along each of its dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distgrad.autograd.tensor import Tensor
from distgrad.errors import OptionError
from distgrad.torch.distributed.groups import (
    ProcessGroup,
    get_rank,
    get_world_size,
    init_process_group,
    is_initialized,
    new_subgroups_by_enumeration,
)

__all__ = ["DeviceMesh", "init_device_mesh"]


class DeviceMesh:
    """Ranks of the world in a grid; along each dimension, those that differ in it alone are a group.

    Collective: yes; blocks: yes.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``, where the ranks compute.
        mesh: their numbers, a tensor or lists of any depth.
        mesh_dim_names: of the dimensions.

    Raises:
        OptionError: a rank that is there twice or not in the world, or names that are not one a dimension.
    """

    def __init__(self, device_type: str, mesh: Any, *, mesh_dim_names: Sequence[str] | None = None) -> None:
        ranks = np.asarray(mesh._data if isinstance(mesh, Tensor) else mesh, np.int64)
        self._take(device_type, ranks, mesh_dim_names)
        if not is_initialized():
            init_process_group()
        if len(set(ranks.flat)) != ranks.size or not set(ranks.flat) <= set(range(get_world_size())):
            raise OptionError(
                f"DeviceMesh: mesh must hold ranks of the world's {get_world_size()}, each once, "
                f"got {ranks.tolist()}"
            )
        for dim, length in enumerate(ranks.shape):
            lines = np.moveaxis(ranks, dim, -1).reshape(-1, length).tolist()
            own, every = new_subgroups_by_enumeration(lines)
            self._groups.append(own)
            self._all_groups.append(every)

    def _take(self, device_type: str, ranks: np.ndarray, names: Sequence[str] | None) -> None:
        names = None if names is None else tuple(names)
        if names is not None and (len(names) != ranks.ndim or len(set(names)) != len(names)):
            raise OptionError(f"DeviceMesh: mesh_dim_names must be {ranks.ndim} different names, got {names}")
        self.device_type, self.mesh_dim_names, self._ranks = device_type, names, ranks
        self._groups: list[ProcessGroup | None] = []
        self._all_groups: list[list[ProcessGroup]] = []

    @property
    def mesh(self) -> Tensor:
        """The ranks' numbers."""
        return Tensor(self._ranks.copy())

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dimensions."""
        return self._ranks.shape

    @property
    def ndim(self) -> int:
        """How many dimensions there are."""
        return self._ranks.ndim

    def size(self, mesh_dim: int | None = None) -> int:
        """How many ranks there are, or along one dimension."""
        return math.prod(self.shape) if mesh_dim is None else self.shape[mesh_dim]

    def get_rank(self) -> int:
        """This process's number in the world."""
        return get_rank()

    def get_coordinate(self) -> list[int] | None:
        """This rank's place along each dimension; None where it is not in the mesh."""
        places = np.argwhere(self._ranks == get_rank())
        return places[0].tolist() if len(places) else None

    def get_local_rank(self, mesh_dim: int | str | None = None) -> int:
        """This rank's place along a dimension."""
        return get_rank(self.get_group(mesh_dim))

    def get_group(self, mesh_dim: int | str | None = None) -> Any:
        """This rank's group along a dimension, by its number or name; the only one's by default.

        Raises:
            OptionError: no such dimension, or none said of several.
        """
        return self._groups[self._dim(mesh_dim)]

    def get_all_groups(self) -> list[Any]:
        """This rank's groups along all dimensions."""
        return list(self._groups)

    def _dim(self, dim: int | str | None) -> int:
        if dim is None and self.ndim == 1:
            return 0
        if isinstance(dim, int) and -self.ndim <= dim < self.ndim:
            return dim
        if isinstance(dim, str) and self.mesh_dim_names and dim in self.mesh_dim_names:
            return self.mesh_dim_names.index(dim)
        raise OptionError(
            f"DeviceMesh: mesh_dim must be one of {self.ndim} dimensions"
            f"{f', {self.mesh_dim_names}' if self.mesh_dim_names else ''}, got {dim!r}"
        )

    def __getitem__(self, names: str | Sequence[str]) -> DeviceMesh:
        """The mesh of some dimensions, by their names, that this rank is in."""
        names = (names,) if isinstance(names, str) else tuple(names)
        dims = [self._dim(str(name)) for name in names]
        own = self.get_coordinate() or [0] * self.ndim
        where = tuple(slice(None) if dim in dims else own[dim] for dim in range(self.ndim))
        found: DeviceMesh = object.__new__(DeviceMesh)
        kept = sorted(dims)
        found._take(self.device_type, self._ranks[where].transpose([kept.index(dim) for dim in dims]), names)
        found._groups = [self._groups[dim] for dim in dims]
        return found

    def __repr__(self) -> str:
        names = "" if self.mesh_dim_names is None else f", mesh_dim_names={self.mesh_dim_names}"
        return f"DeviceMesh('{self.device_type}', {self._ranks.tolist()}{names})"


def init_device_mesh(
    device_type: str, mesh_shape: Sequence[int], *, mesh_dim_names: Sequence[str] | None = None
) -> DeviceMesh:
    """The first ranks of the world in a grid of a shape, the last dimension's side by side.

    Collective: yes; blocks: yes.

    Args:
        device_type: as of :class:`DeviceMesh`, and so is ``mesh_dim_names``.
        mesh_shape: lengths of the dimensions.
    """
    if not is_initialized():
        init_process_group()
    shape = tuple(mesh_shape)
    if math.prod(shape) > get_world_size():
        raise OptionError(
            f"init_device_mesh: a mesh of {' x '.join(map(str, shape))} takes more ranks than the world's "
            f"{get_world_size()}"
        )
    return DeviceMesh(device_type, np.arange(math.prod(shape)).reshape(shape), mesh_dim_names=mesh_dim_names)
