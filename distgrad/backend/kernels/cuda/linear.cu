// The bias of an affine map, added in place to the rows of its product.
#include "numbers.cuh"

KERNEL add_bias(i64 rows, i64 columns, const T* bias, T* y) {
  for (i64 i = blockIdx.y; i < rows; i += gridDim.y)
    FOR_EACH(j, columns) store(y + i * columns + j, widen(y[i * columns + j]) + widen(bias[j]));
}
