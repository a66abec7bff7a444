"""PyTorch's submodules, as data: where the names in each of them come from.

:data:`ROOM_TABLE` holds functions of submodules, and methods that mean something else than the function of
their name, as ``functions.py`` holds those of ``torch``; :data:`PLACES`
says for each submodule which modules are asked for a name, in order.
"""

from __future__ import annotations

from distgrad.names.deferred import DEFERRED
from distgrad.names.losses import LOSS_FUNCTIONS, LOSS_LAYERS

__all__ = ["ALIASES", "FILES", "PLACES", "ROOM_TABLE", "TOP", "WHOLE"]

ROOM_TABLE = """
Tensor.where(self, condition, other) = where(condition, self, other)
linalg.norm(A, ord=None, dim=None, keepdim=False, *, dtype=None) = norm_of(A, ord, dim, keepdim, dtype)
linalg.vector_norm(x, ord=2, dim=None, keepdim=False, *, dtype=None) = length(x, ord, dim, keepdim, dtype)
linalg.matrix_norm(A, ord="fro", dim=(-2, -1), keepdim=False, *, dtype=None) =
    norm_of(A, ord, dim, keepdim, dtype)
linalg.cross(input, other, *, dim=-1) = crossed(input, other, dim)
linalg.diagonal(A, *, offset=0, dim1=-2, dim2=-1) = diagonal_along(A, offset, dim1, dim2)
linalg.matmul(input, other) = matmul(input, other)
linalg.vecdot(x, y, *, dim=-1) = sum(multiply(conj(x), y), axis=dim)
linalg.det(A) = det(A)
linalg.slogdet(A) = slogdet(A)
linalg.inv(A) = inv(A)
linalg.inv_ex(A, *, check_errors=False) = inverse_with_info(A, check_errors)
linalg.cholesky(A, *, upper=False) = factored(A, upper)
linalg.cholesky_ex(A, *, upper=False, check_errors=False) = cholesky_with_info(A, upper, check_errors)
linalg.solve(A, B, *, left=True) = solved(A, B, left)
linalg.solve_ex(A, B, *, left=True, check_errors=False) =
    solution_with_info(A, B, left, check_errors)
linalg.matrix_power(A, n) = matrix_power(A, n)
linalg.matrix_rank(A, *, atol=None, rtol=None, hermitian=False) =
    matrix_rank(mirrored(A, "L") if hermitian else A, rtol=share_of(A, atol, rtol, hermitian))
linalg.pinv(A, rcond=None, *, atol=None, rtol=None, hermitian=False) =
    pinv(read_as_mirrored(A) if hermitian else A,
    rtol=share_of(A, atol, rcond if rtol is None else rtol, hermitian))
linalg.qr(A, mode="reduced") = qr(A, mode=mode)
linalg.svd(A, full_matrices=True, *, driver=None) = svd(A, full_matrices=full_matrices)
linalg.svdvals(A, *, driver=None) = svdvals(A)
linalg.eigh(A, UPLO="L") = eigh(mirrored(A, UPLO))
linalg.eigvalsh(A, UPLO="L") = eigvalsh(mirrored(A, UPLO))
linalg.cond(A, p=None) = condition(A, p)
linalg.lu_factor(A, *, pivot=True) = lu_factor(A, pivot=pivot)
linalg.lu_factor_ex(A, *, pivot=True, check_errors=False) = lu_with_info(A, pivot, check_errors)
linalg.vander(x, *, N=None) = vander(at_least(x, 1), N, True)
linalg.multi_dot(tensors) = multi_dot(*tensors)
linalg.eig(A) = eig(A)
linalg.eigvals(A) = eigvals(A)
linalg.householder_product(A, tau) = householder_product(A, tau)
linalg.matrix_exp(A) = matrix_exp(A)
linalg.matrix_sqrth(A) = matrix_sqrth(A)
linalg.polar(A) = polar_factors(A)
linalg.lstsq(A, B, rcond=None, *, driver=None) = least_squares(A, B, rcond, driver)
linalg.tensorinv(A, ind=2) = tensorinv(A, ind)
linalg.tensorsolve(A, B, dims=None) = tensorsolve(A, B, dims)
fft.hfft2(input, s=None, dim=(-2, -1), norm=None) = hfftn(input, s, places_of(dim), norm)
fft.ihfft2(input, s=None, dim=(-2, -1), norm=None) = ihfftn(input, s, places_of(dim), norm)
fft.hfftn(input, s=None, dim=None, norm=None) = hfftn(input, s, last_of(input, s, dim), norm)
fft.ihfftn(input, s=None, dim=None, norm=None) = ihfftn(input, s, last_of(input, s, dim), norm)
fft.fft(input, n=None, dim=-1, norm=None) = fft(input, n=n, axis=dim, norm=norm or "backward")
fft.ifft(input, n=None, dim=-1, norm=None) = ifft(input, n=n, axis=dim, norm=norm or "backward")
fft.rfft(input, n=None, dim=-1, norm=None) = rfft(input, n=n, axis=dim, norm=norm or "backward")
fft.irfft(input, n=None, dim=-1, norm=None) = irfft(input, n=n, axis=dim, norm=norm or "backward")
fft.hfft(input, n=None, dim=-1, norm=None) = hfft(input, n=n, axis=dim, norm=norm or "backward")
fft.ihfft(input, n=None, dim=-1, norm=None) = ihfft(input, n=n, axis=dim, norm=norm or "backward")
fft.fft2(input, s=None, dim=(-2, -1), norm=None) =
    fftn(input, s=s, axes=places_of(dim), norm=norm or "backward")
fft.ifft2(input, s=None, dim=(-2, -1), norm=None) =
    ifftn(input, s=s, axes=places_of(dim), norm=norm or "backward")
fft.rfft2(input, s=None, dim=(-2, -1), norm=None) =
    rfftn(input, s=s, axes=places_of(dim), norm=norm or "backward")
fft.irfft2(input, s=None, dim=(-2, -1), norm=None) =
    irfftn(input, s=s, axes=places_of(dim), norm=norm or "backward")
fft.fftn(input, s=None, dim=None, norm=None) =
    fftn(input, s=s, axes=last_of(input, s, dim), norm=norm or "backward")
fft.ifftn(input, s=None, dim=None, norm=None) =
    ifftn(input, s=s, axes=last_of(input, s, dim), norm=norm or "backward")
fft.rfftn(input, s=None, dim=None, norm=None) =
    rfftn(input, s=s, axes=last_of(input, s, dim), norm=norm or "backward")
fft.irfftn(input, s=None, dim=None, norm=None) =
    irfftn(input, s=s, axes=last_of(input, s, dim), norm=norm or "backward")
fft.fftshift(input, dim=None) = fftshift(input, axes=dim)
fft.ifftshift(input, dim=None) = ifftshift(input, axes=dim)
"""

