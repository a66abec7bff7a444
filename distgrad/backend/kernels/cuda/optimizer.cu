// Optimizers' updates in one pass over flat arrays, in place.
#include "step.cuh"

// Adam and AdamW; top, the largest second moments, may be missing.
KERNEL adam(i64 n, T* p, const T* g, T* m, T* v, T* top, double sign, double decay, double shrink,
            double beta1, double rest1, double beta2, double rest2, double root, double eps, double rate) {
  FOR_EACH(i, n) {
    A old = widen(p[i]);
    A gradient = directed(sign, decay, widen(g[i]), old);
    A first = (A)beta1 * widen(m[i]) + (A)rest1 * gradient;
    A second = (A)beta2 * widen(v[i]) + (A)rest2 * (gradient * gradient);
    store(m + i, first);
    store(v + i, second);
    if (top) {
      A largest = widen(top[i]);
      if (!(second <= largest)) {  // NaN is largest
        if (largest == largest) largest = second;
      }
      store(top + i, largest);
      second = largest;
    }
    A change = first / ((A)sqrt(second) * (A)root + (A)eps);
    store(p + i, (A)shrink * old - (A)rate * change);
  }
}

// Gradient descent; b, the momentum, may be missing.
KERNEL sgd(i64 n, T* p, const T* g, T* b, double sign, double decay, double rate, double keep, double share,
           i64 nesterov) {
  FOR_EACH(i, n) {
    A old = widen(p[i]);
    A gradient = directed(sign, decay, widen(g[i]), old);
    if (b) {
      A momentum = (A)keep * widen(b[i]) + (A)share * gradient;
      store(b + i, momentum);
      gradient = nesterov ? gradient + (A)keep * momentum : momentum;
    }
    store(p + i, old - (A)rate * gradient);
  }
}
