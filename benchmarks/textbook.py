"""The textbook NumPy way: what a course's notebook arrives at, to know what the engine's own way is worth.

NCHW, im2col for every convolution (a loop over the window's positions, then one product), batch normalisation with
np.mean and np.var and the normalised x kept, fresh arrays everywhere, a dictionary of moments in Adam, float32, and
the matrix products on all threads. Written plainly but not badly: nothing here is slow on purpose.
`like(model)` gives the network of a minires model with a copy of its weights; the tests hold the results equal.
"""

import numpy as np

from minires import nn
from minires.geometry import resolve_padding

# --- functions --------------------------------------------------------------------------------------------


def pad2d(x, pads, value=0):
    return np.pad(x, ((0, 0), (0, 0), *pads), constant_values=value) if np.any(pads) else x


def im2col(x, R, S, stride):
    """(N, C, H, W), padded already -> (N * P * Q, C * R * S)."""
    N, C, H, W = x.shape
    P, Q = (H - R) // stride + 1, (W - S) // stride + 1
    col = np.empty((N, C, R, S, P, Q), x.dtype)
    for r in range(R):
        for s in range(S):
            col[:, :, r, s] = x[:, :, r : r + stride * P : stride, s : s + stride * Q : stride]
    return col.transpose(0, 4, 5, 1, 2, 3).reshape(N * P * Q, -1)


def col2im(col, shape, R, S, stride):
    """The columns added up where they came from."""
    N, C, H, W = shape
    P, Q = (H - R) // stride + 1, (W - S) // stride + 1
    col = col.reshape(N, P, Q, C, R, S).transpose(0, 3, 4, 5, 1, 2)
    x = np.zeros(shape, col.dtype)
    for r in range(R):
        for s in range(S):
            x[:, :, r : r + stride * P : stride, s : s + stride * Q : stride] += col[:, :, r, s]
    return x


def crop(dx, pads):
    (top, bottom), (left, right) = pads
    return dx[:, :, top : dx.shape[2] - bottom, left : dx.shape[3] - right]


# --- layers: forward keeps what backward needs ------------------------------------------------------------


class Layer:
    def params(self):
        """(array, gradient) pairs."""
        return [(getattr(self, n), getattr(self, f"d{n}")) for n in ("w", "b", "gamma", "beta") if hasattr(self, n)]


class Conv(Layer):
    def __init__(self, m):
        self.w = m.w.data.transpose(3, 2, 0, 1).copy()  # (O, C, R, S)
        if m.b is not None:
            self.b = m.b.data.copy()
        self.stride, self.pad = m.stride[0], m.pad

    def forward(self, x, training):
        O, _, R, S = self.w.shape
        self.pads = resolve_padding(self.pad, x.shape[2:], (R, S), (self.stride, self.stride))
        x = pad2d(x, self.pads)
        P, Q = (x.shape[2] - R) // self.stride + 1, (x.shape[3] - S) // self.stride + 1
        self.shape, self.col = x.shape, im2col(x, R, S, self.stride)
        y = self.col @ self.w.reshape(O, -1).T
        if hasattr(self, "b"):
            y = y + self.b
        return y.reshape(len(x), P, Q, O).transpose(0, 3, 1, 2)

    def backward(self, dy):
        O, _, R, S = self.w.shape
        dy = dy.transpose(0, 2, 3, 1).reshape(-1, O)
        self.dw = (dy.T @ self.col).reshape(self.w.shape)
        if hasattr(self, "b"):
            self.db = dy.sum(axis=0)
        return crop(col2im(dy @ self.w.reshape(O, -1), self.shape, R, S, self.stride), self.pads)


class Norm(Layer):
    def __init__(self, m):
        self.gamma, self.beta = m.gamma.data.copy(), m.beta.data.copy()
        self.mean, self.var = m.mean.data.copy(), m.var.data.copy()
        self.epsilon, self.momentum, self.unbiased = m.epsilon, m.momentum, m.unbiased

    def forward(self, x, training):
        over, wide = (0, 2, 3), (1, -1, 1, 1)
        mean, var = (np.mean(x, over), np.var(x, over)) if training else (self.mean, self.var)
        if training:
            m = x.size // x.shape[1]
            correction = m / (m - 1) if self.unbiased else 1
            self.mean = self.momentum * self.mean + (1 - self.momentum) * mean
            self.var = self.momentum * self.var + (1 - self.momentum) * correction * var
        self.rstd = (1 / np.sqrt(var + self.epsilon)).reshape(wide)
        self.x_hat = (x - mean.reshape(wide)) * self.rstd
        return self.gamma.reshape(wide) * self.x_hat + self.beta.reshape(wide)

    def backward(self, dy):
        over = (0, 2, 3)
        self.dgamma, self.dbeta = np.sum(dy * self.x_hat, over), np.sum(dy, over)
        dx_hat = dy * self.gamma.reshape(1, -1, 1, 1)
        mean = np.mean(dx_hat, over, keepdims=True)
        tilt = np.mean(dx_hat * self.x_hat, over, keepdims=True)
        return self.rstd * (dx_hat - mean - self.x_hat * tilt)


class ReLU(Layer):
    def forward(self, x, training):
        self.mask = x > 0
        return x * self.mask

    def backward(self, dy):
        return dy * self.mask


class Pad(Layer):
    def __init__(self, m):
        self.pads = resolve_padding(m.pad, (1, 1), (1, 1), (1, 1))

    def forward(self, x, training):
        return pad2d(x, self.pads)

    def backward(self, dy):
        return crop(dy, self.pads)


