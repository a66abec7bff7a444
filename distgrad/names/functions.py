"""PyTorch's and NumPy's names for what is here, as data.

Each line of :data:`TABLE` reads ``name(PyTorch's arguments) = expression``. The expression is written in the
words of the engine: its operations by their names, and where the meaning is another one the functions of
``meanings.py``, ``ordering.py``, ``layouts.py``, ``views.py`` and ``matrices.py`` in ``autograd``. The
first argument says where the name stands: with ``input`` it is a function of ``distgrad.torch`` and a method
of Tensor, with ``self`` a method alone, with anything else a function alone. ``autograd/naming.py`` makes
functions of the lines. A name that is no line but an operation is that operation, ``axis`` called ``dim``.

The other names are operations as they are, each kind in one text.
"""

from __future__ import annotations

__all__ = [
    "APART", "BYTES", "EXACT", "FLOATING", "FUNCTIONS", "IN_PLACE", "IN_PLACE_VIEWS", "METHODS",
    "NUMBER_FIRST", "SAME", "SAME_PAIRS", "TABLE", "WHOLE",
]  # fmt: skip

#: Operations of one or two tensors that both call the same, a function and a method.
SAME = (
    "abs acos acosh asin asinh atan atanh ceil conj cos cosh erf erfc erfinv exp expm1 floor isfinite "
    "isinf isnan log log10 log1p log2 logical_not positive reciprocal relu sigmoid sign signbit sin sinh "
    "sqrt square tan tanh trunc"
)
SAME_PAIRS = (
    "atan2 bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift copysign "
    "floor_divide hypot logaddexp logical_and logical_or logical_xor matmul maximum minimum nextafter "
    "remainder xlogy"
)

