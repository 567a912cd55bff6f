// The CUDA kernels of fast/gpu/kernels.py, which says what each computes; reading this file is optional.
//
// Compiled for each REAL (float, double) and WIDTH, the channels that a thread takes together: one access of 16
// bytes where the channels allow it, else one number. NHWC: the rows of a matrix (rows, C) are pixels, C / V packs long.
// No sum depends on timing: threads add in a fixed order and blocks leave partial sums for a second kernel.

typedef REAL T;
constexpr int V = WIDTH;

struct alignas(sizeof(T) * V) Pack {
    T v[V];
};

#define THREADS 256
#define EACH for (int k = 0; k < V; k++)
#define LOAD(array, i) reinterpret_cast<const Pack*>(array)[i]
#define STORE(array, i) reinterpret_cast<Pack*>(array)[i]

// --- training images ------------------------------------------------------------------------------------------

// first + (second - first) * weight, each operation rounded, as NumPy rounds them
__device__ float between(float first, float second, float weight) {
    return __fadd_rn(first, __fmul_rn(second - first, weight));
}

__device__ float affine(const float* row, int h, int w, int size) {
    const float at = __fadd_rn(__fadd_rn(__fmul_rn(row[0], h), row[2]), __fmul_rn(row[1], w));
    return fminf(fmaxf(at, 0), size - 1);
}

// out[n, h, w] = images[n] read, bilinear, where changes[n] (2, 3) sends (h, w, 1), times the gain that follows there
extern "C" __global__ void warp(const unsigned char* images, const float* changes, unsigned char* out, unsigned total,
                                int H, int W, int C) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        unsigned rest = i;
        const int c = rest % C, w = (rest /= C) % W, h = (rest /= W) % H, n = rest / H;
        const float* change = changes + n * 7;
        const float y = affine(change, h, w, H), x = affine(change + 3, h, w, W);
        const int top = y, left = x, bottom = top + (top < H - 1), right = left + (left < W - 1);
        const unsigned char* image = images + (size_t)n * H * W * C + c;
#define AT(row, column) image[((row) * W + (column)) * C]
        const float upper = between(AT(top, left), AT(top, right), x - left);
        const float lower = between(AT(bottom, left), AT(bottom, right), x - left);
        out[i] = fminf(fmaxf(rintf(__fmul_rn(between(upper, lower, y - top), change[6])), 0), 255);
    }
}

// --- convolution: columns and back -----------------------------------------------------------------------------

#define WINDOW int H, int W, int packs, int P, int Q, int R, int S, int sv, int sh, int top, int left, int dv, int dh

// columns[n, p, q, r, s, c] = x[n, p * sv + r * dv - top, q * sh + s * dh - left, c], 0 outside
extern "C" __global__ void im2col(const T* x, T* columns, unsigned total, WINDOW) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        unsigned rest = i;
        const int c = rest % packs, s = (rest /= packs) % S, r = (rest /= S) % R;
        const int q = (rest /= R) % Q, p = (rest /= Q) % P, n = rest / P;
        const int h = p * sv + r * dv - top, w = q * sh + s * dh - left;
        Pack value = {};
        if (h >= 0 && h < H && w >= 0 && w < W) value = LOAD(x, ((size_t)(n * H + h) * W + w) * packs + c);
        STORE(columns, i) = value;
    }
}

// the output whose cell number `cell` lies on pixel `at`, counted from the padding on; -1 where there is none
__device__ int window_over(int at, int cell, int stride, int apart, int outputs) {
    const int start = at - cell * apart, output = start / stride;
    return start >= 0 && output * stride == start && output < outputs ? output : -1;
}

// every window that reads pixel (h, w), as cell (r, s) of output (p, q)
#define WINDOWS_OVER(h, w)                                                                        \
    for (int r = 0; r < R; r++)                                                                   \
        if (const int p = window_over(h + top, r, sv, dv, P); p >= 0)                             \
            for (int s = 0; s < S; s++)                                                           \
                if (const int q = window_over(w + left, s, sh, dh, Q); q >= 0)

// x[n, h, w, c] = the sum of the columns' entries that were read from it
extern "C" __global__ void col2im(const T* columns, T* x, unsigned total, WINDOW) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        unsigned rest = i;
        const int c = rest % packs, w = (rest /= packs) % W, h = (rest /= W) % H, n = rest / H;
        Pack sum = {};
        WINDOWS_OVER(h, w) {
            const size_t field = (((size_t)(n * P + p) * Q + q) * R + r) * S + s;
            const Pack part = LOAD(columns, field * packs + c);
            EACH sum.v[k] += part.v[k];
        }
        STORE(x, i) = sum;
    }
}

