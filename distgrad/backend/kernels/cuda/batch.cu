// Batch norm of [images, channels, places]: each channel's elements are cut into runs, a block of threads a run.
//
// A run's mean and squared deviations are combined with those of the others, which loses fewer digits than
// sums of squares do. How long a run is depends on the shape alone.
// Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
#include "numbers.cuh"

// Where element e of a channel lies.
__device__ inline i64 place_of(i64 e, i64 c, i64 channels, i64 places) {
  return (e / places * channels + c) * places + e % places;
}

// For channel blockIdx.x and run blockIdx.y: mean and sum of squared deviations, [channels, runs, 2].
KERNEL batch_runs(i64 images, i64 channels, i64 places, i64 run, const T* x, A* partial) {
  i64 c = blockIdx.x, first = blockIdx.y * run, count = images * places;
  i64 last = first + run < count ? first + run : count;
  A total = 0;
  FOR_BLOCK(e, first, last) total += widen(x[place_of(e, c, channels, places)]);
  A mean = block_sum(total) / (A)(last - first);
  total = 0;
  FOR_BLOCK(e, first, last) {
    A d = widen(x[place_of(e, c, channels, places)]) - mean;
    total += d * d;
  }
  total = block_sum(total);
  if (threadIdx.x == 0) {
    partial[2 * (c * gridDim.y + blockIdx.y)] = mean;
    partial[2 * (c * gridDim.y + blockIdx.y) + 1] = total;
  }
}

// Means and variances of the channels: in A for the kernels that follow, [2, channels], and in T.
KERNEL batch_moments(
    i64 channels, i64 count, i64 run, i64 runs, const A* partial, A* moments, T* mean, T* variance) {
  FOR_EACH(c, channels) {
    const A* part = partial + 2 * c * runs;
    A level = 0, total = 0;
    for (i64 k = 0; k < runs; k++) {
      A share = (A)(k + 1 < runs ? run : count - k * run) / (A)count;
      level += part[2 * k] * share;
    }
    for (i64 k = 0; k < runs; k++) {
      A size = (A)(k + 1 < runs ? run : count - k * run), d = part[2 * k] - level;
      total += part[2 * k + 1] + size * d * d;
    }
    moments[c] = level;
    moments[channels + c] = total / (A)count;
    if (mean) store(mean + c, level);
    if (variance) store(variance + c, total / (A)count);
  }
}

// Running statistics moved in place towards a batch's, whose variance times `unbiased` is meant; `at` holds how
// far, if the number lies on the device.
KERNEL move_statistics(i64 channels, double momentum, const double* at, double unbiased, const T* mean,
                       const T* variance, T* running_mean, T* running_var) {
  double share = at ? *at : momentum;
  A next = (A)share, last = (A)(1.0 - share);
  FOR_EACH(c, channels) {
    store(running_mean + c, last * widen(running_mean[c]) + next * widen(mean[c]));
    store(running_var + c, last * widen(running_var[c]) + next * (widen(variance[c]) * (A)unbiased));
  }
}

KERNEL batch_forward(i64 n, i64 channels, i64 places, const T* x, const A* moments, const T* weight,
                     const T* bias, double eps, T* y) {
  FOR_EACH(i, n) {
    i64 c = i / places % channels;
    A scale = get(weight, c, (A)1) / (A)sqrt(moments[channels + c] + (A)eps);
    store(y + i, (widen(x[i]) - moments[c]) * scale + get(bias, c, (A)0));
  }
}

// As batch_runs: the sums of g and of g (x - mean).
KERNEL batch_gradient_runs(
    i64 images, i64 channels, i64 places, i64 run, const T* g, const T* x, const A* moments, A* partial) {
  i64 c = blockIdx.x, first = blockIdx.y * run, count = images * places;
  i64 last = first + run < count ? first + run : count;
  A level = 0, slope = 0;
  FOR_BLOCK(e, first, last) {
    i64 i = place_of(e, c, channels, places);
    A up = widen(g[i]);
    level += up;
    slope += up * (widen(x[i]) - moments[c]);
  }
  level = block_sum(level);
  slope = block_sum(slope);
  if (threadIdx.x == 0) {
    partial[2 * (c * gridDim.y + blockIdx.y)] = level;
    partial[2 * (c * gridDim.y + blockIdx.y) + 1] = slope;
  }
}

// Gradients of weight and bias, and what the gradient in x is made of: [3, channels], the factors of g and of
// x - mean, and a number. g_mean and g_variance are the gradients of the statistics, which may be missing.
KERNEL batch_gradient_factors(i64 channels, i64 count, i64 runs, const A* partial, const A* moments,
                              const T* weight, const T* g_mean, const T* g_variance, double eps, A* factors,
                              T* g_weight, T* g_bias) {
  FOR_EACH(c, channels) {
    const A* part = partial + 2 * c * runs;
    A level = 0, slope = 0;
    for (i64 k = 0; k < runs; k++) {
      level += part[2 * k];
      slope += part[2 * k + 1];
    }
    A rate = (A)1 / (A)sqrt(moments[channels + c] + (A)eps);
    A scale = get(weight, c, (A)1), share = (A)1 / (A)count;
    slope *= rate;
    if (g_weight) store(g_weight + c, slope);
    if (g_bias) store(g_bias + c, level);
    factors[c] = scale * rate;
    factors[channels + c] =
        get(g_variance, c, (A)0) * ((A)2 * share) - rate * rate * (scale * slope * share);
    factors[2 * channels + c] = get(g_mean, c, (A)0) * share - rate * (scale * level * share);
  }
}

KERNEL batch_gradient(i64 n, i64 channels, i64 places, const T* g, const T* x, const A* moments,
                      const A* factors, T* out) {
  FOR_EACH(i, n) {
    i64 c = i / places % channels;
    A d = widen(x[i]) - moments[c];
    store(out + i, widen(g[i]) * factors[c] + d * factors[channels + c] + factors[2 * channels + c]);
  }
}