TABLE = """
absolute(input) = abs(input)
angle(input) = angle(input)
arccos(input) = acos(input)
arccosh(input) = acosh(input)
arcsin(input) = asin(input)
arcsinh(input) = asinh(input)
arctan(input) = atan(input)
arctanh(input) = atanh(input)
bitwise_not(input) = bitwise_invert(input)
clamp(input, min=None, max=None) = clamped(input, min, max)
clip(input, min=None, max=None) = clamped(input, min, max)
fill_diagonal_(self, fill_value, wrap=False) = with_diagonal(self, fill_value, wrap)
clamp_max(input, max) = clamped(input, None, max)
clamp_min(input, min) = clamped(input, min, None)
conj_physical(input) = conj(input)
deg2rad(input) = multiply(input, pi / 180)
rad2deg(input) = multiply(input, 180 / pi)
exp2(input) = pow(2.0, input)
fix(input) = trunc(input)
frac(input) = subtract(input, trunc(input))
isneginf(input) = logical_and(isinf(input), signbit(input))
isposinf(input) = logical_and(isinf(input), logical_not(signbit(input)))
isreal(input) = equal(imaginary(input), 0)
logit(input, eps=None) = log_odds(input, eps)
nan_to_num(input, nan=0.0, posinf=None, neginf=None) = numbers_for_nan(input, nan, posinf, neginf)
neg(input) = negative(input)
negative(input) = negative(input)
real(input) = real(input)
imag(input) = imag(input)
resolve_conj(input) = input
resolve_neg(input) = input
round(input, *, decimals=0) = rounded(input, decimals)
rsqrt(input) = reciprocal(sqrt(input))
sgn(input) = sign(input)
arctan2(input, other) = atan2(input, other)
add(input, other, *, alpha=1) = add(input, other)
    if alpha == 1 else once(add(wide(input), times(other, alpha, input)), input, other)
sub(input, other, *, alpha=1) = subtract(input, other)
    if alpha == 1 else once(subtract(wide(input), times(other, alpha, input)), input, other)
subtract(input, other, *, alpha=1) = subtract(input, other)
    if alpha == 1 else once(subtract(wide(input), times(other, alpha, input)), input, other)
rsub(input, other, *, alpha=1) = subtract(other, input)
    if alpha == 1 else once(subtract(wide(other), times(input, alpha, other)), input, other)
mul(input, other) = multiply(input, other)
multiply(input, other) = multiply(input, other)
div(input, other, *, rounding_mode=None) = quotient(input, other, rounding_mode)
divide(input, other, *, rounding_mode=None) = quotient(input, other, rounding_mode)
true_divide(input, other) = divide(input, other)
fmod(input, other) = leftover(input, other)
pow(input, exponent) = pow(input, exponent)
float_power(input, exponent) = pow(as_double(input), as_double(exponent))
eq(input, other) = equal(input, other)
ne(input, other) = not_equal(input, other)
not_equal(input, other) = not_equal(input, other)
lt(input, other) = less(input, other)
less(input, other) = less(input, other)
le(input, other) = less_equal(input, other)
less_equal(input, other) = less_equal(input, other)
gt(input, other) = greater(input, other)
greater(input, other) = greater(input, other)
ge(input, other) = greater_equal(input, other)
greater_equal(input, other) = greater_equal(input, other)
equal(input, other) = all_equal(input, other)
allclose(input, other, rtol=1e-05, atol=1e-08, equal_nan=False) =
    all_close(input, other, rtol, atol, equal_nan)
isclose(input, other, rtol=1e-05, atol=1e-08, equal_nan=False) = close(input, other, rtol, atol, equal_nan)
fmax(input, other) = other_than_nan(maximum, input, other)
fmin(input, other) = other_than_nan(minimum, input, other)
lerp(input, end, weight) = between(input, end, weight)
addcmul(input, tensor1, tensor2, *, value=1) =
    once(add(wide(input), scaled(multiply(wide(tensor1), wide(tensor2)), value)), input, tensor1, tensor2)
addcdiv(input, tensor1, tensor2, *, value=1) =
    once(add(wide(input), scaled(divide(wide(tensor1), wide(tensor2)), value)), input, tensor1, tensor2)
mm(input, mat2) = matmul(two_axes(input, "mm"), two_axes(mat2, "mm"))
bmm(input, mat2) = bmm(input, mat2)
mv(input, vec) = matmul(input, vec)
dot(input, tensor) = dot_product(input, tensor)
inner(input, other) = inner_product(input, other)
vdot(input, other) = dot_product(conj(input), other)
outer(input, vec2) = outer(input, vec2)
ger(input, vec2) = outer(input, vec2)
kron(input, other) = kron(input, other)
addmm(input, mat1, mat2, *, beta=1, alpha=1) = weighted(input, matmul(mat1, mat2), beta, alpha)
addmv(input, mat, vec, *, beta=1, alpha=1) = weighted(input, matmul(mat, vec), beta, alpha)
addr(input, vec1, vec2, *, beta=1, alpha=1) = weighted(input, outer(vec1, vec2), beta, alpha)
baddbmm(input, batch1, batch2, *, beta=1, alpha=1) = weighted(input, matmul(batch1, batch2), beta, alpha)
addbmm(input, batch1, batch2, *, beta=1, alpha=1) =
    weighted(input, sum(matmul(batch1, batch2), axis=0), beta, alpha)
tensordot(a, b, dims=2) = contracted(a, b, dims)
*sum(input, dim=None, keepdim=False, *, dtype=None) =
    sum(input, axis=axes_of(input, dim), keepdims=keepdim, dtype=total_kind(input, dtype))
*mean(input, dim=None, keepdim=False, *, dtype=None) =
    mean(typed(input, dtype), axis=axes_of(input, dim), keepdims=keepdim)
*prod(input, dim=None, keepdim=False, *, dtype=None) =
    prod(input, axis=axes_of(input, dim), keepdims=keepdim, dtype=total_kind(input, dtype))
*nansum(input, dim=None, keepdim=False, *, dtype=None) =
    nansum(typed(input, dtype), axis=axes_of(input, dim), keepdims=keepdim)
    if input.dtype.kind not in "biu" or dtype is not None
    else sum(input, axis=axes_of(input, dim), keepdims=keepdim, dtype=total_kind(input, None))
*nanmean(input, dim=None, keepdim=False, *, dtype=None) =
    nanmean(typed(input, dtype), axis=axes_of(input, dim), keepdims=keepdim)
std(input, dim=None, unbiased=None, keepdim=False, *, correction=None) =
    spread(std, input, dim, unbiased, keepdim, correction)
var(input, dim=None, unbiased=None, keepdim=False, *, correction=None) =
    spread(var, input, dim, unbiased, keepdim, correction)
std_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None) =
    (spread(std, input, dim, unbiased, keepdim, correction), mean(input, axis=axes_of(input, all_for(dim)),
    keepdims=keepdim))
var_mean(input, dim=None, unbiased=None, keepdim=False, *, correction=None) =
    (spread(var, input, dim, unbiased, keepdim, correction), mean(input, axis=axes_of(input, all_for(dim)),
    keepdims=keepdim))
*max(input, dim=None, keepdim=False) = extremum("max", input, dim, keepdim)
*min(input, dim=None, keepdim=False) = extremum("min", input, dim, keepdim)
*amax(input, dim=(), keepdim=False) = amax(input, axis=axes_of(input, dim), keepdims=keepdim)
*amin(input, dim=(), keepdim=False) = amin(input, axis=axes_of(input, dim), keepdims=keepdim)
*aminmax(input, *, dim=None, keepdim=False) =
    MinMax(amin(input, axis=dim, keepdims=keepdim), amax(input, axis=dim, keepdims=keepdim))
*argmax(input, dim=None, keepdim=False) = argmax(input, axis=dim, keepdims=keepdim)
*argmin(input, dim=None, keepdim=False) = argmin(input, axis=dim, keepdims=keepdim)
*median(input, dim=None, keepdim=False) = middle(input, dim, keepdim)
*nanmedian(input, dim=None, keepdim=False) = middle(input, dim, keepdim, True)
quantile(input, q, dim=None, keepdim=False, *, interpolation="linear") =
    quantile_at(input, q, axes_of(input, dim), keepdim, interpolation)
nanquantile(input, q, dim=None, keepdim=False, *, interpolation="linear") =
    quantile_at(input, q, axes_of(input, dim), keepdim, interpolation, True)
*all(input, dim=None, keepdim=False) = all(input, axis=axes_of(input, dim), keepdims=keepdim)
*any(input, dim=None, keepdim=False) = any(input, axis=axes_of(input, dim), keepdims=keepdim)
*count_nonzero(input, dim=None) = count_nonzero(input, axis=axes_of(input, dim))
*logsumexp(input, dim, keepdim=False) = logsumexp(input, axis=axes_of(input, dim), keepdims=keepdim)
norm(input, p="fro", dim=None, keepdim=False, dtype=None) = length(input, p, dim, keepdim, dtype)
dist(input, other, p=2) = length(subtract(input, other), p, None, False, None)
*cumsum(input, dim, *, dtype=None) = cumulative_sum(typed(input, total_kind(input, dtype)), axis=dim)
*cumprod(input, dim, *, dtype=None) = cumulative_prod(typed(input, total_kind(input, dtype)), axis=dim)
*cummax(input, dim) = Extremum(*cummax(input, axis=dim))
*cummin(input, dim) = Extremum(*cummin(input, axis=dim))
*diff(input, n=1, dim=-1, prepend=None, append=None) =
    diff(input, n=n, axis=dim, prepend=prepend, append=append)
*softmax(input, dim=None, dtype=None) =
    softmax(input if dtype is None else typed(input, dtype),
            axis=softmax_axis(input, None, "softmax") if dim is None else dim)
*log_softmax(input, dim=None, dtype=None) =
    log_softmax(input if dtype is None else typed(input, dtype),
                axis=softmax_axis(input, None, "log_softmax") if dim is None else dim)
*sort(input, dim=-1, descending=False, stable=False) = ordered(input, dim, descending)
*msort(input) = sort(input, axis=0)
*argsort(input, dim=-1, descending=False, stable=False) =
    argsort(input, axis=dim, descending=descending, stable=True)
*topk(input, k, dim=-1, largest=True, sorted=True) = Extremum(*topk(input, k, axis=dim, largest=largest))
searchsorted(sorted_sequence, input, *, out_int32=False, right=False, side=None, sorter=None) =
    places_in(sorted_sequence, input, right, side, sorter, out_int32)
bucketize(input, boundaries, *, out_int32=False, right=False) =
    places_in(boundaries, input, right, None, None, out_int32)
unique(input, sorted=True, return_inverse=False, return_counts=False, dim=None) =
    distinct(input, return_inverse, return_counts, dim)
unique_consecutive(input, return_inverse=False, return_counts=False, dim=None) =
    runs(input, return_inverse, return_counts, dim)
isin(elements, test_elements, *, assume_unique=False, invert=False) =
    are_among(elements, test_elements, invert)
histc(input, bins=100, min=0, max=0) = histogram_between(input, bins, min, max)
histogram(input, bins, *, range=None, weight=None, density=False) =
    histogram_of(input, bins, range, weight, density)
gcd(input, other) = whole_pair("gcd", input, other)
lcm(input, other) = whole_pair("lcm", input, other)
bincount(input, weights=None, minlength=0) = counted(input, weights, minlength)
nonzero(input, *, as_tuple=False) = places(input, as_tuple)
argwhere(input) = places(input, False)
where(condition, input=None, other=None) =
    where(condition, input, other) if input is not None and condition.dtype.char == "?"
    else chosen(condition, input, other)
gather(input, dim, index, *, sparse_grad=False) = gather(input, dim, index)
*scatter(input, dim, index, src=None, *, value=None, reduce=None) =
    scattered(input, dim, index, src, value, reduce)
*scatter_add(input, dim, index, src) =
    scatter_add(input, dim, index, of_one_dtype(input, src, "scatter_add"))
*index_add(input, dim, index, source, *, alpha=1) = index_add(input, dim, index, source, alpha=alpha)
*index_select(input, dim, index) = index_select(input, dim, index)
index_put(input, indices, values, accumulate=False) = put_at(input, indices, values, accumulate)
masked_fill(input, mask, value) = masked(input, mask, value)
masked_select(input, mask) = masked_select(input, mask)
take(input, index, dim=None) = take(input, index, axis=dim)
*take_along_dim(input, indices, dim=None) = taken_along(input, indices, dim)
select(input, dim, index) = part(input, dim, index)
narrow(input, dim, start, length) = part(input, dim, slice_of(input, dim, start, length))
narrow_copy(input, dim, start, length) = copied(part(input, dim, slice_of(input, dim, start, length)))
unbind(input, dim=0) = unstack(input, axis=dim)
split(input, split_size_or_sections, dim=0) = split(input, split_size_or_sections, axis=dim)
split_with_sizes(input, split_sizes, dim=0) = split(input, split_sizes, axis=dim)
unsafe_split(input, split_size, dim=0) = split(input, split_size, axis=dim)
chunk(input, chunks, dim=0) = chunk(input, chunks, axis=dim)
unsafe_chunk(input, chunks, dim=0) = chunk(input, chunks, axis=dim)
tensor_split(input, indices_or_sections, dim=0) = cut(input, indices_or_sections, dim)
hsplit(input, indices_or_sections) = cut(input, indices_or_sections, 0 if input.ndim == 1 else 1)
vsplit(input, indices_or_sections) = cut(input, indices_or_sections, 0)
dsplit(input, indices_or_sections) = cut(input, indices_or_sections, 2)
cat(tensors, dim=0) = joined(tensors, dim)
concat(tensors, dim=0) = joined(tensors, dim)
concatenate(tensors, dim=0) = joined(tensors, dim)
stack(tensors, dim=0) = stack(tensors, axis=dim)
hstack(tensors) =
    joined([at_least(each, 1) for each in tensors], 1 if tensors and at_least(tensors[0], 1).ndim > 1 else 0)
vstack(tensors) = joined([at_least(each, 2) for each in tensors], 0)
row_stack(tensors) = joined([at_least(each, 2) for each in tensors], 0)
dstack(tensors) = joined([at_least(each, 3) for each in tensors], 2)
column_stack(tensors) = joined([as_columns(each) for each in tensors], 1)
reshape(input, *shape) = reshape(input, numbers(shape))
ravel(input) = reshape(input, (-1,))
flatten(input, start_dim=0, end_dim=-1) = flattened(input, start_dim, end_dim)
unflatten(input, dim, sizes) = unflattened(input, dim, sizes)
squeeze(input, dim=None) = squeezed(input, dim)
unsqueeze(input, dim) = expand_dims(input, axis=dim)
permute(input, *dims) = permute_dims(input, numbers(dims))
transpose(input, dim0, dim1) = exchanged(input, dim0, dim1)
swapaxes(input, axis0, axis1) = exchanged(input, axis0, axis1)
swapdims(input, dim0, dim1) = exchanged(input, dim0, dim1)
t(input) = turned(input)
adjoint(input) = matrix_transpose(input) if input.dtype.kind != "c" else conj(matrix_transpose(input))
*movedim(input, source, destination) = moveaxis(input, source, destination)
*moveaxis(input, source, destination) = moveaxis(input, source, destination)
broadcast_to(input, size) = spread_over(input, size)
broadcast_tensors(*tensors) = tuple(broadcast_arrays(*sequence(tensors)))
meshgrid(*tensors, indexing="ij") = tuple(meshgrid(*sequence(tensors), indexing=indexing))
tile(input, *dims) = tile(input, numbers(dims))
*repeat_interleave(input, repeats, dim=None, *, output_size=None) = repeat(input, repeats, axis=dim)
roll(input, shifts, dims=None) = rolled(input, shifts, dims)
flip(input, *dims) = copied(flip(input, axis=axes_of(input, numbers(dims))))
fliplr(input) = copied(flip(input, axis=1))
flipud(input) = copied(flip(input, axis=0))
rot90(input, k=1, dims=(0, 1)) = copied(turned_around(input, k, dims))
tril(input, diagonal=0) = tril(input, k=diagonal)
triu(input, diagonal=0) = triu(input, k=diagonal)
diag(input, diagonal=0) = diagonal_of(input, diagonal)
diagonal(input, offset=0, dim1=0, dim2=1) = diagonal_along(input, offset, dim1, dim2)
trace(input) = trace(two_axes(input, "trace"))
atleast_1d(*tensors) = several(at_least, tensors, 1)
atleast_2d(*tensors) = several(at_least, tensors, 2)
atleast_3d(*tensors) = several(at_least, tensors, 3)
clone(input, *, memory_format=None) = copied(input)
detach(input) = input.detach()
numel(input) = number(input)
is_tensor(obj) = isinstance(obj, Tensor)
is_floating_point(input) = input.dtype.char in "efdE"
is_complex(input) = input.dtype.kind == "c"
is_nonzero(input) = bool(input)
is_same_size(input, other) = input.shape == other.shape
is_conj(input) = False
is_neg(input) = False
sum_to_size(self, *size) = summed_to(self, numbers(size))
einsum(equation, *operands) = einsum(equation, *sequence(operands))
view_as_real(input) = as_pairs(input)
view_as_complex(input) = from_pairs(input)
complex(real, imag) = from_parts(real, imag)
polar(abs, angle) = from_parts(multiply(abs, cos(angle)), multiply(abs, sin(angle)))
inverse(input) = inv(input)
pinverse(input, rcond=1e-15) = pinv(input, rtol=rcond)
det(input) = det(input)
logdet(input) = log_determinant(input)
slogdet(input) = slogdet(input)
matrix_power(input, n) = matrix_power(input, n)
cholesky(input, upper=False) = factored(input, upper)
qr(input, some=True) = qr(input, mode="reduced" if some else "complete")
svd(input, some=True, compute_uv=True) = svd_with_v(input, some, compute_uv)
cdist(x1, x2, p=2.0, compute_mode=None) = cdist(x1, x2, p=p)
cosine_similarity(x1, x2, dim=1, eps=1e-08) = cosine_similarity(x1, x2, axis=dim, eps=eps)
storage_offset(self) = steps_into_memory(self)
expand(self, *sizes, implicit=False) = spread_over(self, numbers(sizes))
expand_as(self, other) = spread_over(self, other.shape)
repeat(self, *repeats) = tiled(self, numbers(repeats))
reshape_as(self, other) = reshape(self, other.shape)
view_as(self, other) = viewed(self, other.shape)
type_as(self, other) = self.to(other)
view(self, *shape, dtype=None) =
    reshape(self, shape) if shape and shape[0].__class__ is int
    and (self._aliases is None or self._data.flags.c_contiguous) else viewed(self, shape or (dtype,))
contiguous(self, memory_format=None) = in_row_order(self)
is_contiguous(self, memory_format=None) = bool(self._data.flags.c_contiguous)
stride(self, dim=None) = strides(self, dim)
data_ptr(self) = address(self)
untyped_storage(self) = storage_of(self)
is_inference(self) = False
element_size(self) = self._data.itemsize
nelement(self) = self._data.size
ndimension(self) = self._data.ndim
get_device(self) = device_number(self)
char(self) = typed(self, "int8")
byte(self) = typed(self, "uint8")
short(self) = typed(self, "int16")
cfloat(self, memory_format=None) = typed(self, "complex64")
cdouble(self, memory_format=None) = typed(self, "complex128")
bfloat16(self, memory_format=None) = typed(self, "bfloat16")
half(self, memory_format=None) = typed(self, "float16")
float(self, memory_format=None) = typed(self, "float32")
double(self, memory_format=None) = typed(self, "float64")
int(self, memory_format=None) = typed(self, "int32")
long(self, memory_format=None) = typed(self, "int64")
bool(self, memory_format=None) = typed(self, "bool")
type(self, dtype=None, non_blocking=False) = of_type(self, dtype)
new_empty(self, *size, dtype=None, device=None, requires_grad=False) =
    made_like(self, "empty", size, dtype, device, requires_grad)
new_zeros(self, *size, dtype=None, device=None, requires_grad=False) =
    made_like(self, "zeros", size, dtype, device, requires_grad)
new_ones(self, *size, dtype=None, device=None, requires_grad=False) =
    made_like(self, "ones", size, dtype, device, requires_grad)
new_full(self, size, fill_value, *, dtype=None, device=None, requires_grad=False) =
    made_like(self, "full", (size,), dtype, device, requires_grad, fill_value)
new_tensor(self, data, *, dtype=None, device=None, requires_grad=False) =
    tensor_like(self, data, dtype, device, requires_grad)
new(self, *args) = new_like(self, args)
bernoulli(input, p=None, *, generator=None) = coins(input, p, generator)
multinomial(input, num_samples, replacement=False, *, generator=None) =
    drawn(input, num_samples, replacement, generator)
normal_(self, mean=0, std=1, *, generator=None) = filled_at_random(self, "normal", generator, mean, std)
uniform_(self, a=0.0, b=1.0, *, generator=None) = filled_at_random(self, "uniform", generator, a, b)
random_(self, low=0, high=None, *, generator=None) = filled_at_random(self, "whole", generator, low, high)
bernoulli_(self, p=0.5, *, generator=None) = filled_at_random(self, "bernoulli", generator, p, None)
exponential_(self, lambd=1.0, *, generator=None) =
    filled_at_random(self, "exponential", generator, lambd, None)
log_normal_(self, mean=1, std=2, *, generator=None) =
    filled_at_random(self, "log_normal", generator, mean, std)
cauchy_(self, median=0, sigma=1, *, generator=None) =
    filled_at_random(self, "cauchy", generator, median, sigma)
geometric_(self, p, *, generator=None) = filled_at_random(self, "geometric", generator, p, None)
set_(self, source=None) = with_memory_of(self, source)
resize_(self, *size) = resized(self, numbers(size))
resize_as_(self, other) = resized(self, other.shape)
apply_(self, function) = applied(self, function)
map_(self, tensor, function) = applied(self, function, tensor)
index_put_(self, indices, values, accumulate=False) = put_in_place(self, indices, values, accumulate)
share_memory_(self) = shared_in_place(self)
is_shared(self) = lies_shared(self)
to_sparse(self, sparse_dim=None) = kept_sparse(self)
to_sparse_coo(self) = kept_sparse(self)
to_sparse_csr(self, dense_dim=None) = kept_sparse(self)
to_dense(self, dtype=None) = typed(self, dtype)
coalesce(self) = self
is_coalesced(self) = True
is_signed(self) = self.dtype.kind in "ifcV"
lgamma(input) = gammaln(input)
igamma(input, other) = gammainc(input, other)
igammac(input, other) = gammaincc(input, other)
mvlgamma(input, p) = multigammaln(input, p)
polygamma(n, input) = derivative_of_digamma(n, input)
diag_embed(input, offset=0, dim1=-2, dim2=-1) = diag_embed(input, offset, dim1, dim2)
diagonal_scatter(input, src, offset=0, dim1=0, dim2=1) = diagonal_scatter(input, src, offset, dim1, dim2)
diagflat(input, offset=0) = diag_embed(reshape(input, (-1,)), offset)
as_strided(input, size, stride, storage_offset=None) = take_strided(input, size, stride, storage_offset)
as_strided_copy(input, size, stride, storage_offset=None) = take_strided(input, size, stride,
    storage_offset)
as_strided_scatter(input, src, size, stride, storage_offset=None) = put_strided(input, src, size, stride,
    storage_offset)
expand_copy(input, size, *, implicit=False) = copied(spread_over(input, size))
diagonal_copy(input, offset=0, dim1=0, dim2=1) = copied(diagonal_along(input, offset, dim1, dim2))
alias_copy(input) = copied(input)
view_copy(input, size) = copied(viewed(input, size))
permute_copy(input, dims) = copied(permute_dims(input, numbers(dims)))
split_with_sizes_copy(input, split_sizes, dim=0) = [copied(each) for each in split(input, split_sizes,
    axis=dim)]
unbind_copy(input, dim=0) = [copied(each) for each in unstack(input, axis=dim)]
squeeze_copy(input, dim=None) = copied(squeezed(input, dim))
unsqueeze_copy(input, dim) = copied(expand_dims(input, axis=dim))
transpose_copy(input, dim0, dim1) = copied(exchanged(input, dim0, dim1))
t_copy(input) = copied(turned(input))
unfold_copy(input, dimension, size, step) = copied(unfold_axis(input, dimension, size, step))
unfold(self, dimension, size, step) = unfold_axis(self, dimension, size, step)
grid_sampler(input, grid, interpolation_mode, padding_mode, align_corners) =
    sampled(input, grid, interpolation_mode, padding_mode, align_corners)
grid_sampler_2d(input, grid, interpolation_mode, padding_mode, align_corners) =
    sampled(input, grid, interpolation_mode, padding_mode, align_corners)
grid_sampler_3d(input, grid, interpolation_mode, padding_mode, align_corners) =
    sampled(input, grid, interpolation_mode, padding_mode, align_corners)
slice(input, dim=0, start=None, end=None, step=1) = part(input, dim, sliced(start, end, step))
fill(input, value) = filled(input, value)
trapz(y, x=None, *, dx=1.0, dim=-1) = trapezoid(y, x, dx, dim)
trapezoid(y, x=None, *, dx=1.0, dim=-1) = trapezoid(y, x, dx, dim)
cumulative_trapezoid(y, x=None, *, dx=1.0, dim=-1) = cumulative_trapezoid(y, x, dx, dim)
gradient(input, *, spacing=None, dim=None, edge_order=1) = gradient(input, spacing=spacing, axis=dim,
    edge_order=edge_order)
constant_pad_nd(input, pad, value=0) = padded(input, pad, value)
stft(input, n_fft, hop_length=None, win_length=None, window=None, center=True, pad_mode="reflect",
    normalized=False, onesided=None, return_complex=None, align_to_window=None) =
    windowed_transform(stft(input, n_fft, hop_length, win_length, window, center=center,
    pad_mode=pad_mode, normalized=normalized, onesided=onesided), return_complex)
lu(A, pivot=True, get_infos=False) = lu_with_info(A, pivot, False)[:3 if get_infos else 2]
lu_solve(b, LU_data, LU_pivots) = lu_solve(LU_data, LU_pivots, b)
cholesky_inverse(L, upper=False) = cholesky_inverse(L, upper)
cholesky_solve(B, L, upper=False) = cholesky_solve(B, L, upper)
matrix_exp(A) = matrix_exp(A)
householder_product(A, tau) = householder_product(A, tau)
orgqr(input, tau) = householder_product(input, tau)
ormqr(input, tau, other, left=True, transpose=False) = ormqr(input, tau, other, left, transpose)
svd_lowrank(A, q=6, niter=2, M=None) = svd_lowrank(A, q, M)
pca_lowrank(A, q=None, center=True, niter=2) = pca_lowrank(A, q, center)
_softmax_backward_data(grad_output, output, dim, input_dtype) = multiply(output, subtract(grad_output,
    sum(multiply(grad_output, output), axis=dim, keepdims=True)))
native_dropout_backward(grad_output, mask, scale) = multiply(multiply(grad_output, typed(mask,
    grad_output.dtype)), scale)
__rdiv__(self, other) = multiply(reciprocal(self), other)
"""

