// bfloat16: the part of CUDA's header that kernels use.
#pragma once
#include "gpu_narrow.h"

static inline unsigned short gpu_float_to_bfloat16(float v) {
    unsigned bits = __float_as_uint(v);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline float gpu_bfloat16_to_float(unsigned short x) { return __uint_as_float((unsigned)x << 16); }
GPU_NARROW(__nv_bfloat16, bfloat16, __nv_bfloat16_raw, gpu_float_to_bfloat16, gpu_bfloat16_to_float)
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;
