"""Functions of torch's by what they do to a signal."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["LOSSES", "MEASURED", "Kind", "kind_of"]

# fmt: off
Kind: TypeAlias = Literal[
    "weights", "recurrent", "attention", "activation", "softmax", "log-softmax", "norm", "dropout",
    "embedding", "pooling", "loss", "nonlinear", "linear", "passing", "other",
]
"""What sort a function is."""

MEASURED: tuple[Kind, ...] = (
    "weights", "recurrent", "attention", "activation", "softmax", "log-softmax", "norm",
)
"""Sorts whose outputs are looked at in numbers."""

_ACTIVATIONS = frozenset((
    "celu", "elu", "gelu", "glu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu",
    "logsigmoid", "mish", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus",
    "softshrink", "softsign", "tanh", "tanhshrink", "threshold",
))
_WEIGHTS = frozenset((
    "_convolution", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "linear",
))
_PRODUCTS = frozenset((
    "__matmul__", "__rmatmul__", "addmm", "baddbmm", "bmm", "einsum", "matmul", "mm",
))
_RECURRENT = frozenset((
    "gru", "gru_cell", "lstm", "lstm_cell", "rnn_relu", "rnn_relu_cell", "rnn_tanh", "rnn_tanh_cell",
))
_NORMS = frozenset((
    "batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm",
))
_DROPOUTS = frozenset((
    "alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout",
    "feature_dropout",
))
_POOLING = frozenset((
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "amax", "boolean_dispatch",
    "fractional_max_pool2d", "max_pool1d", "max_pool2d", "max_pool3d",
))
LOSSES = frozenset((
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "cross_entropy",
    "ctc_loss", "gaussian_nll_loss", "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss",
    "margin_ranking_loss", "mse_loss", "multi_margin_loss", "multilabel_margin_loss",
    "multilabel_soft_margin_loss", "nll_loss", "poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss",
    "triplet_margin_loss",
))
_PASSING = frozenset((
    "T", "__get__", "__getitem__", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "bfloat16", "cat", "chunk", "clone", "contiguous",
    "detach", "double", "expand", "flatten", "flip", "float", "gather", "half", "identity",
    "index_select", "interpolate", "mT", "mean", "movedim", "narrow", "pad", "permute", "pixel_shuffle",
    "ravel", "reshape", "roll", "select", "split", "squeeze", "stack", "sum", "swapaxes", "t", "to",
    "transpose", "type", "type_as", "unbind", "unflatten", "unsqueeze", "upsample", "view", "view_as",
))
_LINEAR = frozenset((
    "__add__", "__iadd__", "__isub__", "__neg__", "__radd__", "__rsub__", "__sub__", "add", "neg", "sub",
))
_NONLINEAR = frozenset((
    "__abs__", "__pow__", "abs", "arctan", "atan", "clamp", "clamp_max", "clamp_min", "clip", "cos",
    "cosh", "erf", "exp", "log", "log1p", "logsumexp", "max", "maximum", "min", "minimum", "norm", "pow",
    "reciprocal", "round", "sign", "sin", "sinh", "sqrt", "square", "where",
))
_GATES = frozenset((
    "__imul__", "__mul__", "__rmul__", "__rtruediv__", "__truediv__", "div", "divide", "mul", "multiply",
))
# fmt: on


def kind_of(name: str, *, sources: int, weights: bool) -> Kind:
    """Return what sort a function is.

    Args:
        name: of the function.
        sources: how many of its tensors the model has computed.
        weights: whether it is given parameters.
    """
    if name in LOSSES:
        return "loss"
    if name in _WEIGHTS or (name in _PRODUCTS and weights):
        return "weights"
    if name in _RECURRENT:
        return "recurrent"
    if name in (
        "scaled_dot_product_attention",
        "multi_head_attention_forward",
        "_native_multi_head_attention",
    ):
        return "attention"
    if name in _ACTIVATIONS:
        return "activation"
    if name in ("softmax", "log_softmax"):
        return "softmax" if name == "softmax" else "log-softmax"
    if name in _NORMS:
        return "norm"
    if name in _DROPOUTS:
        return "dropout"
    if name in ("embedding", "embedding_bag"):
        return "embedding"
    if name in _POOLING:
        return "pooling"
    if name in _PASSING:
        return "passing"
    if name in _LINEAR:
        return "linear"
    if name in _NONLINEAR or (name in _GATES and sources > 1) or name in _PRODUCTS:
        return "nonlinear"
    return "linear" if name in _GATES else "other"
