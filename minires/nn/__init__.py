"""State over the ops: modules, thin layers, joins, the residual block, any network, the family of ResNets."""

from minires.nn import activation, blocks, conv, dense, join, module, network, norm, pool
from minires.nn import resnet as family
from minires.nn.activation import *
from minires.nn.blocks import *
from minires.nn.conv import *
from minires.nn.dense import *
from minires.nn.join import *
from minires.nn.module import *
from minires.nn.network import *
from minires.nn.norm import *
from minires.nn.pool import *
from minires.nn.resnet import *

__all__ = [
    *activation.__all__,
    *blocks.__all__,
    *conv.__all__,
    *dense.__all__,
    *join.__all__,
    *module.__all__,
    *network.__all__,
    *norm.__all__,
    *pool.__all__,
    *family.__all__,
]
