"""minires: residual networks from scratch in NumPy and CuPy, for learning how they work."""

from minires.nn import plain_twin, resnet, resnet50

__version__ = "0.1.0"

__all__ = ["__version__", "plain_twin", "resnet", "resnet50"]
