// Steps of recurrent networks, a thread an element of the state: all its gates at once.
// Gates stand side by side in a row, [i, f, n, o] or [r, z, n], of `size` elements each.
#include "numbers.cuh"

// Long short-term memory. x and h are the two summands of the gates' arguments, [rows, 4 size]; the gates
// themselves are kept where there is room for them.
KERNEL lstm_step(i64 n, i64 size, const T* x, const T* h, const T* cell, T* hidden, T* out, T* gates) {
  FOR_EACH(e, n) {
    i64 at = e / size * 4 * size + e % size;
    A gate[4];
    for (int k = 0; k < 4; k++) {
      A v = widen(x[at + k * size]) + widen(h[at + k * size]);
      gate[k] = k == 2 ? (A)tanh(v) : sigmoid(v);
      if (gates) store(gates + at + k * size, gate[k]);
    }
    A next = gate[1] * widen(cell[e]) + gate[0] * gate[2];
    store(out + e, next);
    store(hidden + e, gate[3] * (A)tanh(next));
  }
}

// Gradients of the arguments of a step's gates. `g_hidden` and `later` are what reaches its hidden state from
// outside and from the next step, of which the last has none; `carry` is that of its cell from the next step,
// and becomes that of the cell before. `g_gates` reaches the gates themselves; it and `g_cell` may be missing.
KERNEL lstm_step_gradient(i64 n, i64 size, const T* g_hidden, const T* later, const T* g_cell,
                          const T* g_gates, const T* gates, const T* before, const T* cell, T* out, A* carry) {
  FOR_EACH(e, n) {
    i64 at = e / size * 4 * size + e % size;
    A gate[4], up[4], slope[4];
    for (int k = 0; k < 4; k++) {
      gate[k] = widen(gates[at + k * size]);
      up[k] = get(g_gates, at + k * size, 0);
      slope[k] = k == 2 ? (A)1 - gate[k] * gate[k] : gate[k] * ((A)1 - gate[k]);
    }
    A top = (A)tanh(widen(cell[e]));
    A above = widen(g_hidden[e]) + get(later, e, 0);
    A inner = carry[e] + get(g_cell, e, 0) + above * (gate[3] * ((A)1 - top * top));
    store(out + at, (inner * gate[2] + up[0]) * slope[0]);
    store(out + at + size, (inner * widen(before[e]) + up[1]) * slope[1]);
    store(out + at + 2 * size, (inner * gate[0] + up[2]) * slope[2]);
    store(out + at + 3 * size, (above * top + up[3]) * slope[3]);
    carry[e] = inner * gate[1];
  }
}

// Gated recurrent units.
KERNEL gru_step(i64 n, i64 size, const T* x, const T* h, const T* hidden, T* out) {
  FOR_EACH(e, n) {
    i64 at = e / size * 3 * size + e % size;
    A r = sigmoid(widen(x[at]) + widen(h[at]));
    A z = sigmoid(widen(x[at + size]) + widen(h[at + size]));
    A fresh = (A)tanh(widen(x[at + 2 * size]) + r * widen(h[at + 2 * size]));
    store(out + e, fresh + z * (widen(hidden[e]) - fresh));
  }
}

KERNEL gru_step_gradient(i64 n, i64 size, const T* g, const T* x, const T* h, const T* hidden, T* g_x, T* g_h,
                         T* g_hidden) {
  FOR_EACH(e, n) {
    i64 at = e / size * 3 * size + e % size;
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
