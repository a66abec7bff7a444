// Steps of recurrent networks, a thread an element of the state: all its gates at once.
// Gates stand side by side in a row, [i, f, n, o] or [r, z, n], of `size` elements each.
#include "numbers.cuh"

// What one step of long short-term memory reads and writes, arrays of [rows, size] and of gates [rows, 4 size],
// which are kept where there is room for them.
struct Step {
  i64 size;
  const T* cell;
  T *hidden, *next, *gates;

  // Element `e` of the state, from the arguments of its gates.
  __device__ void run(i64 e, i64 at, A* gate) const {
    for (int k = 0; k < 4; k++) {
      gate[k] = k == 2 ? (A)tanh(gate[k]) : sigmoid(gate[k]);
      if (gates) store(gates + at + k * size, gate[k]);
    }
    A fresh = gate[1] * widen(cell[e]) + gate[0] * gate[2];
    store(next + e, fresh);
    store(hidden + e, gate[3] * (A)tanh(fresh));
  }
};

// x and h are the two summands of the gates' arguments.
KERNEL lstm_step(i64 n, i64 size, const T* x, const T* h, const T* cell, T* hidden, T* next, T* gates) {
  Step step = {size, cell, hidden, next, gates};
  FOR_EACH(e, n) {
    Split s = divide(e, size);
    i64 at = s.quotient * 4 * size + s.rest;
    A gate[4];
    for (int k = 0; k < 4; k++) gate[k] = widen(x[at + k * size]) + widen(h[at + k * size]);
    step.run(e, at, gate);
  }
}

#define TILE 16  // rows, and elements of the state, of a block of THREADS
#define CHUNK 32  // terms at a time

// An element of a matrix, 0 outside.
__device__ inline A element(const T* x, i64 rows, i64 columns, i64 i, i64 j) {
  return i < rows && j < columns ? widen(x[i * columns + j]) : (A)0;
}

// The same with the product of the state before and the weight [4 size, size]: a launch a step, where the product
// is small.
KERNEL lstm_product_step(i64 rows, i64 size, const T* x, const T* weight, const T* state, const T* cell,
                         T* hidden, T* next, T* gates) {
  __shared__ A left[TILE][CHUNK + 1], right[4 * TILE][CHUNK + 1];
  int r = threadIdx.x / TILE, u = threadIdx.x % TILE;
  i64 top = (i64)blockIdx.x * TILE, start = (i64)blockIdx.y * TILE;
  A gate[4] = {0, 0, 0, 0};
  for (i64 first = 0; first < size; first += CHUNK) {
    for (int i = threadIdx.x; i < TILE * CHUNK; i += THREADS)
      left[i / CHUNK][i % CHUNK] = element(state, rows, size, top + i / CHUNK, first + i % CHUNK);
    for (int i = threadIdx.x; i < 4 * TILE * CHUNK; i += THREADS) {
      int line = i / CHUNK;
      i64 unit = start + line % TILE;
      right[line][i % CHUNK] =
          unit < size ? element(weight, 4 * size, size, line / TILE * size + unit, first + i % CHUNK) : (A)0;
    }
    __syncthreads();
    for (int j = 0; j < CHUNK; j++)
      for (int k = 0; k < 4; k++) gate[k] += left[r][j] * right[k * TILE + u][j];
    __syncthreads();
  }
  i64 row = top + r, unit = start + u;
  if (row >= rows || unit >= size) return;
  i64 at = row * 4 * size + unit;
  for (int k = 0; k < 4; k++) gate[k] += widen(x[at + k * size]);
  Step step = {size, cell, hidden, next, gates};
  step.run(row * size + unit, at, gate);
}

// Gradients of the arguments of a step's gates. `carry` is the gradient of its cell from the next step, of which
// the last has none, and becomes that of the cell before. `g_gates` reaches the gates themselves; it and `g_cell`
// may be missing.
struct StepGradient {
  i64 size, is_last;
  const T *g_cell, *g_gates, *gates, *before, *cell;
  T* out;
  A* carry;

