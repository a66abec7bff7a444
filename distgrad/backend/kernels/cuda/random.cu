// Random numbers from a counter, the same words as on the host: Philox 4x64 with 10 rounds.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#include "numbers.cuh"

// The four words of block `i` after the one that a generator has reached, whose number has two words.
__device__ inline void draw(u64 seed, u64 stream, u64 low, u64 high, u64 i, u64* words) {
  u64 c0 = low + i + 1, c1 = high + (c0 < low), c2 = 0, c3 = 0;
  for (int round = 0; round < 10; round++) {
    u64 a = multiply_high(0xD2E7470EE14C6C93ull, c0), b = 0xD2E7470EE14C6C93ull * c0;
    u64 c = multiply_high(0xCA5A826395121157ull, c2), d = 0xCA5A826395121157ull * c2;
    c0 = c ^ c1 ^ seed;
    c1 = d;
    c2 = a ^ c3 ^ stream;
    c3 = b;
    seed += 0x9E3779B97F4A7C15ull;
    stream += 0xBB67AE8584CAA73Bull;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

// In a step that is played again the state lies in memory: seed, stream and the block to go on from.
#define AT_BASE                    \
  if (base) {                      \
    u64 sum = low + base[2];       \
    high += base[3] + (sum < low); \
    low = sum;                     \
    seed = base[0];                \
    stream = base[1];              \
  }

// Numbers in [0, 1) from a block's words: four of double, else eight.
__device__ inline double unit(const u64* words, int k, double) {
  return (double)(words[k] >> 11) * (1.0 / 9007199254740992.0);
}
__device__ inline float unit(const u64* words, int k, float) {
  unsigned half = (unsigned)(k % 2 ? words[k / 2] >> 32 : words[k / 2]);
  return (float)(half >> 8) * (1.0f / 16777216.0f);
}
#define PER_BLOCK (sizeof(A) == 8 ? 4 : 8)

// As many digits as the type holds, since more would round up to 1.
__device__ inline double trim(double u, double) { return u; }
__device__ inline float trim(float u, float) { return u; }
__device__ inline float trim(float u, Half) { return floorf(u * 2048.0f) * (1.0f / 2048.0f); }
__device__ inline float trim(float u, Brain) { return floorf(u * 256.0f) * (1.0f / 256.0f); }

KERNEL random_bits(i64 n, u64 seed, u64 stream, u64 low, u64 high, const u64* base, u64* out) {
  AT_BASE
  FOR_EACH(i, (n + 3) / 4) {
    u64 words[4];
    draw(seed, stream, low, high, i, words);
    for (int k = 0; k < 4; k++)
      if (4 * i + k < n) out[4 * i + k] = words[k];
  }
}

KERNEL random_uniform(i64 n, u64 seed, u64 stream, u64 low, u64 high, const u64* base, T* out) {
  AT_BASE
  FOR_EACH(i, (n + PER_BLOCK - 1) / PER_BLOCK) {
    u64 words[4];
    draw(seed, stream, low, high, i, words);
    for (int k = 0; k < PER_BLOCK; k++) {
      i64 to = PER_BLOCK * i + k;
      if (to < n) store(out + to, trim(unit(words, k, A()), T()));
    }
  }
}

// y = x times `kept` where a uniform number is at least p, times 0 elsewhere; p and `kept` are numbers of the
// arrays' type, so that each product is rounded once, as on the host.
KERNEL dropout(i64 n, u64 seed, u64 stream, u64 low, u64 high, const u64* base, double p, double kept, const T* x, T* y) {
  AT_BASE
  FOR_EACH(i, (n + PER_BLOCK - 1) / PER_BLOCK) {
    u64 words[4];
    draw(seed, stream, low, high, i, words);
    for (int k = 0; k < PER_BLOCK; k++) {
      i64 to = PER_BLOCK * i + k;
      if (to < n) store(y + to, widen(x[to]) * (trim(unit(words, k, A()), T()) >= (A)p ? (A)kept : (A)0));
    }
  }
}

__device__ inline A uniform_at(u64 seed, u64 stream, u64 low, u64 high, i64 i) {
  u64 words[4];
  draw(seed, stream, low, high, i / PER_BLOCK, words);
  return unit(words, (int)(i % PER_BLOCK), A());
}

// Standard normal numbers in pairs, of which the first half of the array holds the cosines.
// Source: Box and Muller, Annals of Mathematical Statistics, 1958.
KERNEL random_normal(i64 n, u64 seed, u64 stream, u64 low, u64 high, const u64* base, T* out) {
  AT_BASE
  i64 pairs = (n + 1) / 2;
  FOR_EACH(i, pairs) {
    A radius = sqrt((A)-2 * (A)log1p(-uniform_at(seed, stream, low, high, i)));
    A angle = (A)6.28318530717958647693 * uniform_at(seed, stream, low, high, pairs + i);
    store(out + i, radius * (A)cos(angle));
    if (pairs + i < n) store(out + pairs + i, radius * (A)sin(angle));
  }
}