#: Methods that write into the tensor what the method without the underscore returns.
IN_PLACE = (
    "abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr arccos arccosh arcsin arcsinh "
    "arctan arctan2 arctanh asin asinh atan atan2 atanh baddbmm bitwise_and bitwise_left_shift "
    "bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil clamp clamp_max clamp_min clip "
    "conj_physical copysign cos cosh cumprod cumsum deg2rad div divide eq erf erfc erfinv exp exp2 expm1 "
    "fix float_power floor floor_divide fmod frac ge greater greater_equal gt hypot index_add index_fill "
    "index_copy index_reduce le lerp less less_equal log log10 log1p log2 logical_and logical_not "
    "logical_or logical_xor logit lt masked_fill masked_scatter mul multiply nan_to_num ne neg negative "
    "nextafter not_equal pow put rad2deg reciprocal relu remainder renorm round rsqrt scatter scatter_add "
    "scatter_reduce sgn sigmoid sign sin sinc sinh sqrt square sub subtract tan tanh tril triu "
    "true_divide trunc xlogy digamma lgamma polygamma mvlgamma i0 igamma igammac ldexp heaviside gcd lcm "
    "logaddexp fill"
)

#: Methods in place that only change how the tensor looks at its memory.
IN_PLACE_VIEWS = "squeeze unsqueeze transpose t swapaxes swapdims"

