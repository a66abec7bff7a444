/* A double of the part of cuBLAS that CuPy calls: products of matrices and vectors of all its types.
 *
 * Values are widened to double (or its complex), summed, and rounded once on the way back. The scalars alpha and
 * beta are read when the call is made, or when it runs if the pointer mode says that they are on the device. */
#include <complex.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "queue.h"

enum { OK = 0, INVALID_VALUE = 7, INTERNAL_ERROR = 14, NOT_SUPPORTED = 15 };
enum { R32 = 0, R64 = 1, R16 = 2, C32 = 4, C64 = 5, BF16 = 14 }; /* cudaDataType */
enum { PLAIN = 0, TRANSPOSED = 1, ADJOINT = 2, CONJUGATED = 3 }; /* cublasOperation_t, and one more */
typedef double complex Value;
typedef struct { void *stream; int pointer_mode, math_mode; } Handle;

static size_t size_of(int type) {
    switch (type) {
    case R16: case BF16: return 2;
    case R32: return 4;
    case R64: case C32: return 8;
    case C64: return 16;
    default: return 0;
    }
}

static Value load(int type, const void *p, size_t i) {
    switch (type) {
    case R16: return ((const _Float16 *)p)[i];
    case R32: return ((const float *)p)[i];
    case R64: return ((const double *)p)[i];
    case C32: return ((const float complex *)p)[i];
    case C64: return ((const double complex *)p)[i];
    default: {
        uint32_t bits = (uint32_t)((const uint16_t *)p)[i] << 16;
        float value;
        memcpy(&value, &bits, 4);
        return value;
    }
    }
}

