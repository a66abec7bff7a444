/* A double of the part of cuBLASLt that distgrad calls, behind that of cuBLAS in one source: a product with a bias
 * added to its columns, or with the sums of the rows of op(B). It has no algorithm for matrices of float64, and
 * none for more alignment than it was told of. */
#include <stdio.h>

typedef struct { int compute, scale, turned[2], epilogue; void *bias; } Description;
typedef struct { int type; uint64_t rows, columns; int64_t ld; } Layout;
typedef struct { uint32_t alignment[4]; } Preference;
typedef struct { uint64_t data[8]; } Algorithm; /* the alignments that it needs */
typedef struct { Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; } Answer;
enum { TURN_A = 3, TURN_B = 4, EPILOGUE = 7, BIAS = 8, ADD_BIAS = 4, SUM_B = 512, WORKSPACE = 4096 };

#define OPEN __attribute__((visibility("default")))

OPEN int cublasLtMatmulDescCreate(Description **d, int compute, int scale) {
    *d = calloc(1, sizeof(Description));
    (*d)->compute = compute;
    (*d)->scale = scale;
    return OK;
}

OPEN int cublasLtMatmulDescSetAttribute(Description *d, int attribute, const void *value, size_t size) {
    if (size != (attribute == BIAS ? 8 : 4)) return INVALID_VALUE;
    if (attribute == BIAS) memcpy(&d->bias, value, size);
    else if (attribute == EPILOGUE) memcpy(&d->epilogue, value, size);
    else if (attribute == TURN_A || attribute == TURN_B) memcpy(&d->turned[attribute - TURN_A], value, size);
    else return NOT_SUPPORTED;
    return OK;
}

OPEN int cublasLtMatrixLayoutCreate(Layout **l, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    if (ld < (int64_t)rows) return INVALID_VALUE;
    *l = malloc(sizeof(Layout));
    **l = (Layout){type, rows, columns, ld};
    return OK;
}

OPEN int cublasLtMatmulPreferenceCreate(Preference **p) {
    *p = malloc(sizeof(Preference));
    for (int i = 0; i < 4; i++) (*p)->alignment[i] = 256;
    return OK;
}

OPEN int cublasLtMatmulPreferenceSetAttribute(Preference *p, int attribute, const void *value, size_t size) {
    if (attribute == 1) return size == 8 ? OK : INVALID_VALUE;
    if (attribute < 5 || attribute > 8) return NOT_SUPPORTED;
    if (size != 4) return INVALID_VALUE;
    memcpy(&p->alignment[attribute - 5], value, size);
    return OK;
}

OPEN int cublasLtMatmulPreferenceDestroy(Preference *p) { free(p); return OK; }

static int fits(const Description *d, const Layout *a, const Layout *b, const Layout *c) {
    uint64_t terms = d->turned[0] ? a->rows : a->columns;
    return (d->turned[0] ? a->columns : a->rows) == c->rows && (d->turned[1] ? b->columns : b->rows) == terms &&
           (d->turned[1] ? b->rows : b->columns) == c->columns;
}

OPEN int cublasLtMatmulAlgoGetHeuristic(Handle *h, const Description *d, const Layout *a, const Layout *b,
                                        const Layout *c, const Layout *out, const Preference *p, int most,
                                        Answer *answers, int *count) {
    *count = 0;
    if (!h || most < 1 || !fits(d, a, b, out)) return INVALID_VALUE;
    if (d->scale != R32 || out->type == R64 || (d->epilogue == SUM_B && !d->turned[1])) return NOT_SUPPORTED;
    memset(answers, 0, sizeof(Answer));
    for (int i = 0; i < 4; i++) answers->algorithm.data[i] = p->alignment[i];
    answers->workspace = WORKSPACE;
    *count = 1;
    return OK;
}

OPEN int cublasLtMatmul(Handle *h, const Description *d, const void *alpha, const void *pa, const Layout *a,
                        const void *pb, const Layout *b, const void *beta, const void *pc, const Layout *c, void *pd,
                        const Layout *out, const Algorithm *algorithm, void *workspace, size_t room, void *stream) {
    const void *pointers[] = {pa, pb, pc, pd};
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)pointers[i] % algorithm->data[i]) return INVALID_VALUE;
    if (!h || !d->bias || room < WORKSPACE || !workspace || pc != pd || !fits(d, a, b, out)) return INVALID_VALUE;
    Product s = product(out->rows, out->columns, d->turned[0] ? a->rows : a->columns, 1, d->scale,
                        matrix(pa, a->type, d->turned[0], out->rows, d->turned[0] ? a->rows : a->columns, a->ld, 0),
                        matrix(pb, b->type, d->turned[1], d->turned[0] ? a->rows : a->columns, out->columns, b->ld, 0),
                        matrix(pd, out->type, 0, out->rows, out->columns, out->ld, 0));
    s.bias = d->bias;
    s.sums_b = d->epilogue == SUM_B;
    Handle on = {stream, 0, 0};
    return queue_product(&on, "LtMatmul", s, alpha, beta);
}
