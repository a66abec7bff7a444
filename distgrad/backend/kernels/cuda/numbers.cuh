// What all kernels stand on: element types, walks over elements, sums over a block.
//
// Arrays hold T; arithmetic is done in A: T itself for float and double, float for the two half types. Which
// T is decided by STORAGE, so that a source is compiled once a type: float, double, Half or Brain (bfloat16).
// The sources are plain C++ beside CUDA's own words; what differs for a host compiler stands in this file.
#pragma once

#ifndef STORAGE
#define STORAGE float
#endif

#define KERNEL extern "C" __global__ void
#define THREADS 256  // the most to a block: what the shared arrays below have room for

typedef long long i64;  // counts and places: arrays may hold more than 2^31 elements
typedef unsigned long long u64;

struct Half {  // IEEE 754 binary16
  unsigned short bits;
};
struct Brain {  // bfloat16: a float's upper half
  unsigned short bits;
};

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(Brain x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ inline float widen(Half x) {
#ifdef __CUDACC__
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  _Float16 y;
  memcpy(&y, &x.bits, sizeof y);
  return (float)y;
#endif
}

__device__ inline void store(float* to, float x) { *to = x; }
__device__ inline void store(double* to, double x) { *to = x; }
__device__ inline void store(Brain* to, float x) {  // to nearest, ties to even; NaN stays NaN
  unsigned u = __float_as_uint(x);
  bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
  u = is_nan ? u | 0x00400000u : u + 0x7fffu + ((u >> 16) & 1u);
  to->bits = (unsigned short)(u >> 16);
}
__device__ inline void store(Half* to, float x) {
#ifdef __CUDACC__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(x));
#else
  _Float16 y = (_Float16)x;
  memcpy(&to->bits, &y, sizeof y);
#endif
}

// The upper 64 bits of a product.
__device__ inline u64 multiply_high(u64 a, u64 b) {
#ifdef __CUDACC__
  return __umul64hi(a, b);
#else
  return (u64)(((unsigned __int128)a * b) >> 64);
#endif
}

typedef STORAGE T;
typedef decltype(widen(T())) A;

#define LOWEST ((A)__uint_as_float(0xff800000u))   // minus infinity: NVRTC has no headers with a name for it
#define NOTHING ((A)__uint_as_float(0x7fc00000u))  // NaN

// An element of an array that may be missing.
__device__ inline A get(const T* x, i64 i, A otherwise) { return x ? widen(x[i]) : otherwise; }

// NaN is the largest and the smallest.
__device__ inline A larger(A a, A b) { return a >= b || a != a ? a : b; }
__device__ inline A smaller(A a, A b) { return a <= b || a != a ? a : b; }

__device__ inline A sign_of(A x) { return x > (A)0 ? (A)1 : x < (A)0 ? (A)-1 : x; }

__device__ inline A sigmoid(A x) { return (A)1 / ((A)1 + (A)exp(-x)); }

// A division of whole numbers: of 32 bits where they fit, which takes a fraction of the time.
struct Split {
  i64 quotient, rest;
};
__device__ inline Split divide(i64 n, i64 by) {
  if (!((n | by) >> 32)) {
    unsigned quotient = (unsigned)n / (unsigned)by;
    return {quotient, (unsigned)n - quotient * (unsigned)by};
  }
  i64 quotient = n / by;
  return {quotient, n - quotient * by};
}

// All elements 0 … n - 1, divided among the threads of the grid's first axis.
#define FOR_EACH(i, n) \
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (i64)gridDim.x * blockDim.x)

// Elements first … last - 1, divided among the threads of a block.
#define FOR_BLOCK(j, first, last) for (i64 j = (first) + threadIdx.x; j < (last); j += blockDim.x)

#define WARP 32
#define ALL_LANES 0xffffffffu

// What combine makes of a number of each of the block's threads, known to all of them: within warps by shuffles,
// then of the warps'. blockDim.x is a power of two and at least a warp; combine does not mind an exchange.
template <class S, class F>
__device__ inline S over_block(S value, F combine) {
  __shared__ S room[THREADS / WARP];
  unsigned warps = blockDim.x / WARP;
  for (unsigned d = WARP / 2; d > 0; d /= 2) value = combine(value, __shfl_xor_sync(ALL_LANES, value, d));
  if (warps == 1) return value;
  if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = value;
  __syncthreads();
  value = room[threadIdx.x % warps];
  for (unsigned d = warps / 2; d > 0; d /= 2) value = combine(value, __shfl_xor_sync(ALL_LANES, value, d));
  __syncthreads();  // before the room is used again
  return value;
}

template <class S>
struct Sum {
  __device__ S operator()(S a, S b) const { return a + b; }
};
template <class S>
struct Max {
  __device__ S operator()(S a, S b) const { return a >= b || b != b ? a : b; }
};

template <class S>
__device__ inline S block_sum(S value) {
  return over_block(value, Sum<S>());
}

// The largest number; NaN counts only where there is nothing else.
template <class S>
__device__ inline S block_max(S value) {
  return over_block(value, Max<S>());
}

// Whether this is the last of so many blocks that count themselves here; what the others have written before
// can be read then, through volatile pointers. All threads of the block ask.
__device__ inline bool is_last_block(unsigned* done, unsigned blocks) {
  __shared__ unsigned before;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) before = atomicAdd(done, 1u);
  __syncthreads();
  __threadfence();
  return before + 1 == blocks;
}
