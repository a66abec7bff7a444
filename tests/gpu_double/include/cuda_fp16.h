// float16: the part of CUDA's header that kernels use.
#pragma once
#include "gpu_narrow.h"

static inline unsigned short gpu_float_to_half(float v) {
    _Float16 h = (_Float16)v;
    unsigned short x;
    memcpy(&x, &h, 2);
    return x;
}
static inline float gpu_half_to_float(unsigned short x) {
    _Float16 h;
    memcpy(&h, &x, 2);
    return (float)h;
}
GPU_NARROW(__half, half, __half_raw, gpu_float_to_half, gpu_half_to_float)
typedef __half half;
typedef __half2 half2;
