// Windows that move over one, two or three axes; fewer axes have leading ones of length 1.
#pragma once
#include "numbers.cuh"

struct Windows {  // passed by value; the launcher checks that a plane has fewer than 2^31 elements
  i64 in[3], out[3], kernel[3], stride[3], padding[3], dilation[3];
};

__device__ inline void split(unsigned flat, const i64* lengths, int* place) {
  unsigned last = (unsigned)lengths[2], middle = (unsigned)lengths[1];
  place[2] = (int)(flat % last);
  flat /= last;
  place[1] = (int)(flat % middle);
  place[0] = (int)(flat / middle);
}

// Where place k of the kernel meets the input in the window of output `to`; -1 in the padding.
__device__ inline int input_of(const Windows& w, const int* to, const int* k) {
  int flat = 0;
  for (int a = 0; a < 3; a++) {
    i64 at = to[a] * w.stride[a] + k[a] * w.dilation[a] - w.padding[a];
    if (at < 0 || at >= w.in[a]) return -1;
    flat = flat * (int)w.in[a] + (int)at;
  }
  return flat;
}

// The output whose window meets input `at` with place k of the kernel; -1 if none does.
__device__ inline int output_of(const Windows& w, const int* at, const int* k) {
  int flat = 0;
  for (int a = 0; a < 3; a++) {
    i64 from = at[a] + w.padding[a] - k[a] * w.dilation[a];
    if (from < 0 || from % w.stride[a]) return -1;
    from /= w.stride[a];
    if (from >= w.out[a]) return -1;
    flat = flat * (int)w.out[a] + (int)from;
  }
  return flat;
}

__device__ inline int size_of(const i64* lengths) { return (int)(lengths[0] * lengths[1] * lengths[2]); }

// Planes are divided among the grid's second axis, their elements among the first.
#define FOR_PLANES(p, planes) for (i64 p = blockIdx.y; p < (planes); p += gridDim.y)