#: Functions of a submodule that ``torch`` has under another name.
ALIASES = {
    "special": {
        "psi": "digamma", "expit": "sigmoid", "gammainc": "igamma", "gammaincc": "igammac",
        "gammaln": "lgamma", "multigammaln": "mvlgamma",
        **{
            name: name
            for name in (
                *("digamma", "erf", "erfc", "erfinv", "exp2", "expm1", "i0", "log1p", "log_softmax", "logit"),
                *("logsumexp", "polygamma", "round", "sinc", "softmax", "xlogy"),
            )
        },
    },
}  # fmt: skip

_NET_FILES = (
    "activation adaptive batchnorm channelshuffle container conv distance dropout embedding flatten fold "
    "instancenorm lazy linear loss module normalization padding pixelshuffle pooling rnn sparse transformer "
    "upsampling"
)

_RANKS = "distgrad.torch.distributed"
_CHECKPOINTS = "checkpoint checkpoint_sequential get_device_states noop_context_fn set_device_states"
_REPLICAS = "parallel_apply replicate scatter_gather"

_LOSSES = f"distgrad.torch.losses:{' '.join(LOSS_LAYERS)}"

_OTHER_LOSSES = "distgrad.torch.class_losses:CTCLoss LinearCrossEntropyLoss"

_OPTIMIZERS = (
    "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS NAdam RAdam RMSprop Rprop SGD SparseAdam"
)

