"""Kernels on the double: what the CUDA language means, and what it forbids."""

import numpy as np
import pytest

pytestmark = pytest.mark.gpu_double()

X = np.random.default_rng(1).standard_normal(1000).astype("f4")


def raw(source, name):
    import cupy

    return cupy.RawKernel(source, name)


def test_elementwise_and_reduction_kernels():
    import cupy

    x = cupy.asarray(X)
    fused = cupy.ElementwiseKernel("T x, T y", "T z", "z = x * y + 1", "double_fma")
    np.testing.assert_allclose(fused(x, x).get(), X * X + 1, rtol=1e-6)
    norm = cupy.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "double_norm")
    np.testing.assert_allclose(norm(x).get(), np.linalg.norm(X), rtol=1e-5)


def test_a_raw_kernel_with_scalars_and_a_grid():
    import cupy

    axpy = raw(
        r"""extern "C" __global__ void axpy(float a, const float* x, float* y, int n) {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) y[i] += a * x[i];
        }""",
        "axpy",
    )
    y = cupy.ones(1000, "f4")
    axpy((8,), (128,), (np.float32(2), cupy.asarray(X), y, np.int32(1000)))
    np.testing.assert_allclose(y.get(), 2 * X + 1, rtol=1e-6)


BLOCK_SUM = r"""extern "C" __global__ void block_sum(const float* x, float* y, int n) {
    __shared__ float part[256];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    part[threadIdx.x] = i < n ? x[i] : 0.0f;
    for (int step = blockDim.x / 2; step > 0; step /= 2) {
        BARRIER
        if (threadIdx.x < step) part[threadIdx.x] += part[threadIdx.x + step];
    }
    if (threadIdx.x == 0) y[blockIdx.x] = part[0];
}"""


def block_sums(barrier):
    import cupy

    y = cupy.empty(4, "f4")
    kernel = raw(BLOCK_SUM.replace("BARRIER", barrier), "block_sum")
    kernel((4,), (256,), (cupy.asarray(X), y, np.int32(1000)))
    return y.get()


def test_shared_memory_and_barriers():
    expected = [X[i : i + 256].sum() for i in range(0, 1000, 256)]
    np.testing.assert_allclose(block_sums("__syncthreads();"), expected, rtol=1e-4)


def test_a_missing_barrier_is_a_wrong_result():
    expected = [X[i : i + 256].sum() for i in range(0, 1000, 256)]
    assert not np.allclose(block_sums(""), expected, rtol=1e-4)
    assert not np.allclose(block_sums("if (step < 64) __syncthreads();"), expected, rtol=1e-4)


def test_dynamic_shared_memory():
    import cupy

    reverse = raw(
        r"""extern "C" __global__ void reverse(float* x) {
            extern __shared__ float all[];
            all[threadIdx.x] = x[threadIdx.x];
            __syncthreads();
            x[threadIdx.x] = all[blockDim.x - 1 - threadIdx.x];
        }""",
        "reverse",
    )
    x = cupy.asarray(X)
    reverse((1,), (1000,), (x,), shared_mem=4000)
    np.testing.assert_array_equal(x.get(), X[::-1])
    with pytest.raises(RuntimeError, match="max_dynamic_shared_size_bytes"):
        reverse((1,), (1000,), (x,), shared_mem=100_000)


WARP = r"""extern "C" __global__ void warps(const float* x, float* sums, int* others) {
    int lane = threadIdx.x % 32;
    float v = x[threadIdx.x];
    for (int d = 16; d > 0; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);
    if (lane == 0) sums[threadIdx.x / 32] = v;
    others[threadIdx.x] = __shfl_xor_sync(0xffffffffu, lane, 1) + 100 * __shfl_sync(0xffffffffu, lane, 5)
        + 10000 * __popc(__ballot_sync(0xffffffffu, lane % 3 == 0));
}"""


