// Functions of one element, over arrays that are read and written 16 bytes at a time, which is the most that a
// thread moves by one instruction: numbers of 16 bits one by one leave a part of the memory's rate unused.
#pragma once
#include "numbers.cuh"

#define PACK (16 / (int)sizeof(T))  // elements

struct alignas(16) Pack {
  T at[PACK];
};

// Whether an array begins where packs may; a part of another array need not.
__device__ inline bool is_aligned(const T* x) { return (u64)x % sizeof(Pack) == 0; }

// y[i] = f(x[i]) for i = 0 ... n - 1, divided among the threads of the grid's first axis.
template <class F>
__device__ inline void map(i64 n, const T* x, T* y, F f) {
  i64 packs = is_aligned(x) && is_aligned(y) ? n / PACK : 0;
  FOR_EACH(k, packs) {
    Pack from = ((const Pack*)x)[k], to;
    for (int e = 0; e < PACK; e++) store(to.at + e, f(widen(from.at[e])));
    ((Pack*)y)[k] = to;
  }
  FOR_EACH(rest, n - packs * PACK) {
    i64 i = packs * PACK + rest;
    store(y + i, f(widen(x[i])));
  }
}

// y[i] = f(g[i], x[i]), as above.
template <class F>
__device__ inline void map(i64 n, const T* g, const T* x, T* y, F f) {
  i64 packs = is_aligned(g) && is_aligned(x) && is_aligned(y) ? n / PACK : 0;
  FOR_EACH(k, packs) {
    Pack up = ((const Pack*)g)[k], from = ((const Pack*)x)[k], to;
    for (int e = 0; e < PACK; e++) store(to.at + e, f(widen(up.at[e]), widen(from.at[e])));
    ((Pack*)y)[k] = to;
  }
  FOR_EACH(rest, n - packs * PACK) {
    i64 i = packs * PACK + rest;
    store(y + i, f(widen(g[i]), widen(x[i])));
  }
}
