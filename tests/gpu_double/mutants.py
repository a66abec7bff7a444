"""Deliberate faults in the GPU path, each with the test that must fail on it.

``python -m pytest tests/gpu_double/test_mutants.py`` puts each into a copy of the package and runs its test
there; a text that has gone from the source is a failure too, so that the list keeps up.
"""

from __future__ import annotations

from mutation import Mutant

_DOUBLE = "tests/gpu_double"
_VERB = f"{_DOUBLE}/test_orders.py::test_a_verb_stands_between_what_was_before_and_what_comes_after"
_DROPPED = f"{_DOUBLE}/test_orders.py::test_what_is_under_way_may_be_dropped"
_COPIES = f"{_DOUBLE}/test_orders.py::test_copies"
_DDP = f"{_DOUBLE}/test_ddp.py::test"
_PLAYED = f"{_DOUBLE}/test_graphed.py::test_a_played_step_leaves_the_bits_of_an_eager_one[AdamW-8]"
_LENT = f"{_DOUBLE}/test_orders.py::test_memory_that_another_stream_reads_is_kept_until_it_has[late]"
_ONE = "tests/backend/test_lending.py::test_memory_is_kept_until_its_stream_is_done"
_ALL = "tests/backend/test_lending.py::test_all_streams_are_waited_for_in_any_order"
_BUS = f"{_DOUBLE}/test_communicator.py::test_a_rank_whose_gpu_falls_off_the_bus_is_named"
_GRAPHS, _LENDING = "backend/graphs.py", "backend/lending.py"
_BUCKETS, _REDUCER = "parallel/buckets.py", "parallel/reducer.py"
_NCCL, _WORK, _LIB = "comm/nccl.py", "comm/streamwork.py", "comm/libnccl.py"
_VERBS = "comm/ncclverbs.py"
_CUDA = "backend/kernels/cuda"
_NUMBERS, _KERNELS = f"{_CUDA}/numbers.cuh", "tests/backend/test_cuda_kernels.py"
_CUDNN, _CUDNN_CONV = "backend/cudnn.py", "backend/cudnn_conv.py"
_LIBRARY = f"{_DOUBLE}/test_cudnn.py"
_CUPY, _STREAMS = "backend/cupy.py", "backend/streams.py"
_ON_HOST, _OFFLOAD = "autograd/hostmasters.py", f"{_DOUBLE}/test_offload.py"

