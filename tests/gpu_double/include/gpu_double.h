// CUDA's language for a CPU compiler: what a kernel of CuPy or distgrad finds where NVRTC has its built-ins.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include "vector_types.h"

#define __CUDACC_VER_MAJOR__ 13
#define __CUDA_ARCH__ 900
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __managed__ static
#define __shared__ static __attribute__((aligned(16), section("gpu_shared")))
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

// The engine (block.c): where a thread is, and how the threads of a block and a warp wait for each other.
extern "C" {
extern uint3 gpu_thread_index, gpu_block_index;
extern dim3 gpu_block_size, gpu_grid_size;
extern char gpu_dynamic_shared[];
void gpu_sync_block(void);
void gpu_sync_warp(unsigned mask);
void gpu_exchange(unsigned mask, const void *value, size_t size);
int gpu_received(int lane, void *value, size_t size);
unsigned gpu_live_lanes(void);
long gpu_count_block(int predicate, int kind);
}
#define threadIdx gpu_thread_index
#define blockIdx gpu_block_index
#define blockDim gpu_block_size
#define gridDim gpu_grid_size
#define warpSize 32

static inline void __syncthreads() { gpu_sync_block(); }
static inline int __syncthreads_count(int p) { return (int)gpu_count_block(p != 0, 0); }
static inline int __syncthreads_and(int p) { return gpu_count_block(p != 0, 1) != 0; }
static inline int __syncthreads_or(int p) { return gpu_count_block(p != 0, 0) != 0; }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { gpu_sync_warp(mask); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
static inline void __nanosleep(unsigned) {}
[[noreturn]] static inline void __trap() { abort(); }

static inline unsigned gpu_thread_rank() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
static inline unsigned __activemask() { return gpu_live_lanes(); }

// Warp shuffles: give a value, take another lane's. A lane that does not exist gives poison.
template <class T> static inline T gpu_shuffle(unsigned mask, T value, int source) {
    T result;
    gpu_exchange(mask, &value, sizeof(T));
    gpu_received(source, &result, sizeof(T));
    gpu_sync_warp(mask);
    return result;
}
template <class T> static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    int lane = gpu_thread_rank() % 32, base = lane / width * width;
    return gpu_shuffle(mask, value, base + (source % width + width) % width);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = gpu_thread_rank() % 32, source = lane - (int)delta;
    return gpu_shuffle(mask, value, source < lane / width * width ? lane : source);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = gpu_thread_rank() % 32, source = lane + (int)delta;
    return gpu_shuffle(mask, value, source >= lane / width * width + width ? lane : source);
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    int lane = gpu_thread_rank() % 32, source = lane ^ lanes;
    return gpu_shuffle(mask, value, source >= lane / width * width + width ? lane : source);
}
template <class T, class F> static inline T gpu_reduce_warp(unsigned mask, T value, F combine) {
    gpu_exchange(mask, &value, sizeof(T));
    bool found = false;
    T result{}, other;
    for (int lane = 0; lane < 32; lane++)
        if ((mask >> lane & 1) && gpu_received(lane, &other, sizeof(T))) {
            result = found ? combine(result, other) : other;
            found = true;
        }
    gpu_sync_warp(mask);
    return result;
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned bit = predicate ? 1u << gpu_thread_rank() % 32 : 0;
    return gpu_reduce_warp(mask, bit, [](unsigned a, unsigned b) { return a | b; });
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
#define GPU_REDUCE(T, name, expression)                                                       \
    static inline T name(unsigned mask, T value) {                                            \
        return gpu_reduce_warp(mask, value, [](T a, T b) -> T { return expression; });        \
    }
GPU_REDUCE(unsigned, __reduce_add_sync, a + b)
GPU_REDUCE(int, __reduce_add_sync, a + b)
GPU_REDUCE(unsigned, __reduce_max_sync, a > b ? a : b)
GPU_REDUCE(int, __reduce_max_sync, a > b ? a : b)
GPU_REDUCE(unsigned, __reduce_min_sync, a < b ? a : b)
GPU_REDUCE(int, __reduce_min_sync, a < b ? a : b)

#include "gpu_math.h"

// How the engine calls a kernel, and what it asks about its parameters.
template <class... A, size_t... I>
static inline void gpu_call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*reinterpret_cast<std::remove_cv_t<std::remove_reference_t<A>> *>(arguments[I])...);
}
template <class... A> static inline void gpu_call(void (*kernel)(A...), void **arguments) {
    gpu_call(kernel, arguments, std::index_sequence_for<A...>{});
}
template <class... A> static inline int gpu_parameters(void (*)(A...), long *sizes) {
    long all[] = {(long)sizeof(A) * (std::is_pointer<A>::value ? -1 : 1)..., 0};
    memcpy(sizes, all, sizeof...(A) * sizeof(long));
    return sizeof...(A);
}
#define GPU_KERNEL(number, ...)                                                                        \
    extern "C" void gpu_kernel_##number(void **arguments) { gpu_call(__VA_ARGS__, arguments); }        \
    extern "C" int gpu_parameters_##number(long *sizes) { return gpu_parameters(__VA_ARGS__, sizes); }
