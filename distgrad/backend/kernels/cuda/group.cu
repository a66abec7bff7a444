// Group norm of [samples, channels, places]: a group's channels lie in one piece, a row of elements.
//
// rows counts samples and groups, columns a row's elements. Where there are few rows, each is cut into runs (the
// grid's second axis): kernels of the same blocks leave what a run adds up to, and the next one puts a row's
// runs together in each of its blocks. Means and squared deviations of runs are combined, which loses fewer
// digits than sums of squares do. A row of one run is added up by the kernel that needs its sums.
// Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
#include "numbers.cuh"

// A group norm's sizes, passed by value.
struct Groups {
  i64 rows, columns, groups, places, run;
};

struct Pair {
  A first, second;
};

// A run's elements of its row, from `first` on.
struct Stretch {
  i64 first, last;
};
__device__ inline Stretch stretch_of(Groups s) {
  i64 first = blockIdx.y * s.run;
  return {first, first + s.run < s.columns ? first + s.run : s.columns};
}

// The channel of element j of row i.
__device__ inline i64 channel_of(i64 i, i64 j, Groups s) {
  return divide(i, s.groups).rest * (s.columns / s.places) + divide(j, s.places).quotient;
}

// Mean and sum of squared deviations of elements first ... last - 1.
__device__ inline Pair moments_of(const T* x, Stretch part) {
  A total = 0;
  FOR_BLOCK(j, part.first, part.last) total += widen(x[j]);
  A mean = block_sum(total) / (A)(part.last - part.first);
  total = 0;
  FOR_BLOCK(j, part.first, part.last) {
    A d = widen(x[j]) - mean;
    total += d * d;
  }
  return {mean, block_sum(total)};
}

// A row's mean, and one over its deviation; from its runs' moments where it has several.
__device__ inline Pair row_moments(const T* x, const A* partial, i64 i, Groups s, A eps) {
  if (gridDim.y == 1) {
    Pair all = moments_of(x + i * s.columns, {0, s.columns});
    return {all.first, (A)1 / (A)sqrt(all.second / (A)s.columns + eps)};
  }
  const A* part = partial + 2 * i * gridDim.y;
  A total = 0;
  FOR_BLOCK(k, 0, gridDim.y) {
    A size = (A)(k + 1 < gridDim.y ? s.run : s.columns - k * s.run);
    total += part[2 * k] * (size / (A)s.columns);
  }
  A mean = block_sum(total);
  total = 0;
  FOR_BLOCK(k, 0, gridDim.y) {
    A size = (A)(k + 1 < gridDim.y ? s.run : s.columns - k * s.run), d = part[2 * k] - mean;
    total += part[2 * k + 1] + size * d * d;
  }
  return {mean, (A)1 / (A)sqrt(block_sum(total) / (A)s.columns + eps)};
}

KERNEL group_runs(Groups s, const T* x, A* partial) {
  for (i64 i = blockIdx.x; i < s.rows; i += gridDim.x) {
    Pair part = moments_of(x + i * s.columns, stretch_of(s));
    if (threadIdx.x != 0) continue;
    partial[2 * (i * gridDim.y + blockIdx.y)] = part.first;
    partial[2 * (i * gridDim.y + blockIdx.y) + 1] = part.second;
  }
}

KERNEL group_forward(Groups s, const T* x, const A* partial, const T* weight, const T* bias, double eps, T* y) {
  Stretch part = stretch_of(s);
  for (i64 i = blockIdx.x; i < s.rows; i += gridDim.x) {
    Pair m = row_moments(x, partial, i, s, (A)eps);
    FOR_BLOCK(j, part.first, part.last) {
      i64 c = channel_of(i, j, s);
      A v = (widen(x[i * s.columns + j]) - m.first) * m.second;
      store(y + i * s.columns + j, v * get(weight, c, (A)1) + get(bias, c, (A)0));
    }
  }
}

// The sums of g weight, and of that by the row's result without weight and bias, over some of its elements.
__device__ inline Pair slopes_of(const T* g, const T* x, const T* weight, i64 i, Pair m, Groups s, Stretch part) {
  A first = 0, second = 0;
  FOR_BLOCK(j, part.first, part.last) {
    A inner = widen(g[i * s.columns + j]) * get(weight, channel_of(i, j, s), (A)1);
    first += inner;
    second += inner * ((widen(x[i * s.columns + j]) - m.first) * m.second);
  }
  first = block_sum(first);
  return {first, block_sum(second)};
}