static void store(int type, void *p, size_t i, Value value) {
    switch (type) {
    case R16: ((_Float16 *)p)[i] = (_Float16)creal(value); break;
    case R32: ((float *)p)[i] = (float)creal(value); break;
    case R64: ((double *)p)[i] = creal(value); break;
    case C32: ((float complex *)p)[i] = (float complex)value; break;
    case C64: ((double complex *)p)[i] = value; break;
    default: {
        float narrow = (float)creal(value);
        uint32_t bits;
        memcpy(&bits, &narrow, 4);
        ((uint16_t *)p)[i] = isnan(narrow) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
    }
}

/* -- products of matrices: C = alpha op(A) op(B) + beta C, columns one after the other */

typedef struct { const void *p; int type, transpose, rows, columns; int64_t ld, stride; } Matrix;
typedef struct {
    int m, n, k, count, scalar_type, is_batch_of_pointers;
    const void *alpha_at, *beta_at; /* on the device, or NULL */
    Value alpha, beta;
    Matrix a, b, c;
    void *bias; /* cuBLASLt's: added to every column, or where the sums of the rows of op(B) go; or NULL */
    int sums_b;
} Product;

static const void *matrix_at(const Matrix *x, int batch, int is_batch_of_pointers) {
    if (is_batch_of_pointers) return ((const void *const *)x->p)[batch];
    return (const char *)x->p + batch * x->stride * (int64_t)size_of(x->type);
}

static int is_turned(int transpose) { return transpose == TRANSPOSED || transpose == ADJOINT; }

static Value element(const Matrix *x, const void *p, int i, int j) {
    Value value = load(x->type, p, is_turned(x->transpose) ? j + i * x->ld : i + j * x->ld);
    return x->transpose > TRANSPOSED ? conj(value) : value;
}

static void multiply_real(const Product *s, const void *pa, const void *pb, void *pc) {
    double *a = malloc(sizeof(double) * ((size_t)s->m * s->k + 1)), *column = malloc(sizeof(double) * (s->m + 1));
    for (int p = 0; p < s->k; p++)
        for (int i = 0; i < s->m; i++) a[(size_t)p * s->m + i] = creal(element(&s->a, pa, i, p));
    for (int j = 0; j < s->n; j++) {
        for (int i = 0; i < s->m; i++) column[i] = 0;
        for (int p = 0; p < s->k; p++) {
            double factor = creal(element(&s->b, pb, p, j));
            for (int i = 0; i < s->m; i++) column[i] += a[(size_t)p * s->m + i] * factor;
        }
        for (int i = 0; i < s->m; i++) {
            size_t at = i + j * s->c.ld;
            double old = creal(s->beta) == 0 ? 0 : creal(s->beta) * creal(load(s->c.type, pc, at));
            double bias = s->bias && !s->sums_b ? creal(load(s->c.type, s->bias, i)) : 0;
            store(s->c.type, pc, at, creal(s->alpha) * column[i] + old + bias);
        }
    }
    for (int j = 0; s->bias && s->sums_b && j < s->n; j++) {
        double sum = 0;
        for (int p = 0; p < s->k; p++) sum += creal(element(&s->b, pb, p, j));
        store(s->c.type, s->bias, j, sum);
    }
    free(a);
    free(column);
}

static void multiply_complex(const Product *s, const void *pa, const void *pb, void *pc) {
    for (int j = 0; j < s->n; j++)
        for (int i = 0; i < s->m; i++) {
            Value sum = 0;
            for (int p = 0; p < s->k; p++) sum += element(&s->a, pa, i, p) * element(&s->b, pb, p, j);
            size_t at = i + j * s->c.ld;
            store(s->c.type, pc, at, s->alpha * sum + (s->beta == 0 ? 0 : s->beta * load(s->c.type, pc, at)));
        }
}

static int run_product(void *work) {
    Product *s = work;
    if (s->alpha_at) s->alpha = load(s->scalar_type, s->alpha_at, 0);
    if (s->beta_at) s->beta = load(s->scalar_type, s->beta_at, 0);
    for (int batch = 0; batch < s->count; batch++) {
        const void *a = matrix_at(&s->a, batch, s->is_batch_of_pointers);
        const void *b = matrix_at(&s->b, batch, s->is_batch_of_pointers);
        void *c = (void *)matrix_at(&s->c, batch, s->is_batch_of_pointers);
        (s->c.type == C32 || s->c.type == C64 ? multiply_complex : multiply_real)(s, a, b, c);
    }
    free(s);
    return 1;
}

static Range range_of(const Matrix *x, int count, int is_batch_of_pointers) {
    if (is_batch_of_pointers) return (Range){x->p, count * sizeof(void *)};
    if (!x->rows || !x->columns || !count) return (Range){NULL, 0};
    size_t last = (count - 1) * x->stride + (x->columns - 1) * x->ld + x->rows;
    return (Range){x->p, last * size_of(x->type)};
}

static int queue_product(Handle *h, const char *name, Product s, const void *alpha, const void *beta) {
    if (!size_of(s.a.type) || !size_of(s.b.type) || !size_of(s.c.type)) return NOT_SUPPORTED;
    if (s.m < 0 || s.n < 0 || s.k < 0 || s.a.ld < (s.a.rows > 1 ? s.a.rows : 1) ||
        s.b.ld < (s.b.rows > 1 ? s.b.rows : 1) || s.c.ld < (s.m > 1 ? s.m : 1))
        return INVALID_VALUE;
    if (h->pointer_mode) s.alpha_at = alpha, s.beta_at = beta;
    else s.alpha = load(s.scalar_type, alpha, 0), s.beta = load(s.scalar_type, beta, 0);
    Product *work = malloc(sizeof s);
    *work = s;
    Range ranges[] = {range_of(&s.a, s.count, s.is_batch_of_pointers), range_of(&s.b, s.count, s.is_batch_of_pointers),
                      range_of(&s.c, s.count, s.is_batch_of_pointers),
                      {s.bias, s.bias ? (s.sums_b ? s.n : s.m) * size_of(s.c.type) : 0}};
    return enqueue(h->stream, name, run_product, work, sizeof s, s.bias ? 4 : 3, ranges) ? INTERNAL_ERROR : OK;
}

/* The rows and columns are those in memory, before a transposition. */
static Matrix matrix(const void *p, int type, int transpose, int rows, int columns, int64_t ld, int64_t stride) {
    return (Matrix){p, type, transpose, is_turned(transpose) ? columns : rows, is_turned(transpose) ? rows : columns, ld, stride};
}

static Product product(int m, int n, int k, int count, int scalar_type, Matrix a, Matrix b, Matrix c) {
    return (Product){m, n, k, count, scalar_type, 0, NULL, NULL, 0, 0, a, b, c};
}

static int scalar_of(int compute, int type) { /* cublasComputeType_t */
    if (compute == 64 || compute == 65) return R16;
    if (compute == 70 || compute == 71) return type == C64 ? C64 : R64;
    return type == C32 ? C32 : R32;
}

#define GEMMS(X, T)                                                                                                  \
    int cublas##X##gemm_v2(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,         \
                           int lda, const void *b, int ldb, const void *beta, void *c, int ldc) {                    \
        return queue_product(h, "gemm", product(m, n, k, 1, T, matrix(a, T, ta, m, k, lda, 0),                       \
                             matrix(b, T, tb, k, n, ldb, 0), matrix(c, T, 0, m, n, ldc, 0)), alpha, beta);           \
    }                                                                                                                \
    int cublas##X##gemmStridedBatched(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha,             \
                                      const void *a, int lda, long long sa, const void *b, int ldb, long long sb,    \
                                      const void *beta, void *c, int ldc, long long sc, int count) {                 \
        return queue_product(h, "gemmStridedBatched", product(m, n, k, count, T, matrix(a, T, ta, m, k, lda, sa),    \
                             matrix(b, T, tb, k, n, ldb, sb), matrix(c, T, 0, m, n, ldc, sc)), alpha, beta);         \
    }                                                                                                                \
    int cublas##X##gemmBatched(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,     \
                               int lda, const void *b, int ldb, const void *beta, void *c, int ldc, int count) {     \
        Product s = product(m, n, k, count, T, matrix(a, T, ta, m, k, lda, 0), matrix(b, T, tb, k, n, ldb, 0),       \
                            matrix(c, T, 0, m, n, ldc, 0));                                                          \
        s.is_batch_of_pointers = 1;                                                                                  \
        return queue_product(h, "gemmBatched", s, alpha, beta);                                                      \
    }                                                                                                                \
    int cublas##X##gemv_v2(Handle *h, int ta, int m, int n, const void *alpha, const void *a, int lda, const void *x,\
                           int incx, const void *beta, void *y, int incy) {                                          \
        if (incx < 0 || incy < 0) return NOT_SUPPORTED;                                                              \
        int rows = ta ? n : m, inner = ta ? m : n;                                                                   \
        return queue_product(h, "gemv", product(1, rows, inner, 1, T, matrix(x, T, 0, 1, inner, incx, 0),            \
                             matrix(a, T, ta == ADJOINT ? CONJUGATED : !ta, inner, rows, lda, 0), matrix(y, T, 0, 1, rows, incy, 0)), \
                             alpha, beta);                                                                           \
    }
