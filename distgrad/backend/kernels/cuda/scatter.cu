// Rows added up by index, in an order that depends on the indices alone, so that sums repeat themselves to the
// bit: the indices are sorted (eight bits at a time, equal ones stay in order), what then stands side by side is
// cut into pieces of one length, and a run of equal indices that goes beyond its piece is added up from what each
// piece holds of it, by many threads. A row that most indices name is no slower than many rows.
// Source: Cormen et al., "Introduction to Algorithms", radix sort on counting sort; Blelloch, "Prefix sums and
// their applications", 1990, segmented sums.
#include "numbers.cuh"

#define DIGITS 256  // as many as threads in a block
#define RUN 1024    // elements that one block counts and places, in tiles of a block's width
#define PIECE 32    // places in order that one thread adds up

// Keys to sort by: the indices, those outside 0 ... rows - 1 last; and where each of them stood. The result, if
// it is given, begins from zeros; most is the larger of the two lengths.
KERNEL start_order(i64 most, i64 n, i64 rows, const i64* index, i64* keys, i64* order, i64 size, T* out) {
  FOR_EACH(i, most) {
    if (i < n) {
      i64 key = index[i];
      keys[i] = key < 0 || key >= rows ? rows : key;
      order[i] = i;
    }
    if (out && i < size) store(out + i, (A)0);
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

// What the threads of the block before this one hold, and all of them.
static __device__ inline i64 sum_before(i64 value, i64* all) {
  __shared__ i64 room[THREADS / WARP];
  unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  i64 sum = value;
  for (unsigned d = 1; d < WARP; d *= 2) {
    i64 other = __shfl_up_sync(ALL_LANES, sum, d);
    if (lane >= d) sum += other;
  }
  if (lane == WARP - 1) room[warp] = sum;
  __syncthreads();
  i64 before = sum - value;
  *all = 0;
  for (unsigned w = 0; w < blockDim.x / WARP; w++) {
    if (w < warp) before += room[w];
    *all += room[w];
  }
  __syncthreads();  // before the room is used again
  return before;
}

// Each of a digit's counts becomes the sum of those of its runs before; a block a digit, which leaves their total.
KERNEL sum_counts(i64 runs, i64* counts, i64* totals) {
  i64 *row = counts + blockIdx.x * runs, sum = 0, all;
  for (i64 first = 0; first < runs; first += blockDim.x) {
    i64 i = first + threadIdx.x, before = sum_before(i < runs ? row[i] : 0, &all);
    if (i < runs) row[i] = sum + before;
    sum += all;
  }
  if (threadIdx.x == 0) totals[blockIdx.x] = sum;
}

// Keys and order to where their digit says; blockDim.x is DIGITS.
KERNEL place_digits(i64 n, i64 shift, const i64* keys, const i64* order, const i64* counts,
                    const i64* totals, i64* new_keys, i64* new_order) {
  __shared__ i64 next[DIGITS];
  __shared__ int tile[THREADS];
  i64 all, smaller = sum_before(totals[threadIdx.x], &all);
  next[threadIdx.x] = smaller + counts[(i64)threadIdx.x * gridDim.x + blockIdx.x];
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

__device__ inline void add(T* to, A value) { store(to, widen(*to) + value); }

// Each piece's runs, a thread a column: what lies inside of the piece is added to the result; of its first run, if
// that began before, and of its last, if that goes on, the sum is kept: [pieces, first or last, width].
KERNEL sum_pieces(i64 n, i64 rows, i64 width, const T* values, const i64* keys, const i64* order, T* out,
                  A* edges) {
  FOR_EACH(t, (n + PIECE - 1) / PIECE * width) {
    Split at = divide(t, width);
    i64 first = at.quotient * PIECE, last = first + PIECE < n ? first + PIECE : n, j = at.rest;
    bool began = first > 0 && keys[first - 1] == keys[first];
    A sum = 0;
    for (i64 k = first; k < last && keys[k] < rows; k++) {
      i64 row = keys[k];
      sum += widen(values[order[k] * width + j]);
      if (k + 1 < last && keys[k + 1] == row) continue;
      bool goes_on = k + 1 == last && last < n && keys[last] == row;
      if (began || goes_on)
        edges[(2 * at.quotient + !began) * width + j] = sum;
      else
        add(out + row * width + j, sum);
      began = false;
      sum = 0;
    }
  }
}

// The end of the keys that are no larger than one of them.
__device__ inline i64 end_of_run(i64 key, i64 low, i64 high, const i64* keys) {
  while (low < high) {
    i64 middle = low + (high - low) / 2;
    if (keys[middle] <= key)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// The runs that go beyond the piece in which they begin, a block a run and `tile` columns, a power of two:
// thread t has column t % tile, and every so many-th piece.
KERNEL sum_edges(i64 n, i64 rows, i64 width, i64 tile, const i64* keys, const A* edges, T* out) {
  __shared__ A room[THREADS];
  i64 j = blockIdx.x * tile + threadIdx.x % tile, lane = threadIdx.x / tile, lanes = blockDim.x / tile;
  for (i64 p = blockIdx.y; (p + 1) * PIECE < n; p += gridDim.y) {
    i64 first = p * PIECE, next = first + PIECE, row = keys[next - 1];
    if (row >= rows || keys[next] != row || (p > 0 && keys[first - 1] == row)) continue;  // the block as one
    i64 last = (end_of_run(row, next, n, keys) - 1) / PIECE;
    A sum = 0;
    for (i64 q = p + lane; j < width && q <= last; q += lanes) sum += edges[(2 * q + (q == p)) * width + j];
    room[threadIdx.x] = sum;
    for (i64 d = lanes / 2; d > 0; d /= 2) {
      __syncthreads();
      if (lane < d) room[threadIdx.x] += room[threadIdx.x + d * tile];
    }
    if (lane == 0 && j < width) add(out + row * width + j, room[threadIdx.x]);
    __syncthreads();  // before the room is used again
  }
}

KERNEL count_up(i64 n, i64 step, i64* numbers) { FOR_EACH(i, n) numbers[i] = i * step; }