def test_warp_shuffles():
    import cupy

    sums, others = cupy.empty(4, "f4"), cupy.empty(128, "i4")
    raw(WARP, "warps")((1,), (128,), (cupy.asarray(X), sums, others))
    np.testing.assert_allclose(sums.get(), X[:128].reshape(4, 32).sum(1), rtol=1e-5)
    lane = np.arange(128) % 32
    np.testing.assert_array_equal(others.get(), (lane ^ 1) + 500 + 110000)


def test_atomics():
    import cupy

    count = raw(
        r"""extern "C" __global__
        void count(const int* x, unsigned long long* bins, float* total, int* most) {
            atomicAdd(&bins[x[threadIdx.x]], 1ull);
            atomicAdd(total, 0.5f);
            atomicMax(most, x[threadIdx.x]);
        }""",
        "count",
    )
    x = np.random.default_rng(2).integers(0, 5, 512).astype("i4")
    bins, total, most = cupy.zeros(5, "u8"), cupy.zeros(1, "f4"), cupy.zeros(1, "i4")
    count((1,), (512,), (cupy.asarray(x), bins, total, most))
    np.testing.assert_array_equal(bins.get(), np.bincount(x))
    assert (float(total[0]), int(most[0])) == (256.0, x.max())


def test_half_and_bfloat16_in_a_kernel():
    import cupy
    import ml_dtypes

    scale = raw(
        r"""#include <cuda_fp16.h>
        #include <cuda_bf16.h>
        extern "C" __global__ void scale(__half* h, __nv_bfloat16* b) {
            int i = threadIdx.x;
            h[i] = __float2half(__half2float(h[i]) * 1.5f);
            b[i] = __float2bfloat16(__bfloat162float(b[i]) * 1.5f);
        }""",
        "scale",
    )
    h, b = X[:64].astype("f2"), X[:64].astype(ml_dtypes.bfloat16)
    on_device = cupy.asarray(h), cupy.asarray(b.view("u2"))
    scale((1,), (64,), on_device)
    np.testing.assert_array_equal(on_device[0].get(), (h.astype("f4") * 1.5).astype("f2"))
    expected = (b.astype("f4") * 1.5).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(on_device[1].get(), expected.view("u2"))


def test_templates_by_name_expression():
    import cupy

    source = """template <class T> __global__ void twice(T* x) { x[threadIdx.x] *= 2; }"""
    module = cupy.RawModule(
        code=source, options=("-std=c++17",), name_expressions=("twice<float>", "twice<int>")
    )
    for dtype, name in (("f4", "twice<float>"), ("i4", "twice<int>")):
        x = cupy.arange(8, dtype=dtype)
        module.get_function(name)((1,), (8,), (x,))
        np.testing.assert_array_equal(x.get(), 2 * np.arange(8))


def test_a_barrier_that_some_threads_never_reach_is_reported():
    import cupy

    torn = raw(
        r"""extern "C" __global__ void torn(float* x) {
            if (threadIdx.x < 3) __syncthreads();
            else __syncwarp(0xffffffffu);
            x[threadIdx.x] = 1;
        }""",
        "torn",
    )
    with pytest.raises(RuntimeError, match="never reach"):
        torn((1,), (64,), (cupy.zeros(64, "f4"),))


def test_what_a_gpu_refuses_is_refused():
    import cupy

    nothing = raw('extern "C" __global__ void nothing(float* x) { if (x) x[0] = 1; }', "nothing")
    with pytest.raises(RuntimeError, match="at most 1024"):
        nothing((1,), (2048,), (cupy.zeros(1, "f4"),))
    with pytest.raises(RuntimeError, match="no device memory"):
        nothing((1,), (1,), (cupy.ndarray(1, "f4", _host_memory()),))
    with pytest.raises(RuntimeError, match="does not compile"):
        raw('extern "C" __global__ void wrong() { nonsense; }', "wrong")((1,), (1,), ())


def _host_memory():
    import cupy

    memory = cupy.cuda.UnownedMemory(X.ctypes.data, X.nbytes, X, 0)
    return cupy.cuda.MemoryPointer(memory, 0)
