// Activations and their gradients, an element at a time.
#include "numbers.cuh"

#define ROOT_HALF ((A)0.70710678118654752440)
#define DENSITY ((A)0.39894228040143267794)     // 1 / sqrt(2 pi)
#define TANH_SCALE ((A)0.79788456080286535588)  // sqrt(2 / pi)
#define TANH_CUBIC ((A)0.044715)

KERNEL gelu(i64 n, const T* x, T* y) {
  FOR_EACH(i, n) {
    A v = widen(x[i]);
    store(y + i, (A)0.5 * v * (A)erfc(-v * ROOT_HALF));
  }
}

KERNEL gelu_gradient(i64 n, const T* g, const T* x, T* out) {
  FOR_EACH(i, n) {
    A v = widen(x[i]);
    A slope = (A)0.5 * (A)erfc(-v * ROOT_HALF) + v * (DENSITY * (A)exp((A)-0.5 * v * v));
    store(out + i, widen(g[i]) * slope);
  }
}

KERNEL gelu_tanh(i64 n, const T* x, T* y) {
  FOR_EACH(i, n) {
    A v = widen(x[i]);
    A t = tanh(TANH_SCALE * v * ((A)1 + TANH_CUBIC * v * v));
    store(y + i, (A)0.5 * v * ((A)1 + t));
  }
}

KERNEL gelu_tanh_gradient(i64 n, const T* g, const T* x, T* out) {
  FOR_EACH(i, n) {
    A v = widen(x[i]);
    A t = tanh(TANH_SCALE * v * ((A)1 + TANH_CUBIC * v * v));
    A inner = TANH_SCALE * ((A)1 + (A)3 * TANH_CUBIC * v * v);
    store(out + i, widen(g[i]) * ((A)0.5 * ((A)1 + t) + (A)0.5 * v * (((A)1 - t * t) * inner)));
  }
}

KERNEL silu(i64 n, const T* x, T* y) {
  FOR_EACH(i, n) {
    A v = widen(x[i]);
    store(y + i, v * sigmoid(v));
  }
}

KERNEL silu_gradient(i64 n, const T* g, const T* x, T* out) {
  FOR_EACH(i, n) {
    A v = widen(x[i]);
    A s = sigmoid(v);
    store(out + i, widen(g[i]) * (s * ((A)1 + v * ((A)1 - s))));
  }
}

KERNEL sigmoid_forward(i64 n, const T* x, T* y) {
  FOR_EACH(i, n) store(y + i, sigmoid(widen(x[i])));
}

KERNEL relu_gradient(i64 n, const T* g, const T* y, T* out) {
  FOR_EACH(i, n) {
    A up = widen(g[i]);
    store(out + i, widen(y[i]) > (A)0 ? up : up * (A)0);
  }
}

KERNEL tanh_gradient(i64 n, const T* g, const T* y, T* out) {
  FOR_EACH(i, n) {
    A v = widen(y[i]);
    store(out + i, widen(g[i]) * ((A)1 - v * v));
  }
}

KERNEL sigmoid_gradient(i64 n, const T* g, const T* y, T* out) {
  FOR_EACH(i, n) {
    A v = widen(y[i]);
    store(out + i, widen(g[i]) * (v * ((A)1 - v)));
  }
}
