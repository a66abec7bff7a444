// Pooling and its transposes, each of which looks from each element of the input for the windows that it leads:
// nothing is added by two threads at once, so that sums repeat themselves to the bit.
#include "windows.cuh"

// A window's largest element, and the first place of the kernel that holds it; NaN is largest, the last one.
__device__ inline A find_top(const Windows& w, const T* x, int flat, int* where) {
  int to[3], k[3];
  split(flat, w.out, to);
  A top = LOWEST;
  *where = 0;
  int places = size_of(w.kernel);
  for (int place = 0; place < places; place++) {
    split(place, w.kernel, k);
    int i = input_of(w, to, k);
    A v = i < 0 ? LOWEST : widen(x[i]);
    if (v > top || v != v) {
      top = v;
      *where = place;
    }
  }
  return top;
}

KERNEL max_pool(i64 planes, Windows w, const T* x, T* y) {
  int size = size_of(w.out), length = size_of(w.in), where;
  FOR_PLANES(p, planes)
  FOR_EACH(i, size) store(y + p * size + i, find_top(w, x + p * length, (int)i, &where));
}

KERNEL max_pool_places(i64 planes, Windows w, const T* x, int* places) {
  int size = size_of(w.out), length = size_of(w.in), where;
  FOR_PLANES(p, planes)
  FOR_EACH(i, size) {
    find_top(w, x + p * length, (int)i, &where);
    places[p * size + i] = where;
  }
}

KERNEL max_pool_scatter(i64 planes, Windows w, const T* upper, const int* places, T* out) {
  int size = size_of(w.out), length = size_of(w.in), count = size_of(w.kernel), at[3], k[3];
  FOR_PLANES(p, planes)
  FOR_EACH(i, length) {
    A sum = 0;
    split((unsigned)i, w.in, at);
    for (int place = 0; place < count; place++) {
      split(place, w.kernel, k);
      int o = output_of(w, at, k);
      if (o >= 0 && places[p * size + o] == place) sum += widen(upper[p * size + o]);
    }
    store(out + p * length + i, sum);
  }
}

KERNEL sum_pool(i64 planes, Windows w, const T* x, T* y) {
  int size = size_of(w.out), length = size_of(w.in), count = size_of(w.kernel), to[3], k[3];
  FOR_PLANES(p, planes)
  FOR_EACH(i, size) {
    A sum = 0;
    split((unsigned)i, w.out, to);
    for (int place = 0; place < count; place++) {
      split(place, w.kernel, k);
      int at = input_of(w, to, k);
      if (at >= 0) sum += widen(x[p * length + at]);
    }
    store(y + p * size + i, sum);
  }
}

KERNEL sum_pool_input(i64 planes, Windows w, const T* cotangent, T* out) {
  int size = size_of(w.out), length = size_of(w.in), count = size_of(w.kernel), at[3], k[3];
  FOR_PLANES(p, planes)
  FOR_EACH(i, length) {
    A sum = 0;
    split((unsigned)i, w.in, at);
    for (int place = 0; place < count; place++) {
      split(place, w.kernel, k);
      int from = output_of(w, at, k);
      if (from >= 0) sum += widen(cotangent[p * size + from]);
    }
    store(out + p * length + i, sum);
  }
}
