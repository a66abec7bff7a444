// Layer and root-mean-square norm over contiguous rows, a block of threads a row.
//
// Gradients of weight and bias are summed in runs of rows, then over the runs by the block that is done last.
// How long a run is depends on the shape alone, so that the sums repeat themselves to the bit on any GPU.
#include "numbers.cuh"

// A row's mean (0 unless it is centred), and one over its deviation.
__device__ inline void find_moments(const T* x, i64 columns, A eps, i64 centred, A* mean, A* rate) {
  A level = 0, total = 0;
  if (centred) {
    FOR_BLOCK(j, 0, columns) total += widen(x[j]);
    level = block_sum(total) / (A)columns;
    total = 0;
  }
  FOR_BLOCK(j, 0, columns) {
    A d = widen(x[j]) - level;
    total += d * d;
  }
  *mean = level;
  *rate = (A)1 / (A)sqrt(block_sum(total) / (A)columns + eps);
}

KERNEL norm_forward(
    i64 rows, i64 columns, const T* x, const T* weight, const T* bias, double eps, i64 centred, T* y) {
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    A mean, rate;
    find_moments(x + i * columns, columns, (A)eps, centred, &mean, &rate);
    FOR_BLOCK(j, 0, columns) {
      A v = (widen(x[i * columns + j]) - mean) * rate;
      store(y + i * columns + j, v * get(weight, j, (A)1) + get(bias, j, (A)0));
    }
  }
}

// The gradient in x, added to what came before if that is there, and for the other two the moments of each
// row, [rows, 2]. The counts that the next kernel needs begin at 0.
KERNEL norm_backward(i64 rows, i64 columns, const T* g, const T* x, const T* weight, const T* before,
                     double eps, i64 centred, T* g_x, A* moments, i64 strips, unsigned* done) {
  if (blockIdx.x == 0) FOR_BLOCK(j, 0, strips) done[j] = 0;
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    const T *row = x + i * columns, *up = g + i * columns;
    A mean, rate;
    find_moments(row, columns, (A)eps, centred, &mean, &rate);
    if (threadIdx.x == 0) {
      moments[2 * i] = mean;
      moments[2 * i + 1] = rate;
    }
    A first = 0, second = 0;
    FOR_BLOCK(j, 0, columns) {
      A inner = widen(up[j]) * get(weight, j, (A)1);
      first += inner;
      second += inner * ((widen(row[j]) - mean) * rate);
    }
    first = centred ? block_sum(first) / (A)columns : (A)0;
    second = block_sum(second) / (A)columns;
    FOR_BLOCK(j, 0, columns) {
      A inner = widen(up[j]) * get(weight, j, (A)1);
      A y = (widen(row[j]) - mean) * rate;
      store(g_x + i * columns + j, get(before, i * columns + j, (A)0) + (inner - first - y * second) * rate);
    }
  }
}

// For each run of rows (the grid's second axis) and column the sums of g y and g, [runs, 2, columns]; the
// gradients, by the last of a strip of columns' blocks.
KERNEL norm_affine(i64 rows, i64 columns, i64 run, const T* g, const T* x, const A* moments, A* partial,
                   unsigned* done, T* g_weight, T* g_bias) {
  i64 first = blockIdx.y * run;
  i64 last = first + run < rows ? first + run : rows;
  FOR_EACH(j, columns) {
    A weight = 0, bias = 0;
    for (i64 i = first; i < last; i++) {
      A up = widen(g[i * columns + j]);
      weight += up * ((widen(x[i * columns + j]) - moments[2 * i]) * moments[2 * i + 1]);
      bias += up;
    }
    partial[(2 * (i64)blockIdx.y) * columns + j] = weight;
    partial[(2 * (i64)blockIdx.y + 1) * columns + j] = bias;
  }
  if (!is_last_block(done + blockIdx.x, gridDim.y)) return;
  const volatile A* sums = partial;  // what other blocks have written
  FOR_EACH(j, columns) {
    A weight = 0, bias = 0;
    for (i64 k = 0; k < gridDim.y; k++) {
      weight += sums[2 * k * columns + j];
      bias += sums[(2 * k + 1) * columns + j];
    }
    if (g_weight) store(g_weight + j, weight);
    if (g_bias) store(g_bias + j, bias);
  }
}
