"""One whole training step of a workload in distgrad, PyTorch and JAX; each imports its library itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .models import build
from .workloads import WORKLOADS

__all__ = ["STEPS"]

LEARNING_RATE = 1e-3

Step = Callable[[], Any]


def unwrapped(model: Any) -> Any:
    """The model as it is."""
    return model


def distgrad_step(
    name: str,
    threads: int,
    device: str = "cpu",
    wrap: Callable[[Any], Any] = unwrapped,
    wait: bool = True,
    part: tuple[int, int] = (0, 1),
    number: int = 0,
    captured: bool = False,
) -> Step:
    """With distgrad's public API, eager or captured; ``wrap`` makes the model data parallel.

    A step ends when it is computed, or without ``wait`` when all of it is queued. It is of the whole batch,
    or of the ``part`` (which, of how many); batches of different ``number`` are of different samples.
    """
    import distgrad as dg
    from distgrad import nn, optim, script
    from distgrad.nn import functional as F

    dg.set_num_threads(threads)
    dg.manual_seed(0)
    work, place = WORKLOADS[name], script.find_device(device)
    model = build(nn, F, dg.scaled_dot_product_attention, name, work.sizes)
    if work.dtype == "float64":
        model.double()
    model = wrap(model.to(place))
    optimizer = optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    x, y = (dg.asarray(array, device=place) for array in work.batch(*part, number))

    def train(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = dg.capture(train) if captured else train

    def step() -> Any:
        loss = run(x, y)
        if wait:
            script.synchronize(place)
        return loss

    return step


def captured_step(name: str, threads: int, device: str = "cpu") -> Step:
    """With distgrad, the step captured and replayed."""
    return distgrad_step(name, threads, device, captured=True)


def torch_step(
    name: str,
    threads: int,
    device: str = "cpu",
    compiled: bool = False,
    wrap: Callable[[Any], Any] = unwrapped,
    wait: bool = True,
    part: tuple[int, int] = (0, 1),
    number: int = 0,
    optimizer_of: Callable[[Any], Any] | None = None,
) -> Step:
    """With PyTorch, eager or compiled; ``wrap``, ``wait``, ``part`` and ``number`` as above.

    ``optimizer_of`` makes the optimizer of parameters; None is AdamW.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    work = WORKLOADS[name]
    model = build(nn, F, F.scaled_dot_product_attention, name, work.sizes)
    if work.dtype == "float64":
        model.double()
    model.to(device)
    forward = torch.compile(model) if compiled else wrap(model)
    parameters = model.parameters()  # which a wrapper may have put in the place of others
    if optimizer_of is None:
        optimizer: Any = torch.optim.AdamW(parameters, lr=LEARNING_RATE, fused=True)
    else:
        optimizer = optimizer_of(parameters)
    x, y = (torch.from_numpy(array).to(device) for array in work.batch(*part, number))

    def step() -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        if wait and x.is_cuda:
            torch.cuda.synchronize()
        return loss

    return step


def compiled_torch_step(name: str, threads: int, device: str = "cpu") -> Step:
    """With PyTorch's compiler."""
    return torch_step(name, threads, device, compiled=True)


def jax_step(name: str, threads: int, device: str = "cpu") -> Step:
    """With JAX, jit and optax; threads are set by the environment that ``step.py`` starts it with."""
    import jax

    from .jax_models import jitted_step

    jax.config.update("jax_default_device", jax.devices("cpu" if device == "cpu" else "gpu")[0])
    return jitted_step(name, WORKLOADS[name])


#: By the name in the tables; the first word of others' is the library that must be installed.
STEPS: dict[str, Callable[[str, int, str], Step]] = {
    "distgrad": distgrad_step,
    "captured": captured_step,
    "torch eager": torch_step,
    "torch compile": compiled_torch_step,
    "jax": jax_step,
}


def join_torch(store: str, rank: int, size: int, backend: str = "gloo") -> None:
    """Have PyTorch's ranks meet at a file."""
    import torch

    meeting = torch.distributed.FileStore(store, size)
    torch.distributed.init_process_group(backend, store=meeting, rank=rank, world_size=size)


def torch_parallel(model: Any) -> Any:
    """PyTorch's DistributedDataParallel, gradients as views of its buckets."""
    import torch

    return torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True, static_graph=True)


def zero_optimizer(parameters: Any) -> Any:
    """PyTorch's ZeroRedundancyOptimizer, whose ranks keep a part of AdamW's state each."""
    import torch
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(
        parameters, torch.optim.AdamW, parameters_as_bucket_view=True, lr=LEARNING_RATE, fused=True
    )


def fully_sharded(model: Any) -> Any:
    """PyTorch's FSDP2: members of lists of modules come and go, as with ``shard="parameters"``."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    lists = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList | torch.nn.Sequential)]
    for each in lists:
        for member in each:
            if any(True for _ in member.parameters()):
                fully_shard(member, mesh=mesh)
    return fully_shard(model, mesh=mesh)
