// CUDA's arithmetic beyond C's: intrinsics, atomics, mixed min and max.
#pragma once
using std::abs;  // of floating numbers too

#define GPU_BITS(name, From, To)                    \
    static inline To name(From x) {                 \
        To y;                                       \
        memcpy(&y, &x, sizeof y);                   \
        return y;                                   \
    }
GPU_BITS(__int_as_float, int, float)
GPU_BITS(__float_as_int, float, int)
GPU_BITS(__uint_as_float, unsigned, float)
GPU_BITS(__float_as_uint, float, unsigned)
GPU_BITS(__longlong_as_double, long long, double)
GPU_BITS(__double_as_longlong, double, long long)
#undef GPU_BITS

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __mul24(int a, int b) { return a * b; }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
    return y;
}

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
static inline double rcbrt(double x) { return 1.0 / cbrt(x); }
static inline float __expf(float x) { return expf(x); }
static inline float __logf(float x) { return logf(x); }
static inline float __log2f(float x) { return log2f(x); }
static inline float __powf(float x, float y) { return powf(x, y); }
static inline float __sinf(float x) { return sinf(x); }
static inline float __cosf(float x) { return cosf(x); }
static inline float __tanhf(float x) { return tanhf(x); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline int __float2int_rn(float x) { return (int)lrintf(x); }
static inline int __float2int_rz(float x) { return (int)x; }
static inline unsigned __float2uint_rn(float x) { return (unsigned)lrintf(x); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline double sinpi(double x) { return sin(M_PI * x); }
static inline double cospi(double x) { return cos(M_PI * x); }
static inline float exp10f(float x) { return powf(10.0f, x); }
static inline double exp10(double x) { return pow(10.0, x); }
static inline double cyl_bessel_i0(double x) { return std::cyl_bessel_i(0.0, fabs(x)); }
static inline float cyl_bessel_i0f(float x) { return (float)cyl_bessel_i0((double)x); }
static inline double cyl_bessel_i1(double x) { return copysign(std::cyl_bessel_i(1.0, fabs(x)), x); }
static inline float cyl_bessel_i1f(float x) { return (float)cyl_bessel_i1((double)x); }
static inline double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
static inline float normcdff(float x) { return 0.5f * erfcf(-x * (float)M_SQRT1_2); }

// Inverses by Newton's method on erfc, from a bracket that never leaves the answer.
static inline double erfcinv(double y) {
    if (!(y >= 0 && y <= 2)) return NAN;
    if (y == 0 || y == 2) return y == 0 ? INFINITY : -INFINITY;
    double low = -28, high = 28, x = 0;
    for (int i = 0; i < 200 && high - low > 0; i++) {
        double error = erfc(x) - y;
        if (error == 0) break;
        (error > 0 ? low : high) = x;
        double next = x + error * 0.5 * sqrt(M_PI) * exp(x * x);
        if (!(next > low && next < high)) next = 0.5 * (low + high);
        if (next == x) break;
        x = next;
    }
    return x;
}
static inline double erfinv(double y) {
    if (fabs(y) > 0.5) return y > 0 ? erfcinv(1 - y) : -erfcinv(1 + y);
    double x = 0.5 * sqrt(M_PI) * y;
    for (int i = 0; i < 50; i++) {
        double next = x - (erf(x) - y) * 0.5 * sqrt(M_PI) * exp(x * x);
        if (next == x) break;
        x = next;
    }
    return x;
}
static inline float erfinvf(float y) { return (float)erfinv((double)y); }
static inline float erfcinvf(float y) { return (float)erfcinv((double)y); }
static inline double normcdfinv(double p) { return -M_SQRT2 * erfcinv(2 * p); }
static inline float normcdfinvf(float p) { return (float)normcdfinv((double)p); }
static inline double erfcx(double x) {
    return x < 25 ? exp(x * x) * erfc(x) : (1 - 0.5 / (x * x)) / (x * sqrt(M_PI));
}
static inline float erfcxf(float x) { return (float)erfcx((double)x); }

#define GPU_ORDER(A, B)                                                                                      \
    static inline std::common_type_t<A, B> min(A a, B b) {                                                   \
        typedef std::common_type_t<A, B> T;                                                                  \
        return (T)a < (T)b ? (T)a : (T)b;                                                                    \
    }                                                                                                        \
    static inline std::common_type_t<A, B> max(A a, B b) {                                                   \
        typedef std::common_type_t<A, B> T;                                                                  \
        return (T)a > (T)b ? (T)a : (T)b;                                                                    \
    }
GPU_ORDER(int, int)
GPU_ORDER(int, unsigned)
GPU_ORDER(unsigned, int)
GPU_ORDER(unsigned, unsigned)
GPU_ORDER(long, long)
GPU_ORDER(long, int)
GPU_ORDER(int, long)
GPU_ORDER(unsigned long, unsigned long)
GPU_ORDER(long long, long long)
GPU_ORDER(long long, int)
GPU_ORDER(int, long long)
GPU_ORDER(long, long long)
GPU_ORDER(long long, long)
GPU_ORDER(unsigned long long, unsigned long long)
#undef GPU_ORDER
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(float a, double b) { return fmin(a, b); }
static inline double max(float a, double b) { return fmax(a, b); }
static inline double min(double a, float b) { return fmin(a, b); }
static inline double max(double a, float b) { return fmax(a, b); }

template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcs(const T *p) { return *p; }
template <class T> static inline T __ldca(const T *p) { return *p; }
template <class T> static inline void __stcs(T *p, T value) { *p = value; }

// Atomics: kernels of the double run one after the other, so a read and a write are one.
#define GPU_ATOMIC(T, name, expression)          \
    static inline T name(T *p, T value) {        \
        T old = *p;                              \
        *p = (T)(expression);                    \
        return old;                              \
    }
#define GPU_ATOMICS(T)                                              \
    GPU_ATOMIC(T, atomicAdd, old + value)                           \
    GPU_ATOMIC(T, atomicExch, value)
#define GPU_INTEGER_ATOMICS(T)                                      \
    GPU_ATOMIC(T, atomicSub, old - value)                           \
    GPU_ATOMIC(T, atomicMin, value < old ? value : old)             \
    GPU_ATOMIC(T, atomicMax, value > old ? value : old)             \
    GPU_ATOMIC(T, atomicAnd, old & value)                           \
    GPU_ATOMIC(T, atomicOr, old | value)                            \
    GPU_ATOMIC(T, atomicXor, old ^ value)                           \
    static inline T atomicCAS(T *p, T expected, T value) {          \
        T old = *p;                                                 \
        if (old == expected) *p = value;                            \
        return old;                                                 \
    }
GPU_ATOMICS(int)
GPU_ATOMICS(unsigned)
GPU_ATOMICS(unsigned long long)
GPU_ATOMICS(float)
GPU_ATOMICS(double)
GPU_INTEGER_ATOMICS(int)
GPU_INTEGER_ATOMICS(unsigned)
GPU_INTEGER_ATOMICS(unsigned long long)
GPU_ATOMIC(unsigned, atomicInc, old >= value ? 0 : old + 1)
GPU_ATOMIC(unsigned, atomicDec, old == 0 || old > value ? value : old - 1)
#undef GPU_ATOMIC
#undef GPU_ATOMICS
#undef GPU_INTEGER_ATOMICS