// --- batch normalisation ---------------------------------------------------------------------------------------
// A block is (lanes, THREADS / lanes): a lane holds one pack of channels, the rows are dealt out to the second index.

#define LANE const int pack = blockIdx.x * blockDim.x + threadIdx.x, packs = C / V, c = pack * V
#define FIRST_ROW (blockIdx.y * blockDim.y + threadIdx.y)
#define ROW_STEP (gridDim.y * blockDim.y)

// The sum of the block's values in each lane, for two packs at once; whole in the threads of row 0.
template <class Number>
__device__ void fold(Number (&a)[V], Number (&b)[V], Number* shared) {
    const int me = threadIdx.y * blockDim.x + threadIdx.x;
    EACH {
        shared[k * THREADS + me] = a[k];
        shared[(V + k) * THREADS + me] = b[k];
    }
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half)
            for (int k = 0; k < 2 * V; k++) shared[k * THREADS + me] += shared[k * THREADS + me + half * blockDim.x];
    }
    EACH {
        a[k] = shared[k * THREADS + me];
        b[k] = shared[(V + k) * THREADS + me];
    }
}

// The sums over blocks of partials (2, blocks, C), in double precision; whole in the threads of row 0.
__device__ void fold_partials(const T* partials, int blocks, int C, int pack, double (&a)[V], double (&b)[V]) {
    __shared__ double shared[2 * V * THREADS];
    EACH a[k] = b[k] = 0;
    if (pack < C / V)
        for (int i = threadIdx.y; i < blocks; i += blockDim.y) EACH {
                a[k] += partials[(size_t)i * C + pack * V + k];
                b[k] += partials[(size_t)(blocks + i) * C + pack * V + k];
            }
    fold(a, b, shared);
}

__device__ void leave(const T (&a)[V], const T (&b)[V], T* partials, int C, int c) {
    EACH {
        partials[(size_t)blockIdx.y * C + c + k] = a[k];
        partials[(size_t)(gridDim.y + blockIdx.y) * C + c + k] = b[k];
    }
}

// The mean of a few of a channel's values, from all over the batch and, by the golden ratio, over the maps.
__device__ void sample(const T* x, int rows, int pack, int packs, T (&centre)[V]) {
    constexpr int COUNT = 8;
    EACH centre[k] = 0;
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        const size_t row = (j + (unsigned)((j + 1) * 2654435769u) * 0x1p-32f) / COUNT * rows;
        const Pack value = LOAD(x, row * packs + pack);
        EACH centre[k] += value.v[k] / COUNT;
    }
}

// partials of sum d and sum d^2, d = x - the sample's mean
extern "C" __global__ void norm_statistics(const T* x, T* partials, int rows, int C) {
    LANE;
    __shared__ T shared[2 * V * THREADS];
    T sums[V] = {}, squares[V] = {}, centre[V];
    if (pack < packs) {
        sample(x, rows, pack, packs, centre);
#pragma unroll 4
        for (int i = FIRST_ROW; i < rows; i += ROW_STEP) {
            const Pack value = LOAD(x, (size_t)i * packs + pack);
            EACH {
                const T d = value.v[k] - centre[k];
                sums[k] += d;
                squares[k] += d * d;
            }
        }
    }
    fold(sums, squares, shared);
    if (threadIdx.y == 0 && pack < packs) leave(sums, squares, partials, C, c);
}

// mean and 1 / sqrt(var + epsilon) from the partials; the running statistics move on
extern "C" __global__ void norm_statistics_end(const T* partials, int blocks, const T* x, const T* bias, T* mean,
                                               T* rstd, T* running_mean, T* running_var, int C, double m,
                                               double epsilon, double momentum, double correction) {
    LANE;
    double sums[V], squares[V];
    fold_partials(partials, blocks, C, pack, sums, squares);
    if (threadIdx.y != 0 || pack >= packs) return;
    T shift[V];
    sample(x, m, pack, packs, shift);
    EACH {
        const double offset = sums[k] / m, centre = shift[k] + offset;
        double var = squares[k] / m - offset * offset;
        if (var < 0) var = 0;  // a NaN stays
        mean[c + k] = centre;
        rstd[c + k] = 1 / sqrt(var + epsilon);
        const double seen = centre + (bias ? bias[c + k] : 0);
        running_mean[c + k] = momentum * running_mean[c + k] + (1 - momentum) * seen;
        running_var[c + k] = momentum * running_var[c + k] + (1 - momentum) * correction * var;
    }
}

