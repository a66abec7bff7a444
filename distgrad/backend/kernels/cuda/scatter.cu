// Rows added up by index, in the order in which they come, so that sums repeat themselves to the bit: the
// indices are sorted (eight bits at a time, equal ones stay in order), and each element of the result then
// adds up its own run. Source: Cormen et al., "Introduction to Algorithms", radix sort on counting sort.
#include "numbers.cuh"

#define DIGITS 256  // as many as threads in a block
#define RUN 1024    // elements that one block counts and places, in tiles of a block's width

// Keys to sort by: the indices, those outside 0 ... rows - 1 last; and where each of them stood.
KERNEL start_order(i64 n, i64 rows, const i64* index, i64* keys, i64* order) {
  FOR_EACH(i, n) {
    i64 key = index[i];
    keys[i] = key < 0 || key >= rows ? rows : key;
    order[i] = i;
  }
}

__device__ inline int digit_of(i64 key, i64 shift) { return (int)(key >> shift & (DIGITS - 1)); }

// How often each digit comes in each run: [digits, runs].
KERNEL count_digits(i64 n, i64 shift, const i64* keys, i64* counts) {
  __shared__ int found[DIGITS];
  found[threadIdx.x] = 0;
  __syncthreads();
  i64 first = (i64)blockIdx.x * RUN, last = first + RUN < n ? first + RUN : n;
  FOR_BLOCK(i, first, last) atomicAdd(&found[digit_of(keys[i], shift)], 1);  // of integers: any order is one
  __syncthreads();
  counts[(i64)threadIdx.x * gridDim.x + blockIdx.x] = found[threadIdx.x];
}

// Each count becomes the sum of those before it; one block of threads.
KERNEL sum_counts(i64 n, i64* counts) {
  __shared__ i64 totals[THREADS];
  i64 run = (n + blockDim.x - 1) / blockDim.x, first = run * threadIdx.x;
  i64 last = first + run < n ? first + run : n;
  i64 total = 0;
  for (i64 i = first; i < last; i++) total += counts[i];
  totals[threadIdx.x] = total;
  __syncthreads();
  total = 0;
  for (unsigned t = 0; t < threadIdx.x; t++) total += totals[t];
  for (i64 i = first; i < last; i++) {
    i64 count = counts[i];
    counts[i] = total;
    total += count;
  }
}

// Keys and order to where their digit says; blockDim.x is DIGITS.
KERNEL place_digits(i64 n, i64 shift, const i64* keys, const i64* order, const i64* counts, i64* new_keys,
                    i64* new_order) {
  __shared__ i64 next[DIGITS];
  __shared__ int tile[THREADS];
  next[threadIdx.x] = counts[(i64)threadIdx.x * gridDim.x + blockIdx.x];
  i64 start = (i64)blockIdx.x * RUN;
  for (i64 first = start; first < start + RUN; first += THREADS) {
    i64 i = first + threadIdx.x;
    int digit = i < n ? digit_of(keys[i], shift) : -1;
    tile[threadIdx.x] = digit;
    __syncthreads();
    int before = 0, after = 0;
    for (unsigned t = 0; t < THREADS; t++)
      if (tile[t] == digit) {
        before += t < threadIdx.x;
        after += t > threadIdx.x;
      }
    if (i < n) {
      i64 to = next[digit] + before;
      new_keys[to] = keys[i];
      new_order[to] = order[i];
    }
    __syncthreads();
    if (i < n && after == 0) next[digit] += before + 1;
    __syncthreads();
  }
}

// Where the run of each row begins in the sorted keys: [rows + 1].
KERNEL find_rows(i64 n, i64 rows, const i64* keys, i64* starts) {
  FOR_EACH(r, rows + 1) {
    i64 low = 0, high = n;
    while (low < high) {
      i64 middle = low + (high - low) / 2;
      if (keys[middle] < r)
        low = middle + 1;
      else
        high = middle;
    }
    starts[r] = low;
  }
}

KERNEL sum_rows(i64 rows, i64 width, const T* values, const i64* order, const i64* starts, T* out) {
  for (i64 r = blockIdx.y; r < rows; r += gridDim.y)
    FOR_EACH(j, width) {
      A sum = 0;
      for (i64 k = starts[r]; k < starts[r + 1]; k++) sum += widen(values[order[k] * width + j]);
      store(out + r * width + j, sum);
    }
}

// As sum_rows for rows of one element.
KERNEL sum_elements(i64 rows, const T* values, const i64* order, const i64* starts, T* out) {
  FOR_EACH(r, rows) {
    A sum = 0;
    for (i64 k = starts[r]; k < starts[r + 1]; k++) sum += widen(values[order[k]]);
    store(out + r, sum);
  }
}

KERNEL count_up(i64 n, i64* numbers) { FOR_EACH(i, n) numbers[i] = i; }