#: Functions that take whole numbers as the default float, which the operations refuse.
FLOATING = (
    "acos acosh arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh cos cosh "
    "deg2rad digamma erf erfc erfinv exp exp2 expm1 i0 lgamma log log10 log1p log2 log_softmax logit "
    "logsumexp mvlgamma polygamma rad2deg reciprocal rsqrt sigmoid sin sinc sinh softmax sqrt tan tanh "
    "xlogy hypot logaddexp"
)

#: Functions to which booleans are bytes; of booleans alone they give booleans.
BYTES = (
    "amax amin aminmax argsort cummax cummin fmax fmin ger kron max maximum min minimum msort nan_to_num "
    "outer sign sort topk"
)

#: Functions to which booleans are whole numbers.
WHOLE = (
    "clamp clamp_max clamp_min clip copysign cumprod cumsum floor_divide fmod pow prod remainder vander "
    "logcumsumexp cov corrcoef nextafter"
)

#: Functions of two that take a number in the place of the first tensor, as long as the other is one.
NUMBER_FIRST = (
    "add sub subtract mul multiply div divide true_divide floor_divide pow float_power remainder xlogy "
    "xlog1py zeta bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift copysign "
    "nextafter"
)

#: Functions that read elsewhere than they write: ``out`` may not lie in what they are given.
APART = "bernoulli cat concat concatenate gather index_select masked_select take"