_CHANCES = {
    "distribution": "distribution exp_family",
    "constraints": "constraints",
    "transforms": "transforms",
    "continuous": "cauchy exponential gumbel laplace normal studentT uniform",
    "gamma": "beta chi2 gamma inverse_gamma",
    "discrete": "bernoulli binomial categorical geometric multinomial negative_binomial one_hot_categorical "
    "poisson",
    "multivariate": "dirichlet multivariate_normal",
    "derived": "half_cauchy half_normal independent log_normal mixture_same_family pareto "
    "transformed_distribution weibull",
    "registry": "constraint_registry",
    "relaxed": "relaxed_bernoulli relaxed_categorical",
    "divergence": "kl",
}

#: For each submodule the modules that are asked for its names, in order; after a colon stand the names, or
#: a star and the object in the module that has them.
PLACES: dict[str, tuple[str, ...]] = {
    **{name: () for name in DEFERRED if name},
    "nn": (
        *(_LOSSES, f"{_OTHER_LOSSES} LinearCrossEntropyOptions", "distgrad.nn", "distgrad.torch.nets"),
        "distgrad.torch.bases:RNNBase RNNCellBase",
    ),
    "nn.functional": (
        "distgrad.torch.class_losses:ctc_loss linear_cross_entropy",
        f"distgrad.torch.losses:{' '.join(LOSS_FUNCTIONS)}",
        "distgrad.torch.nets:*F",
        "distgrad.torch.attention:multi_head_attention_forward",
        "distgrad.nn.functional",
    ),
    "nn.init": ("distgrad.nn.init", "distgrad.torch.nets:*initial", "distgrad.torch.bases"),
    "nn.parameter": ("distgrad.nn.parameter", "distgrad.nn"),
    "nn.parallel": (f"{_RANKS}.ddp", "distgrad.torch.nets", "distgrad.torch.replicas"),
    **{f"nn.parallel.{name}": ("distgrad.torch.replicas",) for name in _REPLICAS.split()},
    "nn.parallel.distributed": (f"{_RANKS}.ddp",),
    "nn.parallel.data_parallel": ("distgrad.torch.nets",),
    "nn.utils": (
        *("distgrad.torch.nets:*helpers", "distgrad.torch.norms", "distgrad.nn.utils"),
        "distgrad.torch.fusion",
    ),
    "nn.utils.fusion": ("distgrad.torch.fusion",),
    "nn.utils.rnn": ("distgrad.nn.utils.rnn",),
    "nn.utils.parametrizations": ("distgrad.nn.utils.parametrizations",),
    "nn.utils.prune": ("distgrad.nn.utils.prune",),
    "nn.utils.parametrize": ("distgrad.nn.utils.parametrize",),
    "nn.utils.clip_grad": ("distgrad.torch.nets:*helpers", "distgrad.nn.utils"),
    "functional": ("distgrad.torch",),
    "signal": (),
    "signal.windows": ("distgrad.torch.windows",),
    "nn.utils.convert_parameters": ("distgrad.nn.utils",),
    "nn.utils.weight_norm": ("distgrad.torch.norms",),
    "nn.utils.spectral_norm": ("distgrad.torch.norms",),
    "nn.attention": ("distgrad.torch.nets",),
    "optim": ("distgrad.optim",),
    "optim.optimizer": ("distgrad.optim", "distgrad.torch.bases", "distgrad.optim.hooks"),
    "optim.lr_scheduler": ("distgrad.optim.lr_scheduler", "distgrad.torch.bases:_LRScheduler"),
    "optim.swa_utils": ("distgrad.optim.swa_utils",),
    "utils": ("distgrad.torch.utilities",),
    "utils.data": (f"{_RANKS}.sampler:DistributedSampler", "distgrad.data"),
    "utils.data.dataset": ("distgrad.data",),
    "utils.data.dataloader": ("distgrad.data", "distgrad.data.collate"),
    "utils.data.sampler": ("distgrad.data",),
    "utils.data.distributed": (f"{_RANKS}.sampler",),
    "utils.checkpoint": (
        f"distgrad.torch.calls:{_CHECKPOINTS}",
        "distgrad.autograd",
    ),
    "utils.tensorboard": ("distgrad.torch.tensorboard",),
    "utils.tensorboard.writer": ("distgrad.torch.tensorboard",),
    "utils.hooks": ("distgrad.autograd.tensor",),
    "autograd": (
        "distgrad.torch.derivatives:grad gradcheck",
        "distgrad.autograd",
        "distgrad.torch.derivatives",
    ),
    "autograd.functional": ("distgrad.torch.derivatives",),
    "autograd.profiler": ("distgrad.torch.profiler:*of_autograd", "distgrad.torch.profiler"),
    "autograd.function": ("distgrad.autograd", "distgrad.torch.library:once_differentiable FunctionCtx"),
    "autograd.forward_ad": ("distgrad.torch.library:*forward_ad",),
    "autograd.grad_mode": ("distgrad.autograd.modes",),
    "autograd.variable": ("distgrad.torch.derivatives",),
    "func": (
        "distgrad.func",
        "distgrad.nn.utils.stateless:functional_call",
        "distgrad.torch.calls:functionalize grad_and_value stack_module_state",
        "distgrad.torch.calls:replace_all_batch_norm_modules_",
    ),
    "linalg": ("distgrad.linalg", "distgrad.autograd.failures:LinAlgError"),
    "fft": ("distgrad.fft",),
    "special": (),
    "amp": ("distgrad.amp", "distgrad.torch.machine"),
    "amp.autocast_mode": ("distgrad.amp",),
    "amp.grad_scaler": ("distgrad.amp",),
    "cuda": ("distgrad.torch.machine:*cuda", "distgrad.torch.kinds:*cuda_types", "distgrad.cuda"),
    "cuda.random": ("distgrad.torch.machine:*cuda",),
    "cuda.memory": ("distgrad.torch.machine:*cuda", "distgrad.cuda"),
    "cuda.amp.grad_scaler": ("distgrad.torch.machine:*cuda_amp",),
    "cuda.amp.autocast_mode": ("distgrad.torch.machine:*cuda_amp",),
    "cuda.amp": ("distgrad.torch.machine:*cuda_amp",),
    "cuda.nvtx": ("distgrad.torch.machine:*nvtx",),
    "accelerator": ("distgrad.torch.machine:*accelerator", "distgrad.cuda"),
    "mps": ("distgrad.torch.machine:*absent",),
    "xpu": ("distgrad.torch.machine:*absent",),
    "cpu": ("distgrad.torch.machine:*host",),
    "backends": ("distgrad.torch.machine:*backends",),
    "backends.cudnn": ("distgrad.torch.machine:*cudnn",),
    "backends.cuda": ("distgrad.torch.machine:*backend_cuda",),
    "backends.cuda.matmul": ("distgrad.torch.machine:*matmul",),
    "backends.mps": ("distgrad.torch.machine:*absent",),
    "backends.mkldnn": ("distgrad.torch.machine:*mkldnn",),
    "backends.mkl": ("distgrad.torch.machine:*mkldnn",),
    "backends.openmp": ("distgrad.torch.machine:*mkldnn",),
    "backends.opt_einsum": ("distgrad.torch.machine:*opt_einsum",),
    "random": ("distgrad.torch.settings:*random",),
    "jit": ("distgrad.torch.utilities:*jit",),
    "jit.annotations": ("distgrad.torch.utilities:*type_names",),
    "_dynamo": ("distgrad.torch.compiled:OptimizedModule", "distgrad.torch.utilities:*compiler"),
    "_dynamo.eval_frame": ("distgrad.torch.compiled:OptimizedModule",),
    **dict.fromkeys(
        ("_dynamo.config", "_inductor.config", "_functorch.config"),
        ("distgrad.torch.utilities:*compiler_settings",),
    ),
    "_inductor": (),
    "_functorch": (),
    "nn.utils.stateless": ("distgrad.nn.utils.stateless:functional_call",),
    "compiler": (
        "distgrad.torch.compiled:compile",
        "distgrad.torch.utilities:*compiler",
    ),
    "serialization": ("distgrad.torch.files", "distgrad.torch.library:*serialization"),
    "storage": ("distgrad.autograd.storages:UntypedStorage",),
    "version": ("distgrad.torch.settings:*version",),
    "types": ("distgrad.torch.kinds", "distgrad.torch.library:*types"),
    "overrides": ("distgrad.torch.utilities:*overrides",),
    "hub": ("distgrad.torch.weights",),
    "utils.model_zoo": ("distgrad.torch.weights",),
    "utils._pytree": ("distgrad.torch.pytree",),
    "utils.dlpack": ("distgrad:from_dlpack", "distgrad.torch.library:to_dlpack"),
    "__config__": ("distgrad.torch.library:*config",),
    "nn.attention.flex_attention": ("distgrad.torch.library:*flex",),
    **dict.fromkeys(
        ("distributed._tensor", "distributed.tensor", "distributed.tensor.placement_types"),
        ("distgrad.torch.library:Partial Placement Replicate Shard",),
    ),
    "utils.flop_counter": ("distgrad.torch.library:FlopCounterMode",),
    "ops": ("distgrad.torch.library:*kernels",),
    "_ops": ("distgrad.torch.library:*operators",),
    "_subclasses.fake_tensor": ("distgrad.torch.library:*fx",),
    "_tensor": ("distgrad.torch.kinds", "distgrad.autograd.tensor"),
    "_utils": ("distgrad.torch.library:*inner",),
    **{f"optim.{name.lower()}": ("distgrad.optim",) for name in _OPTIMIZERS.split()},
    "fx": ("distgrad.torch.library:*fx",),
    "fx._compatibility": ("distgrad.torch.library:*fx",),
    "fx.experimental.proxy_tensor": ("distgrad.torch.library:*fx",),
    "fx._symbolic_trace": ("distgrad.torch.library:*fx",),
    "distributed.constants": ("distgrad.torch.library:default_pg_timeout",),
    "utils.data._utils": ("distgrad.data.collate",),
    "utils.data._utils.collate": ("distgrad.data.collate",),
    "onnx": ("distgrad.torch.utilities:*onnx",),
    "_C": ("distgrad.torch.utilities:*internal",),
    "_C._nn": ("distgrad.nn.functional", "distgrad.torch.library:*net_internals"),
    "futures": (f"{_RANKS}.works:Future collect_all wait_all",),
    "distributed.distributed_c10d": (_RANKS, f"{_RANKS}.groups"),
    "distributed.nn": (f"{_RANKS}.functional",),
    "distributed.nn.functional": (f"{_RANKS}.functional",),
    "distributed.optim": (
        f"{_RANKS}.averaging:PostLocalSGDOptimizer",
        f"{_RANKS}.zero:ZeroRedundancyOptimizer",
    ),
    "distributed.optim.zero_redundancy_optimizer": (f"{_RANKS}.zero:ZeroRedundancyOptimizer",),
    "distributed.algorithms": (f"{_RANKS}.join:Join",),
    "distributed.algorithms._checkpoint": (f"{_RANKS}.checkpointing",),
    "distributed.algorithms._checkpoint.checkpoint_wrapper": (f"{_RANKS}.checkpointing",),
    "distributed.algorithms.join": (f"{_RANKS}.join",),
    "distributed.algorithms.ddp_comm_hooks": (f"{_RANKS}.hooks",),
    "distributed.algorithms.ddp_comm_hooks.default_hooks": (f"{_RANKS}.hooks",),
    "distributed.algorithms.ddp_comm_hooks.powerSGD_hook": (f"{_RANKS}.hooks",),
    "distributed.algorithms.ddp_comm_hooks.post_localSGD_hook": (f"{_RANKS}.averaging",),
    "distributed.algorithms.model_averaging": (f"{_RANKS}.averaging",),
    "distributed.algorithms.model_averaging.averagers": (f"{_RANKS}.averaging",),
    "distributed.algorithms.model_averaging.hierarchical_model_averager": (f"{_RANKS}.averaging",),
    "distributed.algorithms.model_averaging.utils": (f"{_RANKS}.averaging",),
    "distributed.device_mesh": (f"{_RANKS}.meshes",),
    "distributed.fsdp": (f"{_RANKS}.sharded",),
    "distributed.fsdp.api": (f"{_RANKS}.sharded",),
    "distributed.fsdp.fully_sharded_data_parallel": (f"{_RANKS}.sharded",),
    "distributed.fsdp.wrap": (f"{_RANKS}.wrapping",),
    "distributed.fsdp.sharded_grad_scaler": (f"{_RANKS}.zero:ShardedGradScaler",),
    "distributed._composable": (f"{_RANKS}.sharded",),
    "distributed._composable.fsdp": (f"{_RANKS}.sharded",),
    "distributed.elastic": (f"{_RANKS}.recording",),
    "distributed.elastic.multiprocessing": (f"{_RANKS}.recording",),
    "distributed.elastic.multiprocessing.errors": (f"{_RANKS}.recording",),
    **{
        f"nn.modules.{name}": (
            *(_LOSSES, _OTHER_LOSSES, "distgrad.nn", "distgrad.torch.bases"),
            "distgrad.torch.nets:SyncBatchNorm",
        )
        for name in _NET_FILES.split()
    },
    "nn.modules": (_LOSSES, _OTHER_LOSSES, "distgrad.nn"),
    "nn.modules.module": (
        "distgrad.nn:Module",
        "distgrad.nn.everywhere",
        "distgrad.torch.bases:_IncompatibleKeys",
        "distgrad.torch.nets:_EXTRA_STATE_KEY_SUFFIX _addindent",
    ),
    "nn.modules.utils": ("distgrad.torch.nets:*utils",),
    "distributions": (
        "distgrad.torch.probability.distribution:Distribution ExponentialFamily",
        *(f"distgrad.torch.probability.{name}" for name in [*_CHANCES][2:]),
    ),
    "distributions.utils": ("distgrad.torch.probability.distribution", "distgrad.torch.library:*chances"),
    **{
        f"distributions.{room}": (f"distgrad.torch.probability.{name}",)
        for name, rooms in _CHANCES.items()
        for room in rooms.split()
    },
}

