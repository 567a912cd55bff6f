"""All the maths: pure functions on arrays, each forward directly above its backward.

Conventions: NHWC; the gradient of `foo` is `dfoo`, with foo's shape and dtype; forward never writes x,
backward never writes dy. One letter, one meaning: x (N, H, W, C), w (R, S, C, O), y (N, P, Q, O).
`naive.py` states the same functions as loops: the specification that these are tested against.
"""

from minires.ops import activation, conv, dense, groupnorm, join, loss, norm, pool
from minires.ops.activation import *
from minires.ops.conv import *
from minires.ops.dense import *
from minires.ops.groupnorm import *
from minires.ops.join import *
from minires.ops.loss import *
from minires.ops.norm import *
from minires.ops.pool import *

__all__ = [
    *activation.__all__,
    *conv.__all__,
    *dense.__all__,
    *groupnorm.__all__,
    *join.__all__,
    *loss.__all__,
    *norm.__all__,
    *pool.__all__,
]
