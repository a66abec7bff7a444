// Sums of a table's rows, those that a bag of indices names; an index outside the table gives NaN.
#include "numbers.cuh"

KERNEL sum_rows(i64 n, i64 width, i64 count, i64 rows, const i64* index, const T* table, T* y) {
  FOR_EACH(i, n) {
    Split place = divide(i, width);
    const i64* bag = index + place.quotient * count;
    A total = 0;
    for (i64 k = 0; k < count; k++) {
      i64 at = bag[k];
      total += at < 0 || at >= rows ? NOTHING : widen(table[at * width + place.rest]);
    }
    store(y + i, total);
  }
}