// relu(value + shortcut), the two if asked for
__device__ Pack add_relu(Pack value, const T* shortcut, size_t at, int relu) {
    if (shortcut) {
        const Pack other = LOAD(shortcut, at);
        EACH value.v[k] += other.v[k];
    }
    if (relu) EACH value.v[k] = value.v[k] < 0 ? 0 : value.v[k];  // a NaN stays
    return value;
}

// dy where y > 0, else 0; y null: everywhere
__device__ Pack masked(const T* dy, const T* y, size_t at) {
    Pack g = LOAD(dy, at);
    if (y) {
        const Pack out = LOAD(y, at);
        EACH g.v[k] = out.v[k] > 0 ? g.v[k] : 0;
    }
    return g;
}

// y = relu(gamma * (x - mean) * rstd + beta + shortcut), the last two if asked for
extern "C" __global__ void norm_forward(const T* x, const T* shortcut, const T* gamma, const T* beta, const T* mean,
                                        const T* rstd, T* y, int rows, int C, int relu) {
    LANE;
    if (pack >= packs) return;
    T slope[V], centre[V], shift[V];
    EACH {
        slope[k] = gamma[c + k] * rstd[c + k];
        centre[k] = mean[c + k];
        shift[k] = beta[c + k];
    }
#pragma unroll 4
    for (int i = FIRST_ROW; i < rows; i += ROW_STEP) {
        const size_t at = (size_t)i * packs + pack;
        Pack value = LOAD(x, at);
        EACH value.v[k] = (value.v[k] - centre[k]) * slope[k] + shift[k];
        STORE(y, at) = add_relu(value, shortcut, at, relu);
    }
}

// x = relu(x + shift + shortcut), the last two if asked for
extern "C" __global__ void shift_add_relu(T* x, const T* shortcut, const T* shift, int rows, int C, int relu) {
    LANE;
    if (pack >= packs) return;
    T bias[V];
    EACH bias[k] = shift[c + k];
#pragma unroll 4
    for (int i = FIRST_ROW; i < rows; i += ROW_STEP) {
        const size_t at = (size_t)i * packs + pack;
        Pack value = LOAD(x, at);
        EACH value.v[k] += bias[k];
        STORE(x, at) = add_relu(value, shortcut, at, relu);
    }
}

// partials of sum g and sum g * (x - mean), g = masked(dy)
extern "C" __global__ void norm_sums(const T* dy, const T* x, const T* y, const T* mean, T* partials, int rows,
                                     int C) {
    LANE;
    __shared__ T shared[2 * V * THREADS];
    T sums[V] = {}, products[V] = {};
    if (pack < packs) {
        T centre[V];
        EACH centre[k] = mean[c + k];
#pragma unroll 4
        for (int i = FIRST_ROW; i < rows; i += ROW_STEP) {
            const size_t at = (size_t)i * packs + pack;
            const Pack g = masked(dy, y, at), value = LOAD(x, at);
            EACH {
                sums[k] += g.v[k];
                products[k] += g.v[k] * (value.v[k] - centre[k]);
            }
        }
    }
    fold(sums, products, shared);
    if (threadIdx.y == 0 && pack < packs) leave(sums, products, partials, C, c);
}

// dgamma and dbeta from the partials
extern "C" __global__ void norm_sums_end(const T* partials, int blocks, const T* rstd, T* dgamma, T* dbeta, int C) {
    LANE;
    double sums[V], products[V];
    fold_partials(partials, blocks, C, pack, sums, products);
    if (threadIdx.y != 0 || pack >= packs) return;
    EACH {
        dgamma[c + k] = products[k] * rstd[c + k];
        dbeta[c + k] = sums[k];
    }
}

