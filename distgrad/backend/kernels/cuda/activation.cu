// Activations and their gradients, a function of an element each: y of x, or x's gradient of y's.
#include "packs.cuh"

#define ROOT_HALF ((A)0.70710678118654752440)
#define DENSITY ((A)0.39894228040143267794)     // 1 / sqrt(2 pi)
#define TANH_SCALE ((A)0.79788456080286535588)  // sqrt(2 / pi)
#define TANH_CUBIC ((A)0.044715)

KERNEL gelu(i64 n, const T* x, T* y) {
  map(n, x, y, [](A v) { return (A)0.5 * v * (A)erfc(-v * ROOT_HALF); });
}

KERNEL gelu_gradient(i64 n, const T* g, const T* x, T* out) {
  map(n, g, x, out, [](A up, A v) {
    return up * ((A)0.5 * (A)erfc(-v * ROOT_HALF) + v * (DENSITY * (A)exp((A)-0.5 * v * v)));
  });
}

KERNEL gelu_tanh(i64 n, const T* x, T* y) {
  map(n, x, y, [](A v) {
    A t = tanh(TANH_SCALE * v * ((A)1 + TANH_CUBIC * v * v));
    return (A)0.5 * v * ((A)1 + t);
  });
}

KERNEL gelu_tanh_gradient(i64 n, const T* g, const T* x, T* out) {
  map(n, g, x, out, [](A up, A v) {
    A t = tanh(TANH_SCALE * v * ((A)1 + TANH_CUBIC * v * v));
    A inner = TANH_SCALE * ((A)1 + (A)3 * TANH_CUBIC * v * v);
    return up * ((A)0.5 * ((A)1 + t) + (A)0.5 * v * (((A)1 - t * t) * inner));
  });
}

KERNEL silu(i64 n, const T* x, T* y) {
  map(n, x, y, [](A v) { return v * sigmoid(v); });
}

KERNEL silu_gradient(i64 n, const T* g, const T* x, T* out) {
  map(n, g, x, out, [](A up, A v) {
    A s = sigmoid(v);
    return up * (s * ((A)1 + v * ((A)1 - s)));
  });
}

KERNEL sigmoid_forward(i64 n, const T* x, T* y) {
  map(n, x, y, [](A v) { return sigmoid(v); });
}

KERNEL relu_gradient(i64 n, const T* g, const T* y, T* out) {
  map(n, g, y, out, [](A up, A v) { return v > (A)0 ? up : up * (A)0; });
}

KERNEL tanh_gradient(i64 n, const T* g, const T* y, T* out) {
  map(n, g, y, out, [](A up, A v) { return up * ((A)1 - v * v); });
}

KERNEL sigmoid_gradient(i64 n, const T* g, const T* y, T* out) {
  map(n, g, y, out, [](A up, A v) { return up * (v * ((A)1 - v)); });
}
