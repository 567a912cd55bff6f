"""minires: residual networks from scratch in NumPy and CuPy, for learning how they work.

Everything is loaded when it is first asked for:

    train, test = minires.make_signs()
    model = minires.resnet50((64, 64, 3), classes=6)
    minires.fit(minires.Classifier.for_data(model, train), train, test)
"""

from minires.lazy import lazily

__version__ = "0.1.0"

_HOMES = {
    "minires.ops": (),
    "minires.nn": (
        *("ARCHITECTURES", "VARIANTS", "Config", "ResNet", "plain_twin", "resnet", "resnet50"),
        *(
            "Buffer",
            "Composite",
            "Maths",
            "Module",
            "Network",
            "Param",
            "Sequential",
            "build",
            "inference",
            "register",
            "walk",
        ),
        *("Add", "Block", "Branches", "Concat", "Multiply"),
        *("AvgPool2d", "BatchNorm", "Conv2d", "Dense", "Dropout", "Flatten", "GlobalAvgPool2d", "GroupNorm"),
        *("GELU", "Identity", "LayerNorm", "LeakyReLU", "MaxPool2d", "ReLU", "Sigmoid", "StochasticDepth", "ZeroPad2d"),
    ),
    "minires.backend": ("to_device", "to_numpy"),
    "minires.optim": ("SGD", "Adam", "AdamW"),
    "minires.fast.step": ("make_step",),
    "minires.fast.inference": ("Predictor",),
    "minires.data": ("make_signs",),
    "minires.train": (
        *("Classifier", "Recipe", "evaluate", "fit", "load_classifier"),
        *("predict_logits", "resume", "save_checkpoint"),
    ),
}
__all__ = ["__version__", *(name for names in _HOMES.values() for name in names)]
__getattr__, __dir__ = lazily(__name__, _HOMES)
