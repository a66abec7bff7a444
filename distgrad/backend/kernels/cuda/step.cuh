// What every optimizer's rule begins with.
#pragma once
#include "numbers.cuh"

// The gradient with its sign; a part of the parameter joins it, except where none is to: 0 times infinity is NaN.
__device__ inline A directed(double sign, double decay, A g, A p) {
  A gradient = (A)sign * g;
  return decay != 0 ? gradient + (A)decay * p : gradient;
}
