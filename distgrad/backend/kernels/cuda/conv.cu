// What stands around a convolution's matrix products: patches as columns, and columns summed up again.
// With one channel a group the product is left out: each output is a short sum of its own.
#include "windows.cuh"

// Patches [images, channels, places of the kernel, outputs] of x [images, channels, inputs].
KERNEL unroll(i64 planes, Windows w, const T* x, T* patches) {
  int size = size_of(w.out), length = size_of(w.in), count = size_of(w.kernel), to[3], k[3];
  FOR_PLANES(p, planes * count) {
    split((unsigned)(p % count), w.kernel, k);
    const T* plane = x + p / count * length;
    FOR_EACH(i, size) {
      split((unsigned)i, w.out, to);
      int at = input_of(w, to, k);
      if (at < 0)
        store(patches + p * size + i, (A)0);
      else
        patches[p * size + i] = plane[at];
    }
  }
}

// For one product that sums over images too: patches [channels, places of the kernel, images, outputs] of x,
// and g [images, channels of g, outputs] with its first two axes exchanged.
KERNEL unroll_across(i64 images, i64 channels, i64 outputs, Windows w, const T* x, const T* g, T* patches,
                     T* turned) {
  int size = size_of(w.out), length = size_of(w.in), count = size_of(w.kernel), to[3], k[3];
  i64 all = images * channels * count;
  FOR_PLANES(p, all + images * outputs) {
    if (p >= all) {
      i64 o = (p - all) / images, n = (p - all) % images;
      FOR_EACH(i, size) turned[(p - all) * size + i] = g[(n * outputs + o) * size + i];
      continue;
    }
    i64 n = p % images, place = p / images;
    split((unsigned)(place % count), w.kernel, k);
    const T* plane = x + (n * channels + place / count) * length;
    FOR_EACH(i, size) {
      split((unsigned)i, w.out, to);
      int at = input_of(w, to, k);
      if (at < 0)
        store(patches + p * size + i, (A)0);
      else
        patches[p * size + i] = plane[at];
    }
  }
}

// The transpose of unroll.
KERNEL fold(i64 planes, Windows w, const T* patches, T* x) {
  int size = size_of(w.out), length = size_of(w.in), count = size_of(w.kernel), at[3], k[3];
  FOR_PLANES(p, planes) {
    FOR_EACH(i, length) {
      A sum = 0;
      split((unsigned)i, w.in, at);
      for (int place = 0; place < count; place++) {
        split(place, w.kernel, k);
        int o = output_of(w, at, k);
        if (o >= 0) sum += widen(patches[(p * count + place) * size + o]);
      }
      store(x + p * length + i, sum);
    }
  }
}

// y [images, outputs, ...] where output o sees channel o / (outputs / channels) alone.
KERNEL depthwise(i64 images, i64 channels, i64 outputs, Windows w, const T* x, const T* weight, T* y) {
  int size = size_of(w.out), length = size_of(w.in), count = size_of(w.kernel), to[3], k[3];
  FOR_PLANES(p, images * outputs) {
    i64 o = p % outputs;
    const T* plane = x + (p / outputs * channels + o / (outputs / channels)) * length;
    FOR_EACH(i, size) {
      A sum = 0;
      split((unsigned)i, w.out, to);
      for (int place = 0; place < count; place++) {
        split(place, w.kernel, k);
        int at = input_of(w, to, k);
        if (at >= 0) sum += widen(weight[o * count + place]) * widen(plane[at]);
      }
      store(y + p * size + i, sum);
    }
  }
}

KERNEL depthwise_input(
    i64 images, i64 channels, i64 outputs, Windows w, const T* g, const T* weight, T* x) {
  int size = size_of(w.out), length = size_of(w.in), count = size_of(w.kernel), at[3], k[3];
  i64 share = outputs / channels;
  FOR_PLANES(p, images * channels) {
    i64 first = p % channels * share;
    const T* up = g + (p / channels * outputs + first) * size;
    FOR_EACH(i, length) {
      A sum = 0;
      split((unsigned)i, w.in, at);
      for (int place = 0; place < count; place++) {
        split(place, w.kernel, k);
        int from = output_of(w, at, k);
        if (from < 0) continue;
        for (i64 o = 0; o < share; o++)
          sum += widen(weight[(first + o) * count + place]) * widen(up[o * size + from]);
      }
      store(x + p * length + i, sum);
    }
  }
}

// One block of threads an element of the weight [outputs, places of the kernel].
KERNEL depthwise_weight(
    i64 images, i64 channels, i64 outputs, Windows w, const T* g, const T* x, T* weight) {
  int size = size_of(w.out), length = size_of(w.in), count = size_of(w.kernel), to[3], k[3];
  for (i64 e = blockIdx.x; e < outputs * count; e += gridDim.x) {
    i64 o = e / count;
    split((unsigned)(e % count), w.kernel, k);
    A sum = 0;
    for (i64 n = 0; n < images; n++) {
      const T* plane = x + (n * channels + o / (outputs / channels)) * length;
      FOR_BLOCK(i, 0, size) {
        split((unsigned)i, w.out, to);
        int at = input_of(w, to, k);
        if (at >= 0) sum += widen(g[(n * outputs + o) * size + i]) * widen(plane[at]);
      }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) store(weight + e, sum);
  }
}