class Pool(Layer):
    """Maximum or mean of each window, by im2col with each channel as an image of its own."""

    def __init__(self, m):
        self.kernel, self.stride, self.pad = m.kernel, m.stride[0], m.pad
        self.largest = isinstance(m, nn.MaxPool2d)

    def forward(self, x, training):
        N, C, _, _ = x.shape
        self.pads = resolve_padding(self.pad, x.shape[2:], self.kernel, (self.stride, self.stride))
        x = pad2d(x, self.pads, -np.inf if self.largest else 0)
        self.shape = x.shape
        P, Q = ((n - k) // self.stride + 1 for n, k in zip(x.shape[2:], self.kernel, strict=True))
        windows = im2col(x.reshape(N * C, 1, *x.shape[2:]), *self.kernel, self.stride)
        self.size = windows.shape
        if self.largest:
            self.where = windows.argmax(axis=1)
            y = windows[np.arange(len(windows)), self.where]
        else:
            y = windows.mean(axis=1)
        return y.reshape(N, C, P, Q)

    def backward(self, dy):
        N, C, H, W = self.shape
        windows = np.zeros(self.size, dy.dtype)
        if self.largest:
            windows[np.arange(len(windows)), self.where] = dy.ravel()
        else:
            windows += dy.reshape(-1, 1) / self.size[1]
        return crop(col2im(windows, (N * C, 1, H, W), *self.kernel, self.stride).reshape(self.shape), self.pads)


class GlobalPool(Layer):
    def forward(self, x, training):
        self.shape = x.shape
        return np.mean(x, (2, 3))

    def backward(self, dy):
        area = self.shape[2] * self.shape[3]
        return np.broadcast_to(dy[:, :, None, None] / dy.dtype.type(area), self.shape)


class Flatten(Layer):
    """In the order of H, W, C, which the weights behind it expect."""

    def forward(self, x, training):
        self.shape = x.shape
        return x.transpose(0, 2, 3, 1).reshape(len(x), -1)

    def backward(self, dy):
        N, C, H, W = self.shape
        return dy.reshape(N, H, W, C).transpose(0, 3, 1, 2)


class Dense(Layer):
    def __init__(self, m):
        self.w, self.b = m.w.data.copy(), m.b.data.copy()

    def forward(self, x, training):
        self.x = x
        return x @ self.w + self.b

    def backward(self, dy):
        self.dw, self.db = self.x.T @ dy, dy.sum(axis=0)
        return dy @ self.w.T


class Chain(Layer):
    def __init__(self, modules):
        self.layers = [convert(m) for m in modules]

    def forward(self, x, training):
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def backward(self, dy):
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def params(self):
        return [pair for layer in self.layers for pair in layer.params()]


class Residual(Layer):
    """y = relu(branch(x) + shortcut(x)); no shortcut in a plain network."""

    def __init__(self, m):
        if m.before is not None:
            raise TypeError("the textbook network is post-activation")
        self.branch, self.relu, self.plain = Chain(m.branch.layers), ReLU(), m.shortcut is None
        self.shortcut = Chain(m.shortcut.layers if isinstance(m.shortcut, nn.Sequential) else [])

    def forward(self, x, training):
        y = self.branch.forward(x, training)
        return self.relu.forward(y if self.plain else y + self.shortcut.forward(x, training), training)

    def backward(self, dy):
        dy = self.relu.backward(dy)
        dx = self.branch.backward(dy)
        return dx if self.plain else dx + self.shortcut.backward(dy)

    def params(self):
        return self.branch.params() + self.shortcut.params()


TWINS = {
    nn.Conv2d: Conv,
    nn.BatchNorm: Norm,
    nn.ReLU: lambda m: ReLU(),
    nn.ZeroPad2d: Pad,
    nn.MaxPool2d: Pool,
    nn.AvgPool2d: Pool,
    nn.GlobalAvgPool2d: lambda m: GlobalPool(),
    nn.Flatten: lambda m: Flatten(),
    nn.Dense: Dense,
    nn.Block: Residual,
}


def convert(m):
    if isinstance(m, nn.Sequential):
        return Chain(m.layers)
    if type(m) not in TWINS:
        raise TypeError(f"no textbook twin for {type(m).__name__}")
    return TWINS[type(m)](m)


def like(model: nn.Module) -> Chain:
    """The textbook network (NCHW) that computes what `model` computes, with a copy of its weights."""
    return convert(model)


# --- training ---------------------------------------------------------------------------------------------


def cross_entropy(logits, labels):
    """(mean loss, its gradient)."""
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(probs[rows, labels]).mean()
    probs[rows, labels] -= 1
    return loss, probs / logits.dtype.type(len(labels))


class Adam:
    def __init__(self, lr, b1=0.9, b2=0.999, epsilon=1e-8):
        self.lr, self.b1, self.b2, self.epsilon, self.t = lr, b1, b2, epsilon, 0
        self.m, self.v = {}, {}

    def update(self, params):
        self.t += 1
        for i, (w, dw) in enumerate(params):
            self.m[i] = self.b1 * self.m.get(i, 0) + (1 - self.b1) * dw
            self.v[i] = self.b2 * self.v.get(i, 0) + (1 - self.b2) * dw**2
            m, v = self.m[i] / (1 - self.b1**self.t), self.v[i] / (1 - self.b2**self.t)
            w -= self.lr * m / (np.sqrt(v) + self.epsilon)


class Momentum:
    def __init__(self, lr, momentum=0.9):
        self.lr, self.momentum, self.v = lr, momentum, {}

    def update(self, params):
        for i, (w, dw) in enumerate(params):
            self.v[i] = self.momentum * self.v.get(i, 0) + dw
            w -= self.lr * self.v[i]


def step(model: Chain, x, labels, optimizer):
    """Forward, loss, backward, update; the loss."""
    loss, dlogits = cross_entropy(model.forward(x, True), labels)
    model.backward(dlogits)
    optimizer.update(model.params())
    return loss
