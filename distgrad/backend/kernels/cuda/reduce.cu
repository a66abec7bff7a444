// Sums over whole arrays, in double: a slice's parts first, then all slices' parts. Nothing here waits for
// the host, and the parts depend on the shape alone.
#include "numbers.cuh"

// For each block of threads the sum of squares of its run of elements.
KERNEL square_parts(i64 n, i64 run, const T* x, double* parts) {
  i64 first = blockIdx.x * run, last = first + run < n ? first + run : n;
  double total = 0;
  FOR_BLOCK(i, first, last) {
    double v = (double)widen(x[i]);
    total += v * v;
  }
  total = block_sum(total);
  if (threadIdx.x == 0) parts[blockIdx.x] = total;
}

// x times a factor; and for each block of threads how many elements of its run were infinite or NaN.
KERNEL unscale_parts(i64 n, i64 run, T* x, double* parts, double factor, const double* live) {
  if (live) factor = *live;
  i64 first = blockIdx.x * run, last = first + run < n ? first + run : n;
  double count = 0;
  FOR_BLOCK(i, first, last) {
    A v = widen(x[i]);
    if (!(v - v == (A)0)) count += 1;
    store(x + i, v * (A)factor);
  }
  count = block_sum(count);
  if (threadIdx.x == 0) parts[blockIdx.x] = count;
}

// The sum of the parts, by one block of threads.
KERNEL sum_parts(i64 n, const double* parts, double* total) {
  double sum = 0;
  FOR_BLOCK(i, 0, n) sum += parts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total = sum;
}

// x less what makes its norm larger than `most`; a NaN goes into x, but for the zeros between gradients.
KERNEL clip_by_norm(i64 n, const double* norm, double most, T* x) {
  double scale = most / (*norm + 1e-6);
  if (scale >= 1) return;
  FOR_EACH(i, n) {
    A v = widen(x[i]);
    if (v != (A)0) store(x + i, v * (A)scale);
  }
}