// dx = gamma * rstd * (g - dbeta / m - x_hat * dgamma / m); g too, where it is asked for
extern "C" __global__ void norm_backward(const T* dy, const T* x, const T* y, const T* gamma, const T* mean,
                                         const T* rstd, const T* dgamma, const T* dbeta, T* dx, T* gradient, int rows,
                                         int C, T m) {
    LANE;
    if (pack >= packs) return;
    T scale[V], centre[V], slope[V], shift[V];
    EACH {
        scale[k] = gamma[c + k] * rstd[c + k];
        centre[k] = mean[c + k];
        slope[k] = rstd[c + k] * dgamma[c + k] / m;
        shift[k] = dbeta[c + k] / m;
    }
#pragma unroll 4
    for (int i = FIRST_ROW; i < rows; i += ROW_STEP) {
        const size_t at = (size_t)i * packs + pack;
        const Pack g = masked(dy, y, at);
        Pack value = LOAD(x, at);
        if (gradient) STORE(gradient, at) = g;
        EACH value.v[k] = scale[k] * (g.v[k] - shift[k] - (value.v[k] - centre[k]) * slope[k]);
        STORE(dx, at) = value;
    }
}

// --- max pooling -----------------------------------------------------------------------------------------------

extern "C" __global__ void maxpool_forward(const T* x, T* y, unsigned total, WINDOW) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        unsigned rest = i;
        const int c = rest % packs, q = (rest /= packs) % Q, p = (rest /= Q) % P, n = rest / P;
        Pack best;
        bool some = false;
        for (int r = 0; r < R; r++)
            for (int s = 0; s < S; s++) {
                const int h = p * sv + r * dv - top, w = q * sh + s * dh - left;
                if (h < 0 || h >= H || w < 0 || w >= W) continue;
                const Pack value = LOAD(x, ((size_t)(n * H + h) * W + w) * packs + c);
                EACH if (!some || value.v[k] > best.v[k] || value.v[k] != value.v[k]) best.v[k] = value.v[k];
                some = true;
            }
        STORE(y, i) = best;
    }
}

// In `winner` which cell of its window y came from: of equal ones, or several NaN, the first in row-major order
extern "C" __global__ void maxpool_winner(const T* x, const T* y, int* winner, unsigned total, WINDOW) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        unsigned rest = i;
        const int c = rest % packs, q = (rest /= packs) % Q, p = (rest /= Q) % P, n = rest / P;
        const Pack most = LOAD(y, i);
        int cell[V];
        EACH cell[k] = -1;
        for (int r = R - 1; r >= 0; r--)
            for (int s = S - 1; s >= 0; s--) {
                const int h = p * sv + r * dv - top, w = q * sh + s * dh - left;
                if (h < 0 || h >= H || w < 0 || w >= W) continue;
                const Pack value = LOAD(x, ((size_t)(n * H + h) * W + w) * packs + c);
                EACH if (value.v[k] == most.v[k] || value.v[k] != value.v[k]) cell[k] = r * S + s;
            }
        EACH winner[(size_t)i * V + k] = cell[k];
    }
}

extern "C" __global__ void maxpool_backward(const T* dy, const int* winner, T* dx, unsigned total, WINDOW) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        unsigned rest = i;
        const int c = rest % packs, w = (rest /= packs) % W, h = (rest /= W) % H, n = rest / H;
        Pack sum = {};
        WINDOWS_OVER(h, w) {
            const size_t from = ((size_t)(n * P + p) * Q + q) * packs + c;
            const Pack part = LOAD(dy, from);
            EACH sum.v[k] += winner[from * V + k] == r * S + s ? part.v[k] : 0;
        }
        STORE(dx, i) = sum;
    }
}

// --- softmax cross-entropy: a block for each image -------------------------------------------------------------

// The sum (or the largest) of a block's values, for all its threads.
template <bool largest, class Number>
__device__ Number together(Number mine, Number* shared) {
    __syncthreads();
    shared[threadIdx.x] = mine;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            const Number other = shared[threadIdx.x + half];
            Number& kept = shared[threadIdx.x];
            if (largest) {
                if (other > kept || other != other) kept = other;
            } else {
                kept += other;
            }
        }
    }
    __syncthreads();
    return shared[0];
}

