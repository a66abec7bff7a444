// What __half and __nv_bfloat16 have in common. A result is computed in float32 and rounded once, which for
// +, -, * and / gives the same bits as hardware does.
#pragma once
#include "gpu_double.h"

#define GPU_NARROW(T, S, Raw, from_float, to_float)                                                           \
    struct Raw { unsigned short x; };                                                                         \
    struct T {                                                                                                \
        unsigned short __x;                                                                                   \
        T() = default;                                                                                        \
        T(const Raw &raw) : __x(raw.x) {}                                                                     \
        T(float v) : __x(from_float(v)) {}                                                                    \
        T(double v) : __x(from_float((float)v)) {}                                                            \
        template <class I, std::enable_if_t<std::is_integral<I>::value, int> = 0>                             \
        T(I v) : __x(from_float((float)v)) {}                                                                 \
        operator float() const { return to_float(__x); }                                                      \
        operator Raw() const { return {__x}; }                                                                \
        T operator-() const { T r; r.__x = __x ^ 0x8000; return r; }                                          \
        T operator+() const { return *this; }                                                                 \
        T &operator+=(const T &b) { return *this = T((float)*this + (float)b); }                              \
        T &operator-=(const T &b) { return *this = T((float)*this - (float)b); }                              \
        T &operator*=(const T &b) { return *this = T((float)*this * (float)b); }                              \
        T &operator/=(const T &b) { return *this = T((float)*this / (float)b); }                              \
    };                                                                                                        \
    struct alignas(4) T##2 { T x, y; };                                                                       \
    static inline T operator+(const T &a, const T &b) { return T((float)a + (float)b); }                      \
    static inline T operator-(const T &a, const T &b) { return T((float)a - (float)b); }                      \
    static inline T operator*(const T &a, const T &b) { return T((float)a * (float)b); }                      \
    static inline T operator/(const T &a, const T &b) { return T((float)a / (float)b); }                      \
    static inline bool operator==(const T &a, const T &b) { return (float)a == (float)b; }                    \
    static inline bool operator!=(const T &a, const T &b) { return (float)a != (float)b; }                    \
    static inline bool operator<(const T &a, const T &b) { return (float)a < (float)b; }                      \
    static inline bool operator>(const T &a, const T &b) { return (float)a > (float)b; }                      \
    static inline bool operator<=(const T &a, const T &b) { return (float)a <= (float)b; }                    \
    static inline bool operator>=(const T &a, const T &b) { return (float)a >= (float)b; }                    \
    static inline T __hadd(T a, T b) { return a + b; }                                                        \
    static inline T __hsub(T a, T b) { return a - b; }                                                        \
    static inline T __hmul(T a, T b) { return a * b; }                                                        \
    static inline T __hdiv(T a, T b) { return a / b; }                                                        \
    static inline T __hneg(T a) { return -a; }                                                                \
    static inline T __habs(T a) { a.__x &= 0x7fff; return a; }                                                \
    static inline T __hfma(T a, T b, T c) { return T((float)((double)a * (double)b + (double)c)); }           \
    static inline T __hmax(T a, T b) { return T(fmaxf(a, b)); }                                               \
    static inline T __hmin(T a, T b) { return T(fminf(a, b)); }                                               \
    static inline bool __heq(T a, T b) { return a == b; }                                                     \
    static inline bool __hne(T a, T b) { return a != b; }                                                     \
    static inline bool __hlt(T a, T b) { return a < b; }                                                      \
    static inline bool __hgt(T a, T b) { return a > b; }                                                      \
    static inline bool __hle(T a, T b) { return a <= b; }                                                     \
    static inline bool __hge(T a, T b) { return a >= b; }                                                     \
    static inline bool __hisnan(T a) { return std::isnan((float)a); }                                         \
    static inline int __hisinf(T a) { return std::isinf((float)a) ? ((float)a > 0 ? 1 : -1) : 0; }            \
    static inline T hexp(T a) { return T(expf(a)); }                                                          \
    static inline T hlog(T a) { return T(logf(a)); }                                                          \
    static inline T hsqrt(T a) { return T(sqrtf(a)); }                                                        \
    static inline T hrsqrt(T a) { return T(1.0f / sqrtf(a)); }                                                \
    static inline T hrcp(T a) { return T(1.0f / (float)a); }                                                  \
    static inline T htanh(T a) { return T(tanhf(a)); }                                                        \
    static inline T htrunc(T a) { return T(truncf(a)); }                                                      \
    static inline T hfloor(T a) { return T(floorf(a)); }                                                      \
    static inline T hceil(T a) { return T(ceilf(a)); }                                                        \
    static inline T hrint(T a) { return T(rintf(a)); }                                                        \
    static inline T atomicAdd(T *p, T value) { T old = *p; *p = old + value; return old; }                    \
    static inline unsigned short __##S##_as_ushort(T a) { return a.__x; }                                     \
    static inline short __##S##_as_short(T a) { return (short)a.__x; }                                        \
    static inline T __ushort_as_##S(unsigned short x) { return T(Raw{x}); }                                   \
    static inline T __short_as_##S(short x) { return T(Raw{(unsigned short)x}); }                             \
    static inline T __float2##S(float v) { return T(v); }                                                     \
    static inline T __float2##S##_rn(float v) { return T(v); }                                                \
    static inline T __double2##S(double v) { return T(v); }                                                   \
    static inline float __##S##2float(T a) { return (float)a; }                                               \
    static inline T##2 __halves2##S##2(T a, T b) { return {a, b}; }                                           \
    static inline T##2 __floats2##S##2_rn(float a, float b) { return {T(a), T(b)}; }                          \
    static inline T##2 __float22##S##2_rn(float2 v) { return {T(v.x), T(v.y)}; }                              \
    static inline float2 __##S##22float2(T##2 v) { return {(float)v.x, (float)v.y}; }                         \
    static inline T __low2##S(T##2 v) { return v.x; }                                                         \
    static inline T __high2##S(T##2 v) { return v.y; }                                                        \
    static inline float __low2float(T##2 v) { return (float)v.x; }                                            \
    static inline float __high2float(T##2 v) { return (float)v.y; }                                           \
    static inline T##2 __hadd2(T##2 a, T##2 b) { return {a.x + b.x, a.y + b.y}; }                             \
    static inline T##2 __hmul2(T##2 a, T##2 b) { return {a.x * b.x, a.y * b.y}; }                             \
    static inline T##2 __hfma2(T##2 a, T##2 b, T##2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
