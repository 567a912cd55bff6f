"""All the maths: pure functions on arrays, each forward directly above its backward.

Conventions: NHWC; the gradient of `foo` is `dfoo`, with foo's shape and dtype; forward never writes x,
backward never writes dy. One letter, one meaning: x (N, H, W, C), w (R, S, C, O), y (N, P, Q, O).
`naive.py` states the same functions as loops: the specification that these are tested against.
"""

from minires.ops.activation import (
    dropout_backward,
    dropout_forward,
    flatten_backward,
    flatten_forward,
    gelu_backward,
    gelu_forward,
    leaky_relu_backward,
    leaky_relu_forward,
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
)
from minires.ops.conv import conv2d_backward, conv2d_forward, zero_pad2d_backward, zero_pad2d_forward
from minires.ops.dense import dense_backward, dense_forward
from minires.ops.groupnorm import (
    groupnorm_backward,
    groupnorm_forward,
    groupnorm_statistics,
    layernorm_backward,
    layernorm_forward,
    layernorm_statistics,
)
from minires.ops.join import (
    add_backward,
    add_forward,
    concat_backward,
    concat_forward,
    multiply_backward,
    multiply_forward,
)
from minires.ops.loss import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from minires.ops.norm import (
    batchnorm_backward,
    batchnorm_dx,
    batchnorm_eval_backward,
    batchnorm_forward,
    batchnorm_running,
    batchnorm_statistics,
    batchnorm_sums,
)
from minires.ops.pool import (
    avgpool_backward,
    avgpool_forward,
    global_avgpool_backward,
    global_avgpool_forward,
    maxpool_backward,
    maxpool_forward,
    subsample_backward,
    subsample_forward,
)

__all__ = [
    "add_backward",
    "add_forward",
    "avgpool_backward",
    "avgpool_forward",
    "batchnorm_backward",
    "batchnorm_dx",
    "batchnorm_eval_backward",
    "batchnorm_forward",
    "batchnorm_running",
    "batchnorm_statistics",
    "batchnorm_sums",
    "concat_backward",
    "concat_forward",
    "conv2d_backward",
    "conv2d_forward",
    "dense_backward",
    "dense_forward",
    "dropout_backward",
    "dropout_forward",
    "flatten_backward",
    "flatten_forward",
    "gelu_backward",
    "gelu_forward",
    "global_avgpool_backward",
    "global_avgpool_forward",
    "groupnorm_backward",
    "groupnorm_forward",
    "groupnorm_statistics",
    "layernorm_backward",
    "layernorm_forward",
    "layernorm_statistics",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "maxpool_backward",
    "maxpool_forward",
    "multiply_backward",
    "multiply_forward",
    "relu_backward",
    "relu_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "subsample_backward",
    "subsample_forward",
    "zero_pad2d_backward",
    "zero_pad2d_forward",
]
