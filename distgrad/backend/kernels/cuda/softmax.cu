// Softmax, its logarithm, and cross entropy over contiguous rows, a block of threads a row.
#include "numbers.cuh"

// The row's largest element, and the sum of e^x less it.
__device__ inline void find_total(const T* x, i64 columns, A* top, A* total) {
  A largest = LOWEST, sum = 0;
  FOR_BLOCK(j, 0, columns) {
    A v = widen(x[j]);
    if (v > largest) largest = v;
  }
  largest = block_max(largest);
  FOR_BLOCK(j, 0, columns) sum += (A)exp(widen(x[j]) - largest);
  *top = largest;
  *total = block_sum(sum);
}

KERNEL softmax(i64 rows, i64 columns, const T* x, T* y) {
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    A top, total;
    find_total(x + i * columns, columns, &top, &total);
    A rate = (A)1 / total;
    FOR_BLOCK(j, i * columns, (i + 1) * columns) store(y + j, (A)exp(widen(x[j]) - top) * rate);
  }
}

KERNEL softmax_gradient(i64 rows, i64 columns, const T* g, const T* y, T* out) {
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    A total = 0;
    FOR_BLOCK(j, i * columns, (i + 1) * columns) total += widen(g[j]) * widen(y[j]);
    total = block_sum(total);
    FOR_BLOCK(j, i * columns, (i + 1) * columns) store(out + j, (widen(g[j]) - total) * widen(y[j]));
  }
}

KERNEL log_softmax(i64 rows, i64 columns, const T* x, T* y) {
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    A top, total;
    find_total(x + i * columns, columns, &top, &total);
    A log_total = log(total);
    FOR_BLOCK(j, i * columns, (i + 1) * columns) store(y + j, widen(x[j]) - top - log_total);
  }
}

KERNEL log_softmax_gradient(i64 rows, i64 columns, const T* g, const T* y, T* out) {
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    A total = 0;
    FOR_BLOCK(j, i * columns, (i + 1) * columns) total += widen(g[j]);
    total = block_sum(total);
    FOR_BLOCK(j, i * columns, (i + 1) * columns)
    store(out + j, widen(g[j]) - (A)exp(widen(y[j])) * total);
  }
}

// A class outside the row gives NaN: the host does not wait to look at the targets. A row whose target is
// `ignored` counts nothing.
KERNEL cross_entropy(i64 rows, i64 columns, const T* x, const i64* target, i64 ignored, T* y) {
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    i64 c = target[i];
    if (c == ignored) {
      if (threadIdx.x == 0) store(y + i, (A)0);
      continue;
    }
    A top, total;
    find_total(x + i * columns, columns, &top, &total);
    bool inside = c >= 0 && c < columns;
    A picked = inside ? widen(x[i * columns + c]) : NOTHING;
    if (threadIdx.x == 0) store(y + i, (A)log(total) + (top - picked));
  }
}

KERNEL cross_entropy_gradient(i64 rows, i64 columns, const T* x, const T* g, const i64* target, i64 ignored,
                              T* out) {
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    i64 c = target[i];
    if (c == ignored) {
      FOR_BLOCK(j, i * columns, (i + 1) * columns) store(out + j, (A)0);
      continue;
    }
    A top, total;
    find_total(x + i * columns, columns, &top, &total);
    bool inside = c >= 0 && c < columns;
    A up = inside ? widen(g[i]) : NOTHING;
    FOR_BLOCK(j, 0, columns) {
      A share = (A)exp(widen(x[i * columns + j]) - top) / total;
      store(out + i * columns + j, (j == c ? share - (A)1 : share) * up);
    }
  }
}

// How many rows count, known to all threads of the block.
__device__ inline double count_rows(i64 rows, const i64* target, i64 ignored) {
  double number = 0;
  FOR_BLOCK(i, 0, rows) number += target[i] != ignored;
  return block_sum(number);
}

// By one block: the mean over the rows that count; of none NaN.
KERNEL counted_mean(i64 rows, const T* losses, const i64* target, i64 ignored, T* y) {
  double total = 0, number = count_rows(rows, target, ignored);
  FOR_BLOCK(i, 0, rows) {
    if (target[i] != ignored) total += widen(losses[i]);
  }
  total = block_sum(total);
  if (threadIdx.x == 0) store(y, number > 0 ? (A)(total / number) : NOTHING);
}

KERNEL counted_mean_gradient(i64 rows, const T* g, const i64* target, i64 ignored, T* out) {
  double number = count_rows(rows, target, ignored);
  FOR_BLOCK(i, 0, rows) store(out + i, target[i] != ignored ? (A)(widen(*g) / number) : (A)0);
}