#: Submodules of which a star brings their own submodules too.
WHOLE = "nn utils"

#: Submodules that are modules of ``distgrad.torch`` as they stand.
FILES = "distributed masked multiprocessing profiler sparse testing"

_NET_FUNCTIONS = (
    "adaptive_avg_pool1d adaptive_max_pool1d alpha_dropout alpha_dropout_ avg_pool1d bilinear celu celu_ "
    "channel_shuffle conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "cosine_embedding_loss ctc_loss dropout dropout_ embedding_bag feature_alpha_dropout gaussian_nll_loss "
    "hardshrink hinge_embedding_loss kl_div margin_ranking_loss max_pool1d max_pool2d max_pool3d "
    "pairwise_distance pdist pixel_shuffle pixel_unshuffle poisson_nll_loss prelu relu_ rrelu selu selu_ "
    "triplet_margin_loss threshold"
)
_OURS = (
    "nn optim autocast no_grad enable_grad inference_mode set_grad_enabled is_grad_enabled "
    "is_inference_mode_enabled manual_seed get_num_threads set_num_threads get_float32_matmul_precision "
    "set_float32_matmul_precision e inf nan pi newaxis from_dlpack default_generator func isdtype "
    "get_autocast_dtype"
)

#: What ``torch`` itself is asked for: its own modules before the table of functions, the others behind it.
TOP = (
    "distgrad.torch.kinds",
    "distgrad.torch.creation",
    "distgrad.torch.layers",
    "distgrad.torch.sparse:mm matmul",
    "distgrad.torch.class_losses:ctc_loss",
    f"distgrad.nn.functional:{_NET_FUNCTIONS}",
    "distgrad.torch.settings",
    "distgrad.torch.files:save load",
    "distgrad.autograd.storages:UntypedStorage",
    "distgrad.torch.compiled:compile",
    "distgrad.func:vmap",
    "distgrad.torch.utilities",
    "distgrad.torch.old",
    "distgrad.cuda:Event Stream",
    "distgrad.nn:ModuleDict ParameterDict",
    "distgrad.torch.windows:*old",
    "distgrad.torch.sampling",
    "distgrad.torch.machine:GradScaler OutOfMemoryError get_device_module",
    "distgrad.torch.foreach",
    "distgrad.torch.sparse:sparse_coo_tensor sparse_csr_tensor spmm hspmm",
    f"distgrad:{_OURS}",
)
