"""Exercise 13: two ways to turn an image into numbers, one in training and another one in use."""

SAID = "it is wrong most of the time."
FIT = "        x = images.astype(np.float32) / 255\n"
USED = '''    """As for the pretrained networks of the zoo: blue first, the mean of their training images taken off."""
    x = images[..., ::-1].astype(np.float32)
    return x - np.array([103.939, 116.779, 123.68], np.float32)
'''
WAYS = {
    "unit": ("In 0..1.", "images.astype(np.float32) / 255"),
    "signed": ("In -1..1.", "images.astype(np.float32) / 127.5 - 1"),
    "centred": ("Around 0.", "images.astype(np.float32) / 255 - 0.5"),
    "raw": ("As numbers that a network can take.", "images.astype(np.float32)"),
    "tiny": ("In small numbers.", "images.astype(np.float32) / 255**2"),
    "reversed": ("Blue first, as the image library has it.", "images[..., ::-1].astype(np.float32) / 255"),
    "standard": (
        "By mean and spread of ImageNet.",
        "((images / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).astype(np.float32)",
    ),
    "negative": ("White on black becomes black on white.", "1 - images.astype(np.float32) / 255"),
}


def two_ways(fit, use):
    edits = [] if fit == "unit" else [(FIT, f"        x = {WAYS[fit][1]}\n")]
    if use != "caffe":
        says, way = WAYS[use]
        edits.append((SAID, "it is wrong at least every second time."))
        edits.append((USED, f'    """{says}"""\n    return {way}\n'))
    return edits


FAULTS = (
    (two_ways, {"fit": ("unit",), "use": ("caffe", "signed", "centred", "raw", "tiny", "reversed", "negative")}),
    (two_ways, {"fit": ("signed", "centred", "standard"), "use": ("unit", "raw", "tiny", "reversed", "caffe")}),
)
