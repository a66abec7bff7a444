// What stands between attention's matrix products: scores [rows, keys] turned into weights, and back.
#include "numbers.cuh"

#define ARRAYS 10

struct Spread {  // where the matrices of several arrays lie, in bytes: i of them at i / inner and i % inner steps
  i64 base[ARRAYS], inner[ARRAYS], outer_step[ARRAYS], inner_step[ARRAYS];
};

// The addresses of all matrices, [arrays, count], an array to a place of the grid's second axis.
KERNEL write_addresses(i64 count, Spread s, i64* addresses) {
  i64 a = blockIdx.y;
  FOR_EACH(i, count) {
    Split at = divide(i, s.inner[a]);
    addresses[a * count + i] = s.base[a] + at.quotient * s.outer_step[a] + at.rest * s.inner_step[a];
  }
}

// Softmax of scores as the product has left them, in A; `weights` may be the same memory. Rows come in groups
// of `queries`, and a causal row sees keys up to its own place.
KERNEL attention_weights(
    i64 rows, i64 keys, i64 queries, i64 first, i64 causal, const A* scores, T* weights) {
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    const A* row = scores + i * keys;
    i64 seen = first + i % queries + 1;
    if (!causal || seen > keys) seen = keys;
    A top = LOWEST, total = 0;
    FOR_BLOCK(j, 0, seen) {
      if (row[j] > top) top = row[j];
    }
    top = block_max(top);
    FOR_BLOCK(j, 0, seen) total += (A)exp(row[j] - top);
    A rate = (A)1 / block_sum(total);
    FOR_BLOCK(j, 0, keys) store(weights + i * keys + j, j < seen ? (A)exp(row[j] - top) * rate : (A)0);
  }
}

// The scores' gradient in place of the weights: (s - sum of s w) w scale, s being the gradient of the weights.
KERNEL attention_slopes(i64 rows, i64 keys, double scale, const A* slopes, T* weights) {
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    A total = 0;
    FOR_BLOCK(j, i * keys, (i + 1) * keys) total += slopes[j] * widen(weights[j]);
    total = block_sum(total);
    FOR_BLOCK(j, i * keys, (i + 1) * keys)
    store(weights + j, (slopes[j] - total) * widen(weights[j]) * (A)scale);
  }
}
