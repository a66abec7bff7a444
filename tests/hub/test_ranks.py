"""Models on several ranks: what is sharded is written whole by one of them."""

import numpy as np
import pytest
from hub import folders
from safetensors.numpy import load_file

import distgrad as dg


@pytest.mark.ranks(2)
def test_sharded_parameters_are_written_by_rank_0(tmp_path):
    comm = dg.comm.init()
    folder, arrays = folders.make(tmp_path, "gpt2")
    ddp = dg.parallel.DistributedDataParallel(dg.hub.load(folder), shard="parameters")
    state = ddp.state_dict(rank0_only=True)
    if comm.rank == 0:
        dg.hub.save(ddp.module, tmp_path / "back", state_dict=state)
        again = load_file(tmp_path / "back" / "model.safetensors")
        assert again.keys() == arrays.keys()
        assert all(np.array_equal(again[name], arrays[name]) for name in arrays)
        with pytest.raises(dg.StateDictError, match=r"the state dict lacks tokens\.weight"):
            dg.hub.save(ddp.module, tmp_path / "back", state_dict={})
    comm.barrier()
