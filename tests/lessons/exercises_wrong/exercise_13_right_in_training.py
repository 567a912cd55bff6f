"""Wrong answers to exercise 13: the reference solution with lines exchanged. name: (the check that fails, edits)."""

PREDICT = "        x = network_input(images)\n        with"
WRONG = {
    "blue first": ("prediction", [(PREDICT, "        x = network_input(images[..., ::-1])\n        with")]),
    "raw pixels": ("prediction", [(PREDICT, "        x = images.astype(np.float32)\n        with")]),
    "divided twice": ("prediction", [(PREDICT, "        x = network_input(images) / 255\n        with")]),
    "another zero": ("prediction", [(PREDICT, "        x = network_input(images) - 0.5\n        with")]),
    "scaled by the batch": ("each image alone", [("astype(np.float32) / 255", "astype(np.float32) / images.max()")]),
    "left in training mode": ("each image alone", [("with nn.inference(self.model):", "if len(x):")]),
}
