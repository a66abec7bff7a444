"""The order of arguments of PyTorch's losses that take ``size_average`` and ``reduce``, as data."""

from __future__ import annotations

__all__ = ["LOSS_FUNCTIONS", "LOSS_LAYERS"]

#: Classes of ``torch.nn``.
LOSS_LAYERS = {
    "BCELoss": "weight size_average reduce reduction",
    "BCEWithLogitsLoss": "weight size_average reduce reduction pos_weight",
    "CosineEmbeddingLoss": "margin size_average reduce reduction",
    "CrossEntropyLoss": "weight size_average ignore_index reduce reduction label_smoothing",
    "HingeEmbeddingLoss": "margin size_average reduce reduction",
    "KLDivLoss": "size_average reduce reduction log_target",
    "L1Loss": "size_average reduce reduction",
    "MSELoss": "size_average reduce reduction",
    "MarginRankingLoss": "margin size_average reduce reduction",
    "MultiLabelMarginLoss": "size_average reduce reduction",
    "MultiLabelSoftMarginLoss": "weight size_average reduce reduction",
    "MultiMarginLoss": "p margin weight size_average reduce reduction",
    "NLLLoss": "weight size_average ignore_index reduce reduction",
    "PoissonNLLLoss": "log_input full size_average eps reduce reduction",
    "SmoothL1Loss": "size_average reduce reduction beta",
    "SoftMarginLoss": "size_average reduce reduction",
    "TripletMarginLoss": "margin p eps swap size_average reduce reduction",
}

#: Functions of ``torch.nn.functional``: their inputs, and behind them what the classes take.
LOSS_FUNCTIONS = {
    "binary_cross_entropy": f"input target {LOSS_LAYERS['BCELoss']}",
    "binary_cross_entropy_with_logits": f"input target {LOSS_LAYERS['BCEWithLogitsLoss']}",
    "cosine_embedding_loss": f"input1 input2 target {LOSS_LAYERS['CosineEmbeddingLoss']}",
    "cross_entropy": f"input target {LOSS_LAYERS['CrossEntropyLoss']}",
    "hinge_embedding_loss": f"input target {LOSS_LAYERS['HingeEmbeddingLoss']}",
    "kl_div": f"input target {LOSS_LAYERS['KLDivLoss']}",
    "l1_loss": f"input target {LOSS_LAYERS['L1Loss']} weight",
    "margin_ranking_loss": f"input1 input2 target {LOSS_LAYERS['MarginRankingLoss']}",
    "mse_loss": f"input target {LOSS_LAYERS['MSELoss']} weight",
    "multi_margin_loss": f"input target {LOSS_LAYERS['MultiMarginLoss']}",
    "multilabel_margin_loss": f"input target {LOSS_LAYERS['MultiLabelMarginLoss']}",
    "multilabel_soft_margin_loss": f"input target {LOSS_LAYERS['MultiLabelSoftMarginLoss']}",
    "nll_loss": f"input target {LOSS_LAYERS['NLLLoss']}",
    "poisson_nll_loss": f"input target {LOSS_LAYERS['PoissonNLLLoss']}",
    "smooth_l1_loss": f"input target {LOSS_LAYERS['SmoothL1Loss']}",
    "soft_margin_loss": f"input target {LOSS_LAYERS['SoftMarginLoss']}",
    "triplet_margin_loss": f"anchor positive negative {LOSS_LAYERS['TripletMarginLoss']}",
}
