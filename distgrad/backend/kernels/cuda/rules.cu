// The optimizers' rules in one pass over flat arrays, in place; their numbers are those of the formulas.
#include "step.cuh"

// m, the running mean, and b, the momentum, may be missing.
KERNEL rmsprop(i64 n, T* p, const T* g, T* v, T* m, T* b, double sign, double decay, double alpha,
               double rest, double eps, double momentum, double lr) {
  FOR_EACH(i, n) {
    A old = widen(p[i]), gradient = directed(sign, decay, widen(g[i]), old);
    A square = (A)alpha * widen(v[i]) + (A)rest * (gradient * gradient);
    store(v + i, square);
    if (m) {
      A mean = widen(m[i]);
      mean += (A)rest * (gradient - mean);
      store(m + i, mean);
      square -= mean * mean;
    }
    A change = gradient / ((A)sqrt(square) + (A)eps);
    if (b) {
      change += (A)momentum * widen(b[i]);
      store(b + i, change);
    }
    store(p + i, old - (A)lr * change);
  }
}

KERNEL adagrad(i64 n, T* p, const T* g, T* s, double sign, double decay, double eps, double rate) {
  FOR_EACH(i, n) {
    A old = widen(p[i]), gradient = directed(sign, decay, widen(g[i]), old);
    A square = widen(s[i]) + gradient * gradient;
    store(s + i, square);
    store(p + i, old - (A)rate * (gradient / ((A)sqrt(square) + (A)eps)));
  }
}

KERNEL adadelta(i64 n, T* p, const T* g, T* v, T* d, double sign, double decay, double rho, double rest,
                double eps, double lr) {
  FOR_EACH(i, n) {
    A old = widen(p[i]), gradient = directed(sign, decay, widen(g[i]), old);
    A square = (A)rho * widen(v[i]) + (A)rest * (gradient * gradient), before = widen(d[i]);
    store(v + i, square);
    A change = (A)sqrt(before + (A)eps) / (A)sqrt(square + (A)eps) * gradient;
    store(d + i, (A)rho * before + (A)rest * (change * change));
    store(p + i, old - (A)lr * change);
  }
}

KERNEL adamax(i64 n, T* p, const T* g, T* m, T* u, double sign, double decay, double rest1, double beta2,
              double eps, double rate) {
  FOR_EACH(i, n) {
    A old = widen(p[i]), gradient = directed(sign, decay, widen(g[i]), old), mean = widen(m[i]);
    mean += (A)rest1 * (gradient - mean);
    store(m + i, mean);
    A size = (A)fabs(gradient) + (A)eps, before = (A)beta2 * widen(u[i]);
    A largest = before >= size || before != before ? before : size;  // NaN is largest
    store(u + i, largest);
    store(p + i, old - (A)rate * (mean / largest));
  }
}

KERNEL nadam(i64 n, T* p, const T* g, T* m, T* v, double sign, double decay, double shrink, double rest1,
             double beta2, double rest2, double root, double eps, double rate_g, double rate_m) {
  FOR_EACH(i, n) {
    A old = widen(p[i]), gradient = directed(sign, decay, widen(g[i]), old), mean = widen(m[i]);
    mean += (A)rest1 * (gradient - mean);
    A square = (A)beta2 * widen(v[i]) + (A)rest2 * (gradient * gradient);
    store(m + i, mean);
    store(v + i, square);
    A change = ((A)rate_g * gradient + (A)rate_m * mean) / ((A)sqrt(square) * (A)root + (A)eps);
    store(p + i, (A)shrink * old - change);
  }
}

KERNEL radam(i64 n, T* p, const T* g, T* m, T* v, double sign, double decay, double shrink, double rest1,
             double beta2, double rest2, double eps, double rate, double trust) {
  FOR_EACH(i, n) {
    A old = widen(p[i]), gradient = directed(sign, decay, widen(g[i]), old), mean = widen(m[i]);
    mean += (A)rest1 * (gradient - mean);
    A square = (A)beta2 * widen(v[i]) + (A)rest2 * (gradient * gradient);
    store(m + i, mean);
    store(v + i, square);
    A scale = trust > 0 ? (A)trust / ((A)sqrt(square) + (A)eps) : (A)1;
    store(p + i, (A)shrink * old - (A)rate * (mean * scale));
  }
}

KERNEL rprop(i64 n, T* p, const T* g, T* before, T* size, double sign, double decay, double shrink,
             double grow, double smallest, double largest) {
  FOR_EACH(i, n) {
    A old = widen(p[i]), gradient = directed(sign, decay, widen(g[i]), old);
    A turn = gradient * widen(before[i]), length = widen(size[i]);
    if (turn > 0) length *= (A)grow;
    if (turn < 0) length *= (A)shrink;
    if (length > (A)largest) length = (A)largest;
    if (length < (A)smallest) length = (A)smallest;
    A kept = turn < 0 ? (A)0 : gradient;
    store(size + i, length);
    store(before + i, kept);
    store(p + i, old - (kept > 0 ? length : kept < 0 ? -length : kept * length));  // NaN stays
  }
}

KERNEL asgd(i64 n, T* p, const T* g, T* average, double sign, double decay, double shrink, double rate,
            double share) {
  FOR_EACH(i, n) {
    A old = widen(p[i]), mean = widen(average[i]);
    A next = (A)shrink * old - (A)rate * directed(sign, decay, widen(g[i]), old);
    store(p + i, next);
    store(average + i, mean + (next - mean) * (A)share);
  }
}

KERNEL lion(i64 n, T* p, const T* g, T* m, double sign, double decay, double shrink, double lr, double beta1,
            double rest1, double beta2, double rest2) {
  FOR_EACH(i, n) {
    A old = widen(p[i]), gradient = directed(sign, decay, widen(g[i]), old), mean = widen(m[i]);
    A ahead = (A)beta1 * mean + (A)rest1 * gradient;
    A change = ahead > 0 ? (A)lr : ahead < 0 ? -(A)lr : ahead;  // NaN stays
    store(p + i, (A)shrink * old - change);
    store(m + i, (A)beta2 * mean + (A)rest2 * gradient);
  }
}

// The layer's rate is `rate`, or what the device has found it to be.
KERNEL lars(i64 n, T* p, const T* g, T* b, double sign, double decay, double momentum, double rate,
            const double* found) {
  A layer_rate = (A)(found ? *found : rate);
  FOR_EACH(i, n) {
    A old = widen(p[i]);
    A change = (A)momentum * widen(b[i]) + layer_rate * directed(sign, decay, widen(g[i]), old);
    store(b + i, change);
    store(p + i, old - change);
  }
}

KERNEL lamb_direction(i64 n, T* u, const T* p, const T* g, T* m, T* v, double sign, double decay,
                      double rest1, double beta2, double rest2, double rate, double root, double eps) {
  FOR_EACH(i, n) {
    A gradient = (A)sign * widen(g[i]), mean = widen(m[i]);
    mean += (A)rest1 * (gradient - mean);
    A square = (A)beta2 * widen(v[i]) + (A)rest2 * (gradient * gradient);
    store(m + i, mean);
    store(v + i, square);
    store(u + i, (A)rate * mean / ((A)sqrt(square) * (A)root + (A)eps) + (A)decay * widen(p[i]));
  }
}