  // `above` is what reaches the hidden state.
  __device__ void run(i64 e, i64 at, A above) const {
    A gate[4], up[4], slope[4];
    for (int k = 0; k < 4; k++) {
      gate[k] = widen(gates[at + k * size]);
      up[k] = get(g_gates, at + k * size, 0);
      slope[k] = k == 2 ? (A)1 - gate[k] * gate[k] : gate[k] * ((A)1 - gate[k]);
    }
    A top = (A)tanh(widen(cell[e]));
    A inner = (is_last ? (A)0 : carry[e]) + get(g_cell, e, 0) + above * (gate[3] * ((A)1 - top * top));
    store(out + at, (inner * gate[2] + up[0]) * slope[0]);
    store(out + at + size, (inner * widen(before[e]) + up[1]) * slope[1]);
    store(out + at + 2 * size, (inner * gate[0] + up[2]) * slope[2]);
    store(out + at + 3 * size, (above * top + up[3]) * slope[3]);
    carry[e] = inner * gate[1];
  }
};

// `later` is what reaches the hidden state from the next step, missing in the last one.
KERNEL lstm_step_gradient(i64 n, i64 size, const T* g_hidden, const T* later, const T* g_cell,
                          const T* g_gates, const T* gates, const T* before, const T* cell, T* out, A* carry) {
  StepGradient step = {size, !later, g_cell, g_gates, gates, before, cell, out, carry};
  FOR_EACH(e, n) {
    Split s = divide(e, size);
    step.run(e, s.quotient * 4 * size + s.rest, widen(g_hidden[e]) + get(later, e, 0));
  }
}

// The same with the product of the next step's gradients and the weight.
KERNEL lstm_product_step_gradient(i64 rows, i64 size, const T* g_hidden, const T* after, const T* weight,
                                  const T* g_cell, const T* g_gates, const T* gates, const T* before,
                                  const T* cell, T* out, A* carry) {
  __shared__ A left[TILE][CHUNK + 1], right[CHUNK][TILE + 1];
  int r = threadIdx.x / TILE, u = threadIdx.x % TILE;
  i64 top = (i64)blockIdx.x * TILE, start = (i64)blockIdx.y * TILE;
  A above = 0;
  for (i64 first = 0; after && first < 4 * size; first += CHUNK) {
    for (int i = threadIdx.x; i < TILE * CHUNK; i += THREADS) {
      left[i / CHUNK][i % CHUNK] = element(after, rows, 4 * size, top + i / CHUNK, first + i % CHUNK);
      right[i / TILE][i % TILE] = element(weight, 4 * size, size, first + i / TILE, start + i % TILE);
    }
    __syncthreads();
    for (int j = 0; j < CHUNK; j++) above += left[r][j] * right[j][u];
    __syncthreads();
  }
  i64 row = top + r, unit = start + u, e = row * size + unit;
  if (row >= rows || unit >= size) return;
  StepGradient step = {size, !after, g_cell, g_gates, gates, before, cell, out, carry};
  step.run(e, row * 4 * size + unit, widen(g_hidden[e]) + above);
}

// Gated recurrent units.
KERNEL gru_step(i64 n, i64 size, const T* x, const T* h, const T* hidden, T* out) {
  FOR_EACH(e, n) {
    Split place = divide(e, size);
    i64 at = place.quotient * 3 * size + place.rest;
    A r = sigmoid(widen(x[at]) + widen(h[at]));
    A z = sigmoid(widen(x[at + size]) + widen(h[at + size]));
    A fresh = (A)tanh(widen(x[at + 2 * size]) + r * widen(h[at + 2 * size]));
    store(out + e, fresh + z * (widen(hidden[e]) - fresh));
  }
}

KERNEL gru_step_gradient(i64 n, i64 size, const T* g, const T* x, const T* h, const T* hidden, T* g_x, T* g_h,
                         T* g_hidden) {
  FOR_EACH(e, n) {
    Split place = divide(e, size);
    i64 at = place.quotient * 3 * size + place.rest;
    A r = sigmoid(widen(x[at]) + widen(h[at]));
    A z = sigmoid(widen(x[at + size]) + widen(h[at + size]));
    A below = widen(h[at + 2 * size]), up = widen(g[e]);
    A fresh = (A)tanh(widen(x[at + 2 * size]) + r * below);
    A g_n = up * (((A)1 - z) * ((A)1 - fresh * fresh));
    A g_r = g_n * (below * (r * ((A)1 - r)));
    A g_z = up * ((widen(hidden[e]) - fresh) * (z * ((A)1 - z)));
    store(g_x + at, g_r);
    store(g_h + at, g_r);
    store(g_x + at + size, g_z);
    store(g_h + at + size, g_z);
    store(g_x + at + 2 * size, g_n);
    store(g_h + at + 2 * size, g_n * r);
    store(g_hidden + e, up * z);
  }
}
