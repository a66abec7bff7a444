// GELU, whose tails the host's kernels compute otherwise; the other activations are made of their rules.
#include "packs.cuh"

#define ROOT_HALF ((A)0.70710678118654752440)
#define DENSITY ((A)0.39894228040143267794)     // 1 / sqrt(2 pi)

KERNEL gelu(i64 n, const T* x, T* y) {
  map(n, x, y, [](A v) { return (A)0.5 * v * (A)erfc(-v * ROOT_HALF); });
}

KERNEL gelu_gradient(i64 n, const T* g, const T* x, T* out) {
  map(n, g, x, out, [](A up, A v) {
    return up * ((A)0.5 * (A)erfc(-v * ROOT_HALF) + v * (DENSITY * (A)exp((A)-0.5 * v * v)));
  });
}
