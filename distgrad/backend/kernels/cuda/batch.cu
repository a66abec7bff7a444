// Batch norm of [images, channels, places]: each channel's elements are cut into runs, a block of threads a run.
//
// A first kernel leaves what each run adds up to. A second one, of the same blocks, puts a channel's runs
// together in each of its blocks, which is less than another launch, and goes over the elements.
// A run's mean and squared deviations are combined with those of the others, which loses fewer digits than
// sums of squares do. How long a run is depends on the shape alone.
// Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979.
#include "numbers.cuh"

// Where element e of channel c lies.
__device__ inline i64 place_of(i64 e, i64 c, i64 channels, i64 places) {
  Split s = divide(e, places);
  return (s.quotient * channels + c) * places + s.rest;
}

// For channel blockIdx.x and run blockIdx.y: mean and sum of squared deviations, [channels, runs, 2]. With a
// gradient g also the sums of g and of g (x - the run's mean), [channels, runs, 4].
KERNEL batch_runs(i64 images, i64 channels, i64 places, i64 run, const T* x, const T* g, A* partial) {
  i64 c = blockIdx.x, first = blockIdx.y * run, count = images * places;
  i64 last = first + run < count ? first + run : count;
  A total = 0, level = 0, slope = 0;
  FOR_BLOCK(e, first, last) total += widen(x[place_of(e, c, channels, places)]);
  A mean = block_sum(total) / (A)(last - first);
  total = 0;
  FOR_BLOCK(e, first, last) {
    i64 i = place_of(e, c, channels, places);
    A d = widen(x[i]) - mean, up = get(g, i, (A)0);
    total += d * d;
    level += up;
    slope += up * d;
  }
  A* to = partial + (g ? 4 : 2) * (c * gridDim.y + blockIdx.y);
  total = block_sum(total);
  if (g) {
    level = block_sum(level);
    slope = block_sum(slope);
  }
  if (threadIdx.x != 0) return;
  to[0] = mean;
  to[1] = total;
  if (g) {
    to[2] = level;
    to[3] = slope;
  }
}

struct Channel {
  A mean, variance, level, slope;  // of x; the sums of g and of g (x - mean)
};

// A channel from its runs of `width` numbers each, by a whole block.
__device__ inline Channel combine(const A* part, int width, i64 count, i64 run, i64 runs) {
  Channel all = {part[0], part[1] / (A)count, width > 2 ? part[2] : (A)0, width > 2 ? part[3] : (A)0};
  if (runs == 1) return all;
  A total = 0, level = 0, slope = 0;
  FOR_BLOCK(k, 0, runs) {
    A size = (A)(k + 1 < runs ? run : count - k * run);
    total += part[width * k] * (size / (A)count);
  }
  all.mean = block_sum(total);
  total = 0;
  FOR_BLOCK(k, 0, runs) {
    A size = (A)(k + 1 < runs ? run : count - k * run), d = part[width * k] - all.mean;
    total += part[width * k + 1] + size * d * d;
    if (width > 2) {
      level += part[width * k + 2];
      slope += part[width * k + 3] + d * part[width * k + 2];
    }
  }
  all.variance = block_sum(total) / (A)count;
  if (width > 2) {
    all.level = block_sum(level);
    all.slope = block_sum(slope);
  }
  return all;
}

// The channel's own numbers, mean and variance, are written by the block of its first run.
KERNEL batch_forward(i64 images, i64 channels, i64 places, i64 run, const T* x, const A* partial,
                     const T* weight, const T* bias, double eps, T* y, T* mean, T* variance) {
  i64 c = blockIdx.x, first = blockIdx.y * run, count = images * places;
  i64 last = first + run < count ? first + run : count;
  Channel all = combine(partial + 2 * c * gridDim.y, 2, count, run, gridDim.y);
  A scale = get(weight, c, (A)1) / (A)sqrt(all.variance + (A)eps), shift = get(bias, c, (A)0);
  FOR_BLOCK(e, first, last) {
    i64 i = place_of(e, c, channels, places);
    store(y + i, (widen(x[i]) - all.mean) * scale + shift);
  }
  if (threadIdx.x == 0 && blockIdx.y == 0) {
    store(mean + c, all.mean);
    store(variance + c, all.variance);
  }
}

// Gradients of weight and bias by the block of a channel's first run, and in x, if that is wanted, by all.
// g_mean and g_variance are the gradients of the statistics, which may be missing.
KERNEL batch_gradient(i64 images, i64 channels, i64 places, i64 run, i64 runs, const T* x, const T* g,
                      const A* partial, const T* weight, const T* g_mean, const T* g_variance, double eps,
                      T* out, T* g_weight, T* g_bias) {
  i64 c = blockIdx.x, first = blockIdx.y * run, count = images * places;
  i64 last = first + run < count ? first + run : count;
  Channel all = combine(partial + 4 * c * runs, 4, count, run, runs);
  A rate = (A)1 / (A)sqrt(all.variance + (A)eps), scale = get(weight, c, (A)1), share = (A)1 / (A)count;
  A slope = all.slope * rate, tilt = get(g_variance, c, (A)0) * ((A)2 * share);
  if (threadIdx.x == 0 && blockIdx.y == 0) {
    if (g_weight) store(g_weight + c, slope);
    if (g_bias) store(g_bias + c, all.level);
  }
  if (!out) return;
  tilt -= rate * rate * (scale * slope * share);
  A level = get(g_mean, c, (A)0) * share - rate * (scale * all.level * share);
  FOR_BLOCK(e, first, last) {
    i64 i = place_of(e, c, channels, places);
    store(out + i, widen(g[i]) * (scale * rate) + (widen(x[i]) - all.mean) * tilt + level);
  }
}

// Running statistics moved in place towards a batch's, whose variance times `unbiased` is meant, by one block.
// `at` holds how far, if the number lies on the device. `batches` is how many there have been, and counts this
// one; with it `plain` makes the running ones means over all batches.
KERNEL move_statistics(i64 channels, double momentum, const double* at, i64 plain, i64* batches,
                       double unbiased, const T* mean, const T* variance, T* running_mean, T* running_var) {
  i64 number = batches ? *batches + 1 : 1;
  __syncthreads();  // all have read it
  if (batches && threadIdx.x == 0) *batches = number;
  double share = plain ? 1.0 / (double)number : at ? *at : momentum;
  A next = (A)share, last = (A)(1.0 - share);
  FOR_BLOCK(c, 0, channels) {
    store(running_mean + c, last * widen(running_mean[c]) + next * widen(mean[c]));
    store(running_var + c, last * widen(running_var[c]) + next * (widen(variance[c]) * (A)unbiased));
  }
}
