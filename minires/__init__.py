"""Residual networks from scratch in NumPy and CuPy, for learning how they work.

    train, test = minires.make_signs()
    model = minires.resnet50((64, 64, 3), classes=6)
    classifier = minires.Classifier.for_data(model, train)
    minires.fit(classifier, train, test, out="runs/signs")
    minires.evaluate(classifier, test)

Everything is loaded when it is first asked for. What a person uses stands in `minires` itself; all the maths is in
`minires.ops`, data sets are in `minires.data`, files of others in `minires.weights`.
"""

from minires.lazy import lazily

__version__ = "0.1.0"

_HOMES = {
    "minires.nn": (
        *("resnet", "resnet50", "plain_twin", "ResNet", "Config", "ARCHITECTURES", "VARIANTS"),
        *("Network", "build", "register", "as_network"),
        *("Module", "Composite", "Sequential", "Branches", "Block", "Add", "Concat", "Multiply", "Param", "Buffer"),
        *("Conv2d", "Dense", "BatchNorm", "GroupNorm", "LayerNorm", "MaxPool2d", "AvgPool2d", "GlobalAvgPool2d"),
        *("SqueezeExcite", "Subsample"),
        *("ReLU", "LeakyReLU", "GELU", "Sigmoid", "Flatten", "ZeroPad2d", "Dropout", "StochasticDepth", "Identity"),
        *("inference", "walk", "Maths"),
    ),
    "minires.ops": ("softmax_cross_entropy_forward", "softmax_cross_entropy_backward"),
    "minires.optim": ("SGD", "Adam", "AdamW"),
    "minires.backend": ("to_device", "to_numpy"),
    "minires.data": ("make_signs", "Augment"),
    "minires.train": (
        *(
            "Classifier",
            "Preprocess",
            "Recipe",
            "Schedule",
            "fit",
            "resume",
            "evaluate",
            "Evaluation",
            "predict_logits",
        ),
        *("load_classifier", "save_checkpoint", "with_classes", "Progress", "Reporter"),
    ),
    "minires.api": ("load", "save", "predict", "Prediction"),
    "minires.weights": ("import_weights", "import_classifier", "export_weights"),
    "minires.fast.step": ("make_step",),
    "minires.fast.inference": ("Predictor",),
    "minires.instruments.gradflow": ("gradflow", "compare_skip"),
    "minires.instruments.gradcheck": ("gradcheck",),
    "minires.instruments.cost.summary": ("summarize",),
    "minires.instruments.cost.predict": ("predict_cost",),
    "minires.instruments.audit": ("audit",),
    "minires.instruments.bn_doctor": ("bn_doctor",),
    "minires.instruments.diagnose": ("diagnose",),
    "minires.instruments.maps": ("feature_maps", "gradcam", "occlusion"),
    "minires.instruments.overfit": ("overfit",),
    "minires.instruments.rate_test": ("rate_test",),
    "minires.instruments.diagram": ("diagram",),
    "minires.instruments.landscape": ("landscape",),
    "minires.instruments.step.tape": ("record",),
    "minires.errors": ("MiniresError",),
}
__all__ = ["__version__", *(name for names in _HOMES.values() for name in names)]
__getattr__, __dir__ = lazily(__name__, _HOMES)
