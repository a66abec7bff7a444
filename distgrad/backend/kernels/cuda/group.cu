// Group norm of [samples, channels, places]: a group's channels lie in one piece, a row, with a block of threads.
//
// rows counts samples and groups, columns a group's elements.
#include "numbers.cuh"

// The channel of element j of row i.
__device__ inline i64 channel_of(i64 i, i64 j, i64 columns, i64 groups, i64 places) {
  return i % groups * (columns / places) + j / places;
}

// A row's mean, and one over its deviation.
__device__ inline void find_moments(const T* x, i64 columns, A eps, A* mean, A* rate) {
  A total = 0;
  FOR_BLOCK(j, 0, columns) total += widen(x[j]);
  *mean = block_sum(total) / (A)columns;
  total = 0;
  FOR_BLOCK(j, 0, columns) {
    A d = widen(x[j]) - *mean;
    total += d * d;
  }
  *rate = (A)1 / (A)sqrt(block_sum(total) / (A)columns + eps);
}

KERNEL group_forward(i64 rows, i64 columns, i64 groups, i64 places, const T* x, const T* weight,
                     const T* bias, double eps, T* y) {
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    A mean, rate;
    find_moments(x + i * columns, columns, (A)eps, &mean, &rate);
    FOR_BLOCK(j, 0, columns) {
      i64 c = channel_of(i, j, columns, groups, places);
      A v = (widen(x[i * columns + j]) - mean) * rate;
      store(y + i * columns + j, v * get(weight, c, (A)1) + get(bias, c, (A)0));
    }
  }
}

// The gradient in x, and for the other two the moments of each row, [rows, 2].
KERNEL group_backward(i64 rows, i64 columns, i64 groups, i64 places, const T* g, const T* x, const T* weight,
                      double eps, T* g_x, A* moments) {
  for (i64 i = blockIdx.x; i < rows; i += gridDim.x) {
    const T *row = x + i * columns, *up = g + i * columns;
    A mean, rate;
    find_moments(row, columns, (A)eps, &mean, &rate);
    if (threadIdx.x == 0) {
      moments[2 * i] = mean;
      moments[2 * i + 1] = rate;
    }
    A first = 0, second = 0;
    FOR_BLOCK(j, 0, columns) {
      A inner = widen(up[j]) * get(weight, channel_of(i, j, columns, groups, places), (A)1);
      first += inner;
      second += inner * ((widen(row[j]) - mean) * rate);
    }
    first = block_sum(first) / (A)columns;
    second = block_sum(second) / (A)columns;
    FOR_BLOCK(j, 0, columns) {
      A inner = widen(up[j]) * get(weight, channel_of(i, j, columns, groups, places), (A)1);
      A y = (widen(row[j]) - mean) * rate;
      store(g_x + i * columns + j, (inner - first - y * second) * rate);
    }
  }
}

// Gradients of weight and bias, a block a channel; count is a channel's elements over all samples.
KERNEL group_affine(i64 channels, i64 count, i64 groups, i64 places, const T* g, const T* x, const A* moments,
                    T* g_weight, T* g_bias) {
  for (i64 c = blockIdx.x; c < channels; c += gridDim.x) {
    A weight = 0, bias = 0;
    FOR_BLOCK(e, 0, count) {
      i64 n = e / places, i = (n * channels + c) * places + e % places;
      const A* moment = moments + 2 * (n * groups + c / (channels / groups));
      A up = widen(g[i]);
      weight += up * ((widen(x[i]) - moment[0]) * moment[1]);
      bias += up;
    }
    weight = block_sum(weight);
    bias = block_sum(bias);
    if (threadIdx.x == 0) {
      if (g_weight) store(g_weight + c, weight);
      if (g_bias) store(g_bias + c, bias);
    }
  }
}
