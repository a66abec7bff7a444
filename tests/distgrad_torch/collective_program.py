"""Every call of ``torch.distributed`` on a few ranks; prints what each rank gets, as JSON lines.

Written for PyTorch, so that its own answers can be had by the same program: ``python collective_program.py
RANK SIZE ADDRESS``.
"""

import datetime
import json
import sys

import torch
import torch.distributed as dist


def listed(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [listed(each) for each in value]
    return value


def own(rank, *shape):
    count = 1
    for n in shape:
        count *= n
    return torch.arange(count, dtype=torch.float32).reshape(shape) + 10 * (rank + 1)


def reductions(rank, size):
    for op in (dist.ReduceOp.SUM, dist.ReduceOp.PRODUCT, dist.ReduceOp.MIN, dist.ReduceOp.MAX):
        x = own(rank, 2, 3)
        dist.all_reduce(x, op)
        yield x
    for op in (dist.ReduceOp.BAND, dist.ReduceOp.BOR, dist.ReduceOp.BXOR):
        x = torch.tensor([rank + 1, 6 - rank])
        dist.all_reduce(x, op=op)
        yield x
    x = own(rank, 3, 2).t()  # not contiguous
    work = dist.all_reduce(x, async_op=True)
    yield work.wait() is not False, x
    x = own(rank, 4)
    dist.reduce(x, dst=size - 1)
    yield x if rank == size - 1 else None
    x = torch.tensor(1.0 + rank)
    dist.all_reduce(x)
    yield x


def gathers(rank, size):
    found = [torch.zeros(2) for _ in range(size)]
    dist.all_gather(found, own(rank, 2))
    yield found
    whole = torch.zeros(size * 2)
    dist.all_gather_into_tensor(whole, own(rank, 2))
    yield whole
    found = [torch.zeros(3) for _ in range(size)] if rank == 0 else None
    dist.gather(own(rank, 3), found, dst=0)
    yield found
    x = torch.zeros(2)
    dist.scatter(x, [own(r, 2) for r in range(size)] if rank == size - 1 else None, src=size - 1)
    yield x
    x = torch.zeros(2)
    dist.reduce_scatter(x, [own(rank, 2) + r for r in range(size)])
    yield x
    x = torch.zeros(2)
    dist.reduce_scatter_tensor(x, own(rank, 2 * size))
    yield x
    sent = [torch.full((1 + rank + r,), float(10 * rank + r)) for r in range(size)]
    found = [torch.zeros(1 + rank + r) for r in range(size)]
    if dist.get_backend() != "gloo" or "distgrad" in torch.__version__:  # gloo has no all_to_all of lists
        dist.all_to_all(found, sent)
    else:
        found = [torch.full((1 + rank + r,), float(10 * r + rank)) for r in range(size)]
    yield found
    x = torch.zeros(size)
    dist.all_to_all_single(x, torch.arange(size) + 10.0 * rank)
    yield x
    x = torch.zeros(sum(r + 1 for r in range(size)))
    dist.all_to_all_single(x, own(rank, size * (rank + 1)), [r + 1 for r in range(size)], [rank + 1] * size)
    yield x


def messages(rank, size):
    x = own(rank, 2) if rank == 0 else torch.zeros(2)
    dist.broadcast(x, src=0)
    yield x
    after, before = (rank + 1) % size, (rank - 1) % size
    x, y = torch.zeros(2), own(rank, 2)
    if size > 1:
        requests = [
            dist.irecv(x, src=before),
            dist.isend(y, dst=after),
        ]  # in the order that could stand still
        for each in requests:
            each.wait()
        yield x
        x = torch.zeros(2)
        operations = [dist.P2POp(dist.irecv, x, before, tag=3), dist.P2POp(dist.isend, y, after, tag=3)]
        for each in dist.batch_isend_irecv(operations):
            each.wait()
        yield x
        if rank == 0:
            dist.send(y, dst=1)
        elif rank == 1:
            yield dist.recv(x, src=0), x


def objects(rank, size):
    found = [None] * size
    dist.all_gather_object(found, {"rank": rank})
    yield found
    found = [rank, "a"] if rank == 0 else [None, None]
    dist.broadcast_object_list(found, src=0)
    yield found
    found = [None] * size if rank == 0 else None
    dist.gather_object((rank,), found, dst=0)
    yield found
    found = [None]
    dist.scatter_object_list(found, [[r, r] for r in range(size)] if rank == 0 else None, src=0)
    yield found


def groups(rank, size):
    few = dist.new_group(sorted({size - 1, 0}))
    yield dist.get_rank(few), dist.get_world_size(few)
    if rank in (0, size - 1):
        x = own(rank, 2)
        dist.all_reduce(x, group=few)
        yield x
        x = own(rank, 2)
        dist.broadcast(x, src=size - 1, group=few)
        yield x, dist.get_global_rank(few, 0), dist.get_group_rank(few, size - 1)
        yield dist.get_process_group_ranks(few)
    mine, every = dist.new_subgroups(1)
    yield dist.get_world_size(mine), len(every)
    dist.barrier()
    dist.monitored_barrier(timeout=datetime.timedelta(seconds=30))


def main():
    rank, size, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    assert dist.is_initialized()
    assert dist.is_available()
    assert (dist.get_rank(), dist.get_world_size(), dist.get_backend()) == (rank, size, "gloo")
    found = {}
    for part in (reductions, gathers, messages, objects, groups):
        found[part.__name__] = [listed(value) for value in part(rank, size)]
    dist.destroy_process_group()
    assert not dist.is_initialized()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