MUTANTS = (
    Mutant(
        "missing wait", "a collective does not wait for the caller's stream", _VERBS,
        "            self.stream.wait_stream(current_stream(self.device))\n", "            pass\n",
        f"{_VERB}[all_reduce-early]", every_run=True,
    ),
    Mutant(
        "missing wait", "the caller's stream does not wait for the collective", _WORK,
        "            current_stream(self._comm.device).wait_event(self._end)\n", "            pass\n",
        f"{_VERB}[all_reduce-late]",
    ),
    Mutant(
        "missing wait", "a stream does not wait for an event", _STREAMS,
        "            self.native.wait_event(event.native)\n", "            pass\n",
        f"{_DOUBLE}/test_orders.py::test_a_stream_waits_for_another_and_for_an_event[late]",
    ),
    Mutant(
        "missing wait", "gathered rows are cut before they have come", _VERBS,
        "            current_stream(self.device).wait_stream(self.stream)\n", "            pass\n",
        f"{_VERB}[all_gather_v-late]",
    ),
    Mutant(
        "missing wait", "a barrier does not wait for the device", _NCCL,
        "        self.stream.synchronize()\n        self.check_failure", "        self.check_failure",
        f"{_DOUBLE}/test_orders.py::test_a_barrier_ends_when_the_device_has_finished[late]",
    ),
    Mutant(
        "missing wait", "a copy to the host is handed out before it is there", _CUPY,
        "            if not non_blocking:\n", "            if False:\n",
        f"{_DOUBLE}/test_orders.py::test_copies_to_the_host[late]",
    ),
    Mutant(
        "missing record", "the end of a collective is not recorded", _WORK,
        "        self._end.record(comm.stream)\n", "",
        f"{_VERB}[all_reduce-late]",
    ),
    Mutant(
        "missing record", "the end is recorded before the collective is queued", _WORK,
        "        self._result = self._body()\n        self._end.record(comm.stream)\n",
        "        self._end.record(comm.stream)\n        self._result = self._body()\n",
        f"{_VERB}[all_reduce-late]", every_run=True,
    ),
    Mutant(
        "missing record", "an event is recorded on the current stream, not on the named one", _STREAMS,
        "            self.native.record(stream.native)\n",
        "            self.native.record(current_stream(self.device).native)\n",
        f"{_VERB}[all_reduce-late]",
    ),
    Mutant(
        "buffer freed early", "what a collective reads is not held", _WORK,
        "        self._held: Any = body\n", "        self._held: Any = None\n",
        f"{_DROPPED}[reduce_scatter-late]", every_run=True,
    ),
    Mutant(
        "buffer freed early", "what is under way is let go of at the first look", _WORK,
        "        while works and works[0].done():\n", "        while works:\n",
        f"{_DROPPED}[all_gather-late]",
    ),
    Mutant(
        "buffer freed early", "a pinned array is not held until it is sent", _CUPY,
        "            self._under_way.append((_record(), array))\n", "",
        f"{_DOUBLE}/test_orders.py::test_a_pinned_tensor_is_sent_from_where_it_lies_and_kept_until_then",
    ),
    Mutant(
        "wrong stream", "an all-reduce runs on the default stream", _VERBS,
        "self._link.all_reduce(_address(x), _address(x), x.size, number, OPS[op], self.stream.handle)",
        "self._link.all_reduce(_address(x), _address(x), x.size, number, OPS[op], 0)",
        f"{_VERB}[all_reduce-late]",
    ),
    Mutant(
        "wrong stream", "the arithmetic of a mean runs on the caller's stream", _VERBS,
        "            with self.stream:\n                yield\n", "            yield\n",
        f"{_VERB}[weighted mean-late]",
    ),
    Mutant(
        "wrong operator", "a mean is called a sum", _LIB,
        '"mean": 4', '"mean": 0',
        f"{_DOUBLE}/test_communicator.py::test_reductions[cupy]",
    ),
    Mutant(
        "hidden order", "the communication stream waits for the default stream", _CUPY,
        "cp.cuda.Stream(non_blocking=True, priority=priority)",
        "cp.cuda.Stream(non_blocking=False, priority=priority)",
        f"{_DOUBLE}/test_orders.py::test_the_communication_stream_waits_for_nobody_but_where_told[late]",
    ),
    Mutant(
        "hidden sync", "a weight is read back from the device", _VERBS,
        "            if weight:\n", "            if float(total):\n",
        f"{_DOUBLE}/test_orders.py::test_the_host_waits_for_nothing_in_a_verb[late]", every_run=True,
    ),
    Mutant(
        "hidden sync", "a collective ends with a wait of the host", _WORK,
        "        self._body = None\n\n    def done",
        "        self._body = None\n        comm.stream.synchronize()\n\n    def done",
        f"{_DOUBLE}/test_orders.py::test_the_host_waits_for_nothing_in_a_verb[late]",
    ),
    Mutant(
        "hidden sync", "a step reads its gradient norm back", "nn/utils/gradients.py",
        "    if isinstance(total_norm, Tensor) and not at_hand(total_norm):\n", "    if False:\n",
        "tests/gpu/test_released_cupy.py::test_check[a_step_waits_for_nothing]",
    ),
    Mutant(
        "host and device", "a host array is passed on to NCCL", _VERBS,
        '        if isinstance(x, np.ndarray) or not hasattr(x, "dtype") '
        'or (found := device_of(x)).kind == "cpu":\n',
        "        found = self.device\n        if False:\n",
        f"{_DOUBLE}/test_communicator.py::test_what_it_does_not_take",
    ),
    Mutant(
        "host and device", "an operation does not look where its arrays lie", "autograd/failures.py",
        "        if other != first:\n", "        if False:\n",
        "tests/gpu/test_released_cupy.py::test_check[mixing_is_refused]",
    ),
    Mutant(
        "wrong device", "a call runs on the caller's device, not on its array's", _NCCL,
        "        with activated(self.device):\n            try:\n                work =",
        "        with contextmanager(lambda: iter([None]))():\n            try:\n                work =",
        f"{_DOUBLE}/test_orders.py::test_a_view_a_foreign_device_and_a_second_group[late]",
    ),
    Mutant(
        "wrong device", "arrays are made on the current device, not on the one asked for", _CUPY,
        "        with cp.cuda.Device(index):\n            is_pinned",
        "        if True:\n            is_pinned",
        f"{_DOUBLE}/test_orders.py::test_a_tensor_lies_where_it_was_asked_for[late]",
    ),
    Mutant(
        "wrong pointer", "a view is sent from where its memory begins", _VERBS,
        "    return int(x.data.ptr)", "    return int(x.data.mem.ptr)",
        f"{_DOUBLE}/test_orders.py::test_a_view_a_foreign_device_and_a_second_group[late]",
    ),
    Mutant(
        "wrong dtype", "float32 is called int32", _LIB,
        '"float32": 7', '"float32": 2',
        f"{_DOUBLE}/test_communicator.py::test_reductions[cupy]",
    ),
    Mutant(
        "wrong dtype", "minimum and maximum change places", _LIB,
        '"max": 2, "min": 3', '"max": 3, "min": 2',
        f"{_DOUBLE}/test_communicator.py::test_reductions[pynccl]",
    ),
    Mutant(
        "wrong count", "bytes are counted, not elements", _VERBS,
        "_address(x), _address(x), x.size, number, OPS[op]",
        "_address(x), _address(x), x.nbytes, number, OPS[op]",
        f"{_DOUBLE}/test_orders.py::test_a_view_a_foreign_device_and_a_second_group[late]", every_run=True,
    ),
    Mutant(
        "wrong count", "pynccl's counts stay at 32 bits", _LIB,
        "        elif _COUNTS.get(name) == place:\n", "        elif False:\n",
        "tests/comm/test_libnccl.py::test_the_table_is_repaired",
    ),
    Mutant(
        "wrong count", "pynccl's unique id stays at 512 bytes", _LIB,
        '        if getattr(kind, "__name__", "") == "ncclUniqueId":\n', "        if False:\n",
        "tests/comm/test_libnccl.py::test_the_table_is_repaired",
    ),
    Mutant(
        "wrong layout", "a transposed array is taken as it lies", "comm/arrays.py",
        "    if not x.flags.c_contiguous:\n", "    if False:\n",
        f"{_DOUBLE}/test_communicator.py::test_what_it_does_not_take",
    ),
    Mutant(
        "missing group", "sends and receives of an exchange do not start together", _VERBS,
        "            with self.provider.group():\n", "            if True:\n",
        f"{_DOUBLE}/test_communicator.py::test_parts_that_no_buffer_holds_are_exchanged",
    ),
    Mutant(
        "missing check", "ranks do not compare their calls", _NCCL,
        "self._ledger.write(call):\n", "False:\n",
        f"{_DOUBLE}/test_communicator.py::test_a_call_that_differs_is_reported_with_both_lines[op-5]",
    ),
    Mutant(
        "missing check", "a rank that has ended is not noticed", _WORK,
        "        gone = comm.host.gone()", "        gone = []",
        f"{_DOUBLE}/test_communicator.py::test_a_killed_rank_is_named",
    ),
    Mutant(
        "missing abort", "what waits for a rank that has ended goes on waiting", _NCCL,
        "            self._link.abort()\n", "            pass\n",
        f"{_DOUBLE}/test_communicator.py::test_a_killed_rank_is_named",
    ),
    Mutant(
        "missing wait", "backward's end does not wait for the buckets", _BUCKETS,
        "                if work is not None:\n                    work.wait()\n", "                pass\n",
        f"{_DDP}_training_equals_one_process_and_the_host_never_waits[2 late]",
    ),
    Mutant(
        "hidden wait", "a bucket's tail lies on the device, and the host reads it", _BUCKETS,
        "hook is None and device == CPU and", "hook is None and",
        f"{_DDP}_training_equals_one_process_and_the_host_never_waits[2 late]",
    ),
    Mutant(
        "stale numbers", "what lies in the place of a gradient that there is not is summed", _BUCKETS,
        "            if not used:\n                self.gradients[where] = 0\n", "",
        f"{_DDP}_parameters_that_some_or_all_ranks_do_not_use[2 early]",
    ),
    Mutant(
        "missing call", "each rank keeps its own weights and flags", _REDUCER,
        "                tail[:] = joined[start : start + len(tail)]\n", "",
        f"{_DDP}_training_equals_one_process_and_the_host_never_waits[2 late]",
    ),
    Mutant(
        "hidden sync", "batch norm that averages reads its counter back", "nn/functional/normalization.py",
        "        momentum = 1.0 / batches\n", "        momentum = float(1.0 / batches)\n",
        "tests/gpu/test_fake_device.py::test_module[BatchNorm1d_averaged]",
    ),
    Mutant(
        "hidden sync", "the largest elements are found by CuPy's own partition", _CUPY,
        "cp.argsort(x, axis=axis)  # CuPy's own", "cp.argpartition(x, kth, axis=axis)  # CuPy's own",
        f"{_DDP}_hooks_do_what_they_do_on_the_host[TopK-2 early]",
    ),
    Mutant(
        "buffer freed early", "pinned memory is handed out before a copy has arrived in it", _CUPY,
        "            self._under_way.append((_record(), memory))", "            pass",
        f"{_COPIES}[a_copy_that_was_dropped_is_in_nobody_s_way-late]",
    ),
    Mutant(
        "missing wait", "a copy between devices does not wait for what computes its source", _CUPY,
        "            cp.cuda.get_current_stream().wait_event(ready)\n", "",
        f"{_COPIES}[copies_between_devices_follow_both_streams-late]",
    ),
    Mutant(
        "buffer freed early", "the source of a copy between devices is not kept until it is sent", _CUPY,
        "            cp.cuda.get_current_stream().wait_event(sent)", "            pass",
        f"{_COPIES}[copies_between_devices_follow_both_streams-early]",
    ),
    Mutant(
        "error swallowed", "the watchdog ends where a GPU that has failed refuses it an answer", _WORK,
        "except Exception as error:  # a GPU that", "except ImportError as error:  # a GPU that",
        f"{_DOUBLE}/test_communicator.py::test_a_gpu_that_fails_under_the_watchdog_is_reported",
    ),
    Mutant(
        "error swallowed", "what pynccl's NCCL refuses does not end the group", _LIB,
        "                raise NcclError(f", "                raise CommError(f",
        f"{_DOUBLE}/test_communicator.py::test_what_nccl_refuses_ends_the_group[pynccl]",
    ),
    Mutant(
        "stale numbers", "what changes from step to step is not sent before a replay", _GRAPHS,
        "        self._table[: self._count].set(self._host[: self._count])\n", "",
        _PLAYED, every_run=True,
    ),
    Mutant(
        "stale numbers", "a generator's place is that of the recording", _GRAPHS,
        "        self._host[:_WORDS].view(np.uint64)[:] = words\n", "",
        _PLAYED,
    ),
    Mutant(
        "stale numbers", "what Python counts a step is not counted in a replay", _GRAPHS,
        "            effect()\n", "            pass\n",
        _PLAYED,
    ),
    Mutant(
        "wrong pointer", "two kinds of numbers share a place in the table", _GRAPHS,
        "        self._count = place.stop\n", "",
        _PLAYED,
    ),
    Mutant(
        "missing check", "what follows a condition is played whatever it is", _GRAPHS,
        "            if is_true:\n", "            if True:\n",
        _PLAYED,
    ),
    Mutant(
        "missing check", "a generator of one's own is written down as if it were the default one", _GRAPHS,
        "        if state[:2] != self._state[:2]:\n", "        if False:\n",
        f"{_DOUBLE}/test_graphed.py::test_what_no_replay_could_do_again_is_refused[late]",
    ),
    Mutant(
        "buffer freed early", "a graph's memory is handed out to others", _CUPY,
        "cp.cuda.MemoryPool().malloc)", "cp.cuda.get_allocator())",
        f"{_DOUBLE}/test_graphed.py::test_what_a_step_makes_is_nobody_else_s[late]",
    ),
    Mutant(
        "buffer freed early", "what a stream reads is let go of before it has read", _LENDING,
        "if not all(event.done for event in each[0])]", "if False]",
        _ONE,
    ),
    Mutant(
        "buffer freed early", "one of the streams that read is waited for, not all", _LENDING,
        "if not all(event", "if not any(event",
        _ALL,
    ),
    Mutant(
        "buffer freed early", "a second stream that reads is not noted", _LENDING,
        "            if stream not in streams:\n", "            if not streams:\n",
        _ALL,
    ),
    Mutant(
        "memory kept", "what is lent is never looked at again", _LENDING,
        "<= _NOBODY_ELSE:", "< _NOBODY_ELSE:",
        _LENT,
    ),
    Mutant(
        "error swallowed", "a call on a GPU that is lost is none of the group's", _NCCL,
        "        elif is_cuda:\n            self.fail(", "        elif is_cuda:\n            print(",
        f"{_BUS}[the next call]",
    ),
    Mutant(
        "error swallowed", "a wait for a GPU that is lost is none of the group's", _WORK,
        "            self._comm.fail(self._comm.device_failure(error))\n", "            raise\n",
        f"{_BUS}[a wait]",
    ),
    Mutant(
        "wrong order", "where a GPU sits is asked when it is lost", _NCCL,
        "{error} ({self._seat}; the", "{error} ({_seat_of(self.device, self.host)}; the",
        f"{_BUS}[the watchdog]",
    ),
    Mutant(
        "missing wait", "a block's sum is read before all warps have written theirs", _NUMBERS,
        "room[threadIdx.x / WARP] = value;\n  __syncthreads();\n", "room[threadIdx.x / WARP] = value;\n",
        f"{_KERNELS}::test_results_of_batch_norm_that_nothing_uses_have_no_gradient",
    ),
    Mutant(
        "missing wait", "the block that comes first adds up what the others have not written", _NUMBERS,
        "return before + 1 == blocks;", "return before == 0;",
        f"{_KERNELS}::test_sums_over_rows_and_images[layer_norm]",
    ),
    Mutant(
        "wrong sum", "runs of a channel have one mean", f"{_CUDA}/batch.cu",
        "total += part[width * k + 1] + size * d * d;", "total += part[width * k + 1];",
        f"{_KERNELS}::test_results_of_batch_norm_that_nothing_uses_have_no_gradient",
    ),
    Mutant(
        "stale numbers", "a channel's gradient forgets that its runs' means differ", f"{_CUDA}/batch.cu",
        "slope += part[width * k + 3] + d * part[width * k + 2];", "slope += part[width * k + 3];",
        f"{_KERNELS}::test_results_of_batch_norm_that_nothing_uses_have_no_gradient",
    ),
    Mutant(
        "wrong sum", "runs of a row have one mean", f"{_CUDA}/group.cu",
        "total += part[2 * k + 1] + size * d * d;", "total += part[2 * k + 1];",
        f"{_KERNELS}::test_sums_over_rows_and_images[group_norm]",
    ),
    Mutant(
        "wrong sum", "what the piece in which a run begins holds of it is left out", f"{_CUDA}/scatter.cu",
        "i64 q = p + lane; j < width", "i64 q = p + 1 + lane; j < width",
        f"{_KERNELS}::test_a_row_that_nearly_all_indices_name_is_added_up_by_many_threads[3]",
    ),
    Mutant(
        "wrong order", "a digit's place forgets what smaller ones take", f"{_CUDA}/scatter.cu",
        "next[threadIdx.x] = smaller + counts", "next[threadIdx.x] = counts",
        f"{_KERNELS}::test_rows_of_a_table_add_up_by_index[f-shape1-3-33]",
    ),
    Mutant(
        "wrong pointer", "what is left behind the last pack is read from the beginning", f"{_CUDA}/packs.cuh",
        "store(y + i, f(widen(x[i])));", "store(y + i, f(widen(x[rest])));",
        f"{_KERNELS}::test_functions_of_an_element_over_parts_that_begin_anywhere[f-aligned-31]",
    ),
    Mutant(
        "wrong pointer", "images of a turned gradient change places with its channels", f"{_CUDA}/conv.cu",
        "size + i] = g[(n * outputs + o) * size + i];", "size + i] = g[(o * images + n) * size + i];",
        f"{_KERNELS}::test_sums_over_rows_and_images[convolution]",
    ),
    Mutant(
        "wrong pointer", "a plan is taken for addresses that are less aligned", "backend/cublaslt.py",
        "tuple(map(_alignment, (a, b, d)))", "(_ALIGNED,) * 3",
        f"{_DOUBLE}/test_biases.py::test_addresses_that_are_less_aligned_have_plans_of_their_own[1]",
    ),
    Mutant(
        "wrong operator", "a bias is summed where it should be added", "backend/cublaslt.py",
        "_ADD_BIAS, _SUM_B = 4, 512", "_ADD_BIAS, _SUM_B = 512, 4",
        f"{_DOUBLE}/test_biases.py::test_a_bias_and_its_gradient_are_part_of_the_products[plain-f]",
    ),
    Mutant(
        "error swallowed", "what cuBLASLt answers is not looked at", "backend/cublaslt.py",
        '    _check("cublasLtMatmul", status)\n', "",
        f"{_DOUBLE}/test_biases.py::test_an_answer_that_is_no_refusal_is_an_error",
    ),
    Mutant(
        "missing wait", "the next terms overwrite those that others still read", f"{_CUDA}/recurrent.cu",
        "gate[k] += left[r][j] * right[k * TILE + u][j];\n    __syncthreads();\n",
        "gate[k] += left[r][j] * right[k * TILE + u][j];\n",
        f"{_KERNELS}::test_steps_of_lstm_with_a_product_of_any_size",
    ),
    Mutant(
        "wrong pointer", "matrices of a stack are counted along the wrong axis", f"{_CUDA}/attention.cu",
        "at.quotient * s.outer_step[a] + at.rest * s.inner_step[a]",
        "at.rest * s.outer_step[a] + at.quotient * s.inner_step[a]",
        f"{_DOUBLE}/test_stacks.py::test_layouts_have_the_same_results",
    ),
    Mutant(
        "wrong layout", "parts that lie unevenly apart are taken for one array", "backend/neighbours.py",
        " or (count > 1 and behind != count * step)", "",
        "tests/backend/test_neighbours.py::test_others_are_not",
    ),
    Mutant(
        "wrong layout", "a result is described in another order than it lies", _CUDNN_CONV,
        "out.set_dim(list(shape)).set_stride(steps_of(shape))",
        "out.set_dim(list(shape)).set_stride(steps_of(shape)[::-1])",
        f"{_LIBRARY}::test_convolutions_and_their_gradients[plain-f]",
    ),
    Mutant(
        "wrong pointer", "an address that no plan is made for is passed on", _CUDNN_CONV,
        "        if not _is_aligned(array):\n",
        "        if False:\n",
        f"{_LIBRARY}::test_views_at_any_address_and_in_any_order[1]",
    ),
    Mutant(
        "missing call", "what was refused is asked again at every call", _CUDNN,
        "maxsize=4096",
        "maxsize=0",
        f"{_LIBRARY}::test_what_is_refused_is_computed_by_the_kernels_and_not_asked_again",
    ),
    Mutant(
        "wrong stream", "cuDNN runs on the default stream", _CUDNN,
        "stream=cuda.get_current_stream().ptr",
        "stream=0",
        f"{_LIBRARY}::test_work_is_on_the_current_stream",
    ),
    Mutant(
        "error swallowed", "an error of cuDNN's is taken for a refusal", _CUDNN,
        "    except library.cudnnGraphNotSupportedError:\n",
        "    except Exception:\n",
        f"{_LIBRARY}::test_an_error_that_is_no_refusal_is_raised",
    ),
    Mutant(
        "stale numbers", "a plan that does not load is used all the same", _CUDNN,
        "    except Exception:  # whatever it says of it, it is planned anew\n        return None\n",
        "    except Exception:  # whatever it says of it, it is planned anew\n        pass\n",
        f"{_LIBRARY}::test_plans_lie_on_disk",
    ),
    Mutant(
        "wrong order", "engines that sum in any order are taken", _CUDNN,
        "[notes.NONDETERMINISTIC, notes.DOWN_CONVERT_INPUTS",
        "[notes.DOWN_CONVERT_INPUTS",
        f"{_LIBRARY}::test_convolutions_and_their_gradients[plain-f]",
    ),
    Mutant(
        "stale numbers", "attention's gradients begin from sums that nobody wrote",
        "backend/cudnn_attention.py",
        "    arrays[_STATISTICS] = statistics\n",
        "    arrays[_STATISTICS] = statistics * 0 if given else statistics\n",
        f"{_LIBRARY}::test_heads_that_share_keys",
    ),
    Mutant(
        "wrong result", "what a query that sees nothing got from its values is kept",
        "autograd/ops/attention.py",
        "    return y if sees is None else _where(xp, sees, y, 0.0)\n",
        "    return y\n",
        f"{_LIBRARY}::test_attention_with_a_mask",
    ),
    Mutant(
        "missing wait", "gradients are updated with before they are on the host", _ON_HOST,
        "            event.synchronize()\n            np.multiply",
        "            np.multiply",
        f"{_OFFLOAD}::test_bits_are_those_of_an_update_on_the_host_by_hand[AdamW-2 late]",
    ),
    Mutant(
        "wrong number", "the sum that set out for the host is taken for the mean", _ON_HOST,
        "self._scales.pop(start, 1.0)",
        "1.0",
        f"{_OFFLOAD}::test_gradients_are_under_way_when_backward_ends",
    ),
)  # fmt: skip