// dlogits = (softmax - t) / N; loss and right answer of each image: losses (2, N)
extern "C" __global__ void cross_entropy(const T* logits, const long long* labels, T* dlogits, T* losses, int N, int K,
                                         T smoothing) {
    __shared__ T shared[THREADS];
    const int n = blockIdx.x;
    const long long label = labels[n];
    logits += (size_t)n * K;
    T top = logits[0], sum = 0, loss = 0;
    for (int k = threadIdx.x; k < K; k += blockDim.x)
        if (logits[k] > top || logits[k] != logits[k]) top = logits[k];
    top = together<true>(top, shared);
    int first = K;  // the first of the largest
    for (int k = threadIdx.x; k < K; k += blockDim.x) {
        sum += exp(logits[k] - top);
        if (logits[k] == top && k < first) first = k;
    }
    sum = together<false>(sum, shared);
    first = -(int)together<true>((T)-first, shared);
    const bool known = label >= 0 && label < K;
    const T log_sum = log(sum);
    for (int k = threadIdx.x; k < K; k += blockDim.x) {
        const T log_prob = logits[k] - top - log_sum, target = (k == label) * (1 - smoothing) + smoothing / K;
        if (target != 0) loss -= target * log_prob;  // of minus infinity too
        dlogits[(size_t)n * K + k] = known ? (exp(log_prob) - target) / N : (T)nan("");
    }
    loss = together<false>(loss, shared);
    if (threadIdx.x == 0) {
        losses[n] = known ? loss : (T)nan("");
        losses[N + n] = first == label;
    }
}

// metrics[0] = the mean loss, metrics[1] = the right answers
extern "C" __global__ void cross_entropy_end(const T* losses, double* metrics, int N) {
    __shared__ double shared[THREADS];
    double loss = 0, right = 0;
    for (int n = threadIdx.x; n < N; n += blockDim.x) {
        loss += losses[n];
        right += losses[N + n];
    }
    loss = together<false>(loss, shared);
    right = together<false>(right, shared);
    if (threadIdx.x == 0) {
        metrics[0] = loss / N;
        metrics[1] = right;
    }
}

// --- optimisers over the flat buffers --------------------------------------------------------------------------
// rates, on the device, so that a captured step can be replayed at another rate:
// {lr, lr / (1 - b1^t), 1 / sqrt(1 - b2^t), the scale that clips the gradient}

extern "C" __global__ void set_rates(double* rates, double lr, double first, double second) {
    rates[0] = lr;
    rates[1] = first;
    rates[2] = second;
    rates[3] = 1;
}

extern "C" __global__ void square_sums(const T* grads, double* partials, size_t total) {
    __shared__ double shared[THREADS];
    T sum = 0;
#pragma unroll 4
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += (size_t)gridDim.x * blockDim.x)
        sum += grads[i] * grads[i];
    const double all = together<false>((double)sum, shared);
    if (threadIdx.x == 0) partials[blockIdx.x] = all;
}

// metrics[2] = the gradient's norm; rates[3] = min(1, clip / norm), 1 where clip is 0
extern "C" __global__ void square_sums_end(const double* partials, int blocks, double* metrics, double* rates,
                                           double clip) {
    __shared__ double shared[THREADS];
    double sum = 0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += partials[i];
    const double length = sqrt(together<false>(sum, shared));
    if (threadIdx.x != 0) return;
    metrics[2] = length;
    if (clip > 0 && !(length <= clip)) rates[3] = clip / (length + 1e-12);
}

extern "C" __global__ void update_sgd(T* weights, const T* grads, T* velocity, const double* rates, size_t total,
                                      size_t decayed, T decay, T momentum, int nesterov) {
    const T lr = rates[0], scale = rates[3];
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += (size_t)gridDim.x * blockDim.x) {
        const T w = weights[i], grad = grads[i] * scale + (i < decayed ? decay * w : 0);
        const T v = velocity[i] = momentum * velocity[i] + grad;
        weights[i] = w - lr * (nesterov ? grad + momentum * v : v);
    }
}

extern "C" __global__ void update_adam(T* weights, const T* grads, T* first, T* second, const double* rates,
                                       size_t total, size_t decayed, double decay, int decoupled, T b1, T b2, T rest1,
                                       T rest2, T epsilon) {
    const T rate = rates[1], root_scale = rates[2], scale = rates[3];
    const T shrink = decoupled ? 1 - rates[0] * decay : 1, pull = decoupled ? 0 : decay;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += (size_t)gridDim.x * blockDim.x) {
        const bool decays = i < decayed;
        const T w = decays ? weights[i] * shrink : weights[i], grad = grads[i] * scale + (decays ? pull * w : 0);
        const T m = first[i] = b1 * first[i] + rest1 * grad;
        const T v = second[i] = b2 * second[i] + rest2 * grad * grad;
        weights[i] = w - rate * m / (sqrt(v) * root_scale + epsilon);
    }
}
