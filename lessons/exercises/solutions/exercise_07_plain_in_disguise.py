"""Exercise 7: one name stood for two arrays. The shortcut starts at the block's input; its gradient ends there."""

from minires.lessons.exercises import exercise_07_plain_in_disguise as given


class ConvolutionalBlock(given.ConvolutionalBlock):
    """Two 3x3 convolutions beside a projection."""

    def forward(self, x):
        y = x
        for layer in self.branch.layers:
            y = layer.forward(y)
        y = self.add.forward(y, self.shortcut.forward(x))
        return self.after.forward(y)

    def backward(self, dy, need_dx=True):
        dx, dshortcut = self.add.backward(self.after.backward(dy))
        for layer in reversed(self.branch.layers):
            dx = layer.backward(dx)
        return dx + self.shortcut.backward(dshortcut)