GEMMS(S, R32)
GEMMS(D, R64)
GEMMS(C, C32)
GEMMS(Z, C64)

int cublasSgemmEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at, int lda,
                  const void *b, int bt, int ldb, const void *beta, void *c, int ct, int ldc) {
    return queue_product(h, "SgemmEx", product(m, n, k, 1, R32, matrix(a, at, ta, m, k, lda, 0),
                         matrix(b, bt, tb, k, n, ldb, 0), matrix(c, ct, 0, m, n, ldc, 0)), alpha, beta);
}

int cublasGemmStridedBatchedEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at,
                               int lda, long long sa, const void *b, int bt, int ldb, long long sb, const void *beta,
                               void *c, int ct, int ldc, long long sc, int count, int compute, int algorithm) {
    return queue_product(h, "GemmEx", product(m, n, k, count, scalar_of(compute, ct), matrix(a, at, ta, m, k, lda, sa),
                         matrix(b, bt, tb, k, n, ldb, sb), matrix(c, ct, 0, m, n, ldc, sc)), alpha, beta);
}

int cublasGemmBatchedEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at, int lda,
                        const void *b, int bt, int ldb, const void *beta, void *c, int ct, int ldc, int count, int compute,
                        int algorithm) {
    Product s = product(m, n, k, count, scalar_of(compute, ct), matrix(a, at, ta, m, k, lda, 0),
                        matrix(b, bt, tb, k, n, ldb, 0), matrix(c, ct, 0, m, n, ldc, 0));
    s.is_batch_of_pointers = 1;
    return queue_product(h, "GemmEx", s, alpha, beta);
}

int cublasGemmEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int at, int lda,
                 const void *b, int bt, int ldb, const void *beta, void *c, int ct, int ldc, int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(h, ta, tb, m, n, k, alpha, a, at, lda, 0, b, bt, ldb, 0, beta, c, ct, ldc, 0, 1,
                                      compute, algorithm);
}

/* -- outer and inner products, norms: each a loop that runs on the stream */

typedef struct {
    int kind, type, m, n, incx, incy, conjugate, result_type;
    int64_t ld;
    Value alpha;
    const void *alpha_at, *x, *y;
    void *out;
} Loop;
enum { OUTER, DOT, NORM, SUM_OF_SIZES };

static int run_loop(void *work) {
    Loop *s = work;
    Value sum = 0;
    if (s->alpha_at) s->alpha = load(s->type, s->alpha_at, 0);
    for (int j = 0; s->kind == OUTER && j < s->n; j++)
        for (int i = 0; i < s->m; i++) {
            Value y = load(s->type, s->y, (size_t)j * s->incy);
            Value term = s->alpha * load(s->type, s->x, (size_t)i * s->incx) * (s->conjugate ? conj(y) : y);
            store(s->type, s->out, i + j * s->ld, load(s->type, s->out, i + j * s->ld) + term);
        }
    for (int i = 0; s->kind != OUTER && i < s->n; i++) {
        Value x = load(s->type, s->x, (size_t)i * s->incx);
        if (s->kind == DOT) sum += (s->conjugate ? conj(x) : x) * load(s->type, s->y, (size_t)i * s->incy);
        if (s->kind == NORM) sum += creal(x * conj(x));
        if (s->kind == SUM_OF_SIZES) sum += fabs(creal(x)) + fabs(cimag(x));
    }
    if (s->kind != OUTER) store(s->result_type, s->out, 0, s->kind == NORM ? sqrt(creal(sum)) : sum);
    free(s);
    return 1;
}