#: Functions whose ``out`` has the result's dtype.
EXACT = "aminmax complex gather index_select multinomial take"

#: Operations whose own arguments are PyTorch's but for ``axis``, and that are methods too.
METHODS = (
    "cross diag_embed digamma erfcx frexp geqrf heaviside i0 igamma igammac index_copy index_fill "
    "index_reduce kthvalue ldexp lgamma logaddexp2 logcumsumexp lu masked_scatter matrix_exp mode "
    "mvlgamma nanquantile orgqr ormqr polygamma prelu put renorm scatter_reduce sinc slice_scatter "
    "select_scatter diagonal_scatter as_strided as_strided_scatter stft istft triangular_solve "
    "cholesky_inverse cholesky_solve lu_solve cov corrcoef diagflat hardshrink fill unfold "
    "expand_copy xlogy lstsq eig logical_not rot90 smm sspaddmm square"
)

#: The same, that are functions alone.
FUNCTIONS = (
    "block_diag cartesian_prod chain_matmul combinations cumulative_trapezoid eigvals entr erfcx "
    "from_parts gradient grid_sampler_2d i0e i1 i1e linspace log_ndtr lu_factor lu_unpack matrix_sqrth "
    "multi_dot ndtr ndtri pca_lowrank pdist polar rsub svd_lowrank tensorinv tensorsolve trapezoid trapz "
    "trilinear vander xlog1py zeta bessel_j0 bessel_j1 householder_product lstsq logaddexp2 nuclear_norm "
    "solve_triangular eig segment_reduce"
)
