// CuPy's own header leads to CUDA's; std::complex has its names. Read only for kernels that use it.
#pragma once
#ifdef GPU_COMPLEX
#include <complex>
using std::abs;
using std::arg;
using std::complex;
using std::conj;
using std::imag;
using std::norm;
using std::polar;
using std::proj;
using std::real;
namespace thrust {
using std::complex;
using std::conj;
}
#endif
using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;