static int queue_loop(Handle *h, const char *name, Loop s) {
    if (s.incx < 0 || s.incy < 0) return NOT_SUPPORTED;
    Loop *work = malloc(sizeof s);
    *work = s;
    size_t length_x = s.kind == OUTER ? s.m : s.n;
    Range ranges[] = {{s.x, length_x ? ((length_x - 1) * s.incx + 1) * size_of(s.type) : 0},
                      {s.y, s.y && s.n ? ((s.n - 1) * (size_t)s.incy + 1) * size_of(s.type) : 0}};
    if (h->pointer_mode || s.kind == OUTER)
        return enqueue(h->stream, name, run_loop, work, sizeof s, 2, ranges) ? INTERNAL_ERROR : OK;
    free(work);
    return NOT_SUPPORTED; /* a result on the host would have to wait for the stream */
}

#define GER(name, T, conjugated)                                                                                     \
    int cublas##name(Handle *h, int m, int n, const void *alpha, const void *x, int incx, const void *y, int incy,   \
                     void *a, int lda) {                                                                             \
        Loop s = {OUTER, T, m, n, incx, incy, conjugated, T, lda, 0, NULL, x, y, a};                                 \
        if (h->pointer_mode) s.alpha_at = alpha;                                                                     \
        else s.alpha = load(T, alpha, 0);                                                                            \
        return queue_loop(h, "ger", s);                                                                              \
    }
#define DOTS(name, T, conjugated)                                                                                    \
    int cublas##name(Handle *h, int n, const void *x, int incx, const void *y, int incy, void *result) {             \
        return queue_loop(h, "dot", (Loop){DOT, T, 0, n, incx, incy, conjugated, T, 0, 0, NULL, x, y, result});      \
    }
#define NORMS(name, T, R, kind)                                                                                      \
    int cublas##name(Handle *h, int n, const void *x, int incx, void *result) {                                      \
        return queue_loop(h, "norm", (Loop){kind, T, 0, n, incx, 0, 0, R, 0, 0, NULL, x, NULL, result});             \
    }
GER(Sger_v2, R32, 0) GER(Dger_v2, R64, 0) GER(Cgeru_v2, C32, 0) GER(Cgerc_v2, C32, 1) GER(Zgeru_v2, C64, 0)
GER(Zgerc_v2, C64, 1)
DOTS(Sdot_v2, R32, 0) DOTS(Ddot_v2, R64, 0) DOTS(Cdotu_v2, C32, 0) DOTS(Cdotc_v2, C32, 1) DOTS(Zdotu_v2, C64, 0)
DOTS(Zdotc_v2, C64, 1)
NORMS(Snrm2_v2, R32, R32, NORM) NORMS(Dnrm2_v2, R64, R64, NORM) NORMS(Scnrm2_v2, C32, R32, NORM)
NORMS(Dznrm2_v2, C64, R64, NORM)
NORMS(Sasum_v2, R32, R32, SUM_OF_SIZES) NORMS(Dasum_v2, R64, R64, SUM_OF_SIZES)

/* -- handles */

int cublasCreate_v2(Handle **h) { return (*h = calloc(1, sizeof(Handle))) ? OK : INTERNAL_ERROR; }
int cublasDestroy_v2(Handle *h) { free(h); return OK; }
int cublasGetVersion_v2(Handle *h, int *version) { *version = 130100; return OK; }
int cublasSetStream_v2(Handle *h, void *stream) { h->stream = stream; return OK; }
int cublasGetStream_v2(Handle *h, void **stream) { *stream = h->stream; return OK; }
int cublasSetPointerMode_v2(Handle *h, int mode) { h->pointer_mode = mode; return OK; }
int cublasGetPointerMode_v2(Handle *h, int *mode) { *mode = h->pointer_mode; return OK; }
int cublasSetMathMode(Handle *h, int mode) { h->math_mode = mode; return OK; }
int cublasGetMathMode(Handle *h, int *mode) { *mode = h->math_mode; return OK; }
int cublasSetWorkspace_v2(Handle *h, void *workspace, size_t num_bytes) { return OK; }