KERNEL group_slopes(Groups s, const T* g, const T* x, const A* partial, const T* weight, double eps, A* slopes) {
  for (i64 i = blockIdx.x; i < s.rows; i += gridDim.x) {
    Pair m = row_moments(x, partial, i, s, (A)eps);
    Pair part = slopes_of(g, x, weight, i, m, s, stretch_of(s));
    if (threadIdx.x != 0) continue;
    slopes[2 * (i * gridDim.y + blockIdx.y)] = part.first;
    slopes[2 * (i * gridDim.y + blockIdx.y) + 1] = part.second;
  }
}

// A row's, from its runs' where it has several.
__device__ inline Pair row_slopes(const T* g, const T* x, const T* weight, const A* slopes, i64 i, Pair m,
                                  Groups s) {
  if (gridDim.y == 1) return slopes_of(g, x, weight, i, m, s, {0, s.columns});
  A first = 0, second = 0;
  FOR_BLOCK(k, 0, gridDim.y) {
    first += slopes[2 * (i * gridDim.y + k)];
    second += slopes[2 * (i * gridDim.y + k) + 1];
  }
  first = block_sum(first);
  return {first, block_sum(second)};
}

// The gradient in x, and for the other two the moments of each row, [rows, 2], and zeros to count blocks by.
KERNEL group_gradient(Groups s, const T* g, const T* x, const A* partial, const T* weight, const A* slopes,
                      double eps, T* g_x, A* moments, i64 channels, unsigned* done) {
  Stretch part = stretch_of(s);
  for (i64 c = (i64)blockIdx.x * blockDim.x + threadIdx.x; blockIdx.y == 0 && c < channels;
       c += (i64)gridDim.x * blockDim.x)
    done[c] = 0;
  for (i64 i = blockIdx.x; i < s.rows; i += gridDim.x) {
    Pair m = row_moments(x, partial, i, s, (A)eps), slope = row_slopes(g, x, weight, slopes, i, m, s);
    if (threadIdx.x == 0 && blockIdx.y == 0) {
      moments[2 * i] = m.first;
      moments[2 * i + 1] = m.second;
    }
    A first = slope.first / (A)s.columns, second = slope.second / (A)s.columns;
    FOR_BLOCK(j, part.first, part.last) {
      A inner = widen(g[i * s.columns + j]) * get(weight, channel_of(i, j, s), (A)1);
      A y = (widen(x[i * s.columns + j]) - m.first) * m.second;
      store(g_x + i * s.columns + j, (inner - first - y * second) * m.second);
    }
  }
}

// Gradients of weight and bias. A channel's elements, `count` of them over all samples, are cut into runs (the
// grid's second axis); the last of its blocks adds up what they have left, [channels, runs, 2].
KERNEL group_affine(i64 channels, i64 count, i64 run, i64 groups, i64 places, const T* g, const T* x,
                    const A* moments, A* partial, unsigned* done, T* g_weight, T* g_bias) {
  i64 c = blockIdx.x, first = blockIdx.y * run, last = first + run < count ? first + run : count;
  i64 group = c / (channels / groups);
  A weight = 0, bias = 0;
  FOR_BLOCK(e, first, last) {
    Split at = divide(e, places);
    i64 i = (at.quotient * channels + c) * places + at.rest;
    const A* moment = moments + 2 * (at.quotient * groups + group);
    A up = widen(g[i]);
    weight += up * ((widen(x[i]) - moment[0]) * moment[1]);
    bias += up;
  }
  weight = block_sum(weight);
  bias = block_sum(bias);
  if (gridDim.y > 1) {
    A* to = partial + 2 * (c * gridDim.y + blockIdx.y);
    if (threadIdx.x == 0) {
      to[0] = weight;
      to[1] = bias;
    }
    if (!is_last_block(done + c, gridDim.y)) return;
    const volatile A* sums = partial + 2 * c * gridDim.y;  // what other blocks have written
    weight = bias = 0;
    FOR_BLOCK(k, 0, gridDim.y) {
      weight += sums[2 * k];
      bias += sums[2 * k + 1];
    }
    weight = block_sum(weight);
    bias = block_sum(bias);
  }
  if (threadIdx.x != 0) return;
  if (g_weight) store(g_weight + c, weight);
  if (g_bias) store(g_bias + c, bias);
}
