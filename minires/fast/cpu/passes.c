/* One pass over memory each: normalisation with the add and ReLU, pooling, the optimiser's update. Part of kernels.c. */

/* --- passes over memory: x and its like are rows of C channels -------------------------------------------------------- */

/* What is walked over is asked for a page ahead, since a processor that fetches ahead by itself stops at the end of one. */
enum { NAME(MOST) = 32, NAME(PAGE) = 4096 / sizeof(T) };

/* Sums over the rows, channel by channel. What is summed:
     without g:   sum of d and of d^2,     d = x - centre
     with g:      sum of d and of d * (x - centre), where d = g, or g where y > 0; d is written to `kept` where given. Where y
                  is what normalisation made of x, it is not read but made again, from scale and shift.
   Blocks of channels and slices of rows are the tasks; in a slice a few rows are summed as T, then added as double. */
struct NAME(sums) {
    const T *x, *g, *y, *centre, *scale, *shift;
    T *kept;
    int C, blocks, slices;
    ptrdiff_t rows;
    double *parts; /* (slices, 2, C) */
};

enum { NAME(OPEN), NAME(BY_Y), NAME(BY_X) }; /* what the gradient passes through: nothing, where y > 0, where y made of x is */

/* `wide` vectors of channels from k on, n of whose last one count: side by side, since an addition takes several cycles. */
INLINE void NAME(sum_rows)(const struct NAME(sums) * c, const int wide, const int graded, const int gate, ptrdiff_t row,
                           ptrdiff_t end, int k, const int n, double *sum, double *other) {
    V s[wide], q[wide], centre[wide], scale[wide], shift[wide];
    if (gate == NAME(BY_X)) EACH_VECTOR scale[i] = LOAD(c->scale + k + i * VL, n), shift[i] = LOAD(c->shift + k + i * VL, n);
    EACH_VECTOR s[i] = q[i] = (V){}, centre[i] = c->centre ? LOAD(c->centre + k + i * VL, n) : (V){};
    for (ptrdiff_t at = row * c->C + k; row < end; row++, at += c->C) EACH_VECTOR {
            V x = LOAD(c->x + at + i * VL, n) - centre[i], d = graded ? LOAD(c->g + at + i * VL, n) : x;
            if (gate == NAME(BY_X)) d = NAME(gate)(d, x * scale[i] + shift[i]);
            if (gate == NAME(BY_Y)) d = NAME(gate)(d, LOAD(c->y + at + i * VL, n));
            if (gate && c->kept) STORE(c->kept + at + i * VL, d, n);
            s[i] += d;
            q[i] += d * x;
        }
    EACH_VECTOR for (int j = 0; j < n; j++) sum[k + i * VL + j] += s[i][j], other[k + i * VL + j] += q[i][j];
}

INLINE void NAME(sum_block)(const struct NAME(sums) * c, const int graded, const int gate, ptrdiff_t row, ptrdiff_t end, int k,
                            int k1, double *sum, double *other) {
    for (; k + 4 * VL <= k1; k += 4 * VL) NAME(sum_rows)(c, 4, graded, gate, row, end, k, VL, sum, other);
    for (; k + 2 * VL <= k1; k += 2 * VL) NAME(sum_rows)(c, 2, graded, gate, row, end, k, VL, sum, other);
    for (; k < k1; k += VL) NAME(sum_rows)(c, 1, graded, gate, row, end, k, k1 - k < VL ? k1 - k : VL, sum, other);
}

static void NAME(sums_task)(void *job, ptrdiff_t task) {
    const struct NAME(sums) *c = job;
    int block = task % c->blocks, slice = task / c->blocks, k0 = block * NAME(CHANNELS);
    int k1 = k0 + NAME(CHANNELS) < c->C ? k0 + NAME(CHANNELS) : c->C, step = 8192 / (k1 - k0);
    step = step < 32 ? 32 : step > 512 ? 512 : step;
    double *sum = c->parts + (ptrdiff_t)slice * 2 * c->C, *other = sum + c->C;
    for (int k = k0; k < k1; k++) sum[k] = other[k] = 0;
    ptrdiff_t end = c->rows * (slice + 1) / c->slices;
    for (ptrdiff_t row = c->rows * slice / c->slices; row < end; row += step) {
        ptrdiff_t stop = row + step < end ? row + step : end;
        if (!c->g) NAME(sum_block)(c, 0, NAME(OPEN), row, stop, k0, k1, sum, other);
        else if (c->shift) NAME(sum_block)(c, 1, NAME(BY_X), row, stop, k0, k1, sum, other);
        else if (c->y) NAME(sum_block)(c, 1, NAME(BY_Y), row, stop, k0, k1, sum, other);
        else NAME(sum_block)(c, 1, NAME(OPEN), row, stop, k0, k1, sum, other);
    }
}

/* Afterwards parts[0] has the sums over all slices, added in order. */
static void NAME(sum_up)(struct NAME(sums) * c) {
    c->blocks = (c->C + NAME(CHANNELS) - 1) / NAME(CHANNELS);
    ptrdiff_t slices = c->rows * (c->C < NAME(CHANNELS) ? c->C : NAME(CHANNELS)) / 16384;
    c->slices = slices < 1 ? 1 : slices > NAME(MOST) ? NAME(MOST) : slices;
    c->parts = scratch(1, sizeof(double) * 2 * c->C * c->slices);
    share(NAME(sums_task), c, (ptrdiff_t)c->blocks * c->slices);
    for (int slice = 1; slice < c->slices; slice++)
        for (int k = 0; k < 2 * c->C; k++) c->parts[k] += c->parts[(ptrdiff_t)slice * 2 * c->C + k];
}

static void NAME(sums)(const union arg *a) {
    enum { X, SUM, ROWS_, C };
    struct NAME(sums) c = {.x = a[X].p, .C = a[C].i, .rows = a[ROWS_].i};
    NAME(sum_up)(&c);
    for (int k = 0; k < c.C; k++) ((T *)a[SUM].p)[k] = c.parts[k];
}

/* mean and var of each channel, of the distances from the mean of a few rows, so that a large mean costs no digits. */
static void NAME(statistics)(const union arg *a) {
    enum { X, MEAN, VAR, ROWS_, C, SAMPLE = 32 };
    struct NAME(sums) c = {.x = a[X].p, .C = a[C].i, .rows = a[ROWS_].i};
    T *centre = scratch(0, sizeof(T) * c.C);
    for (int k = 0; k < c.C; k++) centre[k] = 0;
    for (int i = 0; i < SAMPLE; i++) { /* one of each part of the batch; by the golden ratio, not the same pixel of each map */
        ptrdiff_t row = (i + (uint32_t)((i + 1) * 2654435769u) * 0x1p-32) / SAMPLE * c.rows;
        for (int k = 0; k < c.C; k++) centre[k] += c.x[row * c.C + k] / SAMPLE;
    }
    c.centre = centre;
    NAME(sum_up)(&c);
    for (int k = 0; k < c.C; k++) {
        double apart = c.parts[k] / c.rows, var = c.parts[c.C + k] / c.rows - apart * apart;
        ((T *)a[MEAN].p)[k] = centre[k] + apart;
        ((T *)a[VAR].p)[k] = var < 0 ? 0 : var; /* a NaN is not less than 0 */
    }
}

/* y = gamma * (x - mean) * rstd + beta + add, then ReLU; without gamma, x + add, then ReLU. */
struct NAME(norm) {
    const T *x, *add, *beta, *mean, *scale, *g, *y, *slope, *shift;
    T *to;
    int C, relu;
    ptrdiff_t rows, step;
};

INLINE void NAME(forward_rows)(const struct NAME(norm) * c, const int normed, ptrdiff_t row, ptrdiff_t end) {
    for (; row < end; row++)
        for (int k = 0; k < c->C; k += VL) {
            int n = c->C - k;
            ptrdiff_t at = row * c->C + k;
            __builtin_prefetch(c->x + at + NAME(PAGE));
            if (c->add) __builtin_prefetch(c->add + at + NAME(PAGE));
            __builtin_prefetch(c->to + at + NAME(PAGE), 1);
            V v = LOAD(c->x + at, n);
            if (normed) v = (v - LOAD(c->mean + k, n)) * LOAD(c->scale + k, n) + LOAD(c->beta + k, n);
            if (c->add) v += LOAD(c->add + at, n);
            if (c->relu) v = NAME(positive)(v);
            STORE(c->to + at, v, n);
        }
}

static void NAME(norm_task)(void *job, ptrdiff_t task) {
    const struct NAME(norm) *c = job;
    ptrdiff_t row = task * c->step, end = row + c->step < c->rows ? row + c->step : c->rows;
    if (c->scale) NAME(forward_rows)(c, 1, row, end);
    else NAME(forward_rows)(c, 0, row, end);
}

/* Rows in pieces of some 16,000 numbers, one a task. */
static void NAME(by_rows)(work_fn work, struct NAME(norm) * c) {
    c->step = 16384 / c->C + 1;
    share(work, c, (c->rows + c->step - 1) / c->step);
}

static void NAME(norm_add_relu)(const union arg *a) {
    enum { X, GAMMA, BETA, MEAN, RSTD, ADD, Y, ROWS_, C, RELU };
    const T *gamma = a[GAMMA].p, *rstd = a[RSTD].p;
    struct NAME(norm) c = {.x = a[X].p, .add = a[ADD].p, .beta = a[BETA].p, .mean = a[MEAN].p, .to = a[Y].p,
                           .C = a[C].i, .relu = a[RELU].i, .rows = a[ROWS_].i};
    if (gamma) {
        T *scale = scratch(1, sizeof(T) * c.C);
        for (int k = 0; k < c.C; k++) scale[k] = gamma[k] * rstd[k];
        c.scale = scale;
    }
    NAME(by_rows)(NAME(norm_task), &c);
}

/* dx = scale * (d - beta - (x - mean) * slope), d = g, or g where y > 0, or where y made of x is. */
INLINE void NAME(backward_rows)(const struct NAME(norm) * c, const int gate, ptrdiff_t row, ptrdiff_t end) {
    for (; row < end; row++)
        for (int k = 0; k < c->C; k += VL) {
            int n = c->C - k;
            ptrdiff_t at = row * c->C + k;
            __builtin_prefetch(c->x + at + NAME(PAGE));
            __builtin_prefetch(c->g + at + NAME(PAGE));
            if (gate == NAME(BY_Y)) __builtin_prefetch(c->y + at + NAME(PAGE));
            __builtin_prefetch(c->to + at + NAME(PAGE), 1);
            V d = LOAD(c->g + at, n), x = LOAD(c->x + at, n) - LOAD(c->mean + k, n), scale = LOAD(c->scale + k, n);
            if (gate == NAME(BY_X)) d = NAME(gate)(d, x * scale + LOAD(c->shift + k, n));
            if (gate == NAME(BY_Y)) d = NAME(gate)(d, LOAD(c->y + at, n));
            STORE(c->to + at, (d - (LOAD(c->beta + k, n) + x * LOAD(c->slope + k, n))) * scale, n);
        }
}

static void NAME(norm_backward_task)(void *job, ptrdiff_t task) {
    const struct NAME(norm) *c = job;
    ptrdiff_t row = task * c->step, end = row + c->step < c->rows ? row + c->step : c->rows;
    if (c->shift) NAME(backward_rows)(c, NAME(BY_X), row, end);
    else if (c->y) NAME(backward_rows)(c, NAME(BY_Y), row, end);
    else NAME(backward_rows)(c, NAME(OPEN), row, end);
}

/* From dy: d = dy, or dy where y > 0, kept where asked for; dbeta = sum d, dgamma = sum d * x_hat, and
   dx = gamma * rstd * (d - dbeta / m - x_hat * dgamma / m), the last two terms in training alone. Given beta, y is gamma * x_hat +
   beta before its ReLU. dx or what is kept may be dy. */
static void NAME(norm_add_relu_backward)(const union arg *a) {
    enum { DY, X, Y, GAMMA, BETA, MEAN, RSTD, DX, KEPT, DGAMMA, DBETA, ROWS_, C, TRAINING };
    const T *gamma = a[GAMMA].p, *rstd = a[RSTD].p;
    struct NAME(sums) s = {.x = a[X].p, .g = a[DY].p, .y = a[Y].p, .centre = a[MEAN].p, .shift = a[BETA].p, .kept = a[KEPT].p,
                           .C = a[C].i, .rows = a[ROWS_].i};
    T *dgamma = a[DGAMMA].p, *dbeta = a[DBETA].p, *scale = scratch(0, sizeof(T) * 3 * s.C), *slope = scale + s.C, *mean = slope + s.C;
    for (int k = 0; k < s.C; k++) scale[k] = gamma[k] * rstd[k];
    s.scale = scale;
    NAME(sum_up)(&s);
    for (int k = 0; k < s.C; k++) {
        double m = s.rows, training = a[TRAINING].i;
        dbeta[k] = s.parts[k];
        dgamma[k] = s.parts[s.C + k] * rstd[k];
        mean[k] = training ? s.parts[k] / m : 0;
        slope[k] = training ? s.parts[s.C + k] * rstd[k] * rstd[k] / m : 0;
    }
    struct NAME(norm) c = {.x = s.x, .g = s.g, .y = s.y, .mean = s.centre, .scale = scale, .beta = mean, .slope = slope,
                           .shift = s.shift, .to = a[DX].p, .C = s.C, .rows = s.rows};
    if (s.kept) c.g = s.kept, c.y = c.shift = NULL;
    NAME(by_rows)(NAME(norm_backward_task), &c);
}

/* Its two halves, for whoever adds the sums of other ranks in between: dgamma and dbeta of the rows that are here, ... */
static void NAME(norm_sums)(const union arg *a) {
    enum { DY, X, Y, MEAN, RSTD, KEPT, DGAMMA, DBETA, ROWS_, C };
    const T *rstd = a[RSTD].p;
    struct NAME(sums) s = {.x = a[X].p, .g = a[DY].p, .y = a[Y].p, .centre = a[MEAN].p, .kept = a[KEPT].p,
                           .C = a[C].i, .rows = a[ROWS_].i};
    NAME(sum_up)(&s);
    for (int k = 0; k < s.C; k++) {
        ((T *)a[DBETA].p)[k] = s.parts[k];
        ((T *)a[DGAMMA].p)[k] = s.parts[s.C + k] * rstd[k];
    }
}

/* ... and dx from the sums over all m rows. */
static void NAME(norm_dx)(const union arg *a) {
    enum { DY, X, GAMMA, MEAN, RSTD, DGAMMA, DBETA, DX, ROWS_, C, M_ };
    const T *gamma = a[GAMMA].p, *rstd = a[RSTD].p, *dgamma = a[DGAMMA].p, *dbeta = a[DBETA].p;
    struct NAME(norm) c = {.x = a[X].p, .g = a[DY].p, .mean = a[MEAN].p, .to = a[DX].p, .C = a[C].i, .rows = a[ROWS_].i};
    T *scale = scratch(0, sizeof(T) * 3 * c.C), *slope = scale + c.C, *mean = slope + c.C;
    for (int k = 0; k < c.C; k++) {
        double m = a[M_].f;
        scale[k] = gamma[k] * rstd[k];
        mean[k] = dbeta[k] / m;
        slope[k] = dgamma[k] * rstd[k] / m;
    }
    c.scale = scale, c.beta = mean, c.slope = slope;
    NAME(by_rows)(NAME(norm_backward_task), &c);
}

static void NAME(relu_backward_task)(void *job, ptrdiff_t task) {
    const struct NAME(norm) *c = job;
    ptrdiff_t at = task * 16384, end = at + 16384 < c->rows ? at + 16384 : c->rows;
    for (; at < end; at += VL) STORE(c->to + at, NAME(gate)(LOAD(c->g + at, end - at), LOAD(c->y + at, end - at)), end - at);
}

/* dx = dy where y > 0. */
static void NAME(relu_backward)(const union arg *a) {
    enum { DY, Y, DX, SIZE };
    struct NAME(norm) c = {.g = a[DY].p, .y = a[Y].p, .to = a[DX].p, .rows = a[SIZE].i};
    share(NAME(relu_backward_task), &c, (c.rows + 16383) / 16384);
}

/* --- max pooling ----------------------------------------------------------------------------------------------------- */

struct NAME(pool) {
    const T *x, *y, *dy;
    T *to;
    int H, W, C, P, Q, R, S, sv, sh, top, left, dv, dh;
};

/* The first cell of those from `start` on, `step` apart, that is not outside. */
INLINE int NAME(inside)(int start, int step) { return start >= 0 ? start : start + (step - 1 - start) / step * step; }

#define WINDOW_CELLS                                                                                                    \
    int h0 = p * c->sv - c->top, w0 = q * c->sh - c->left, dv = c->dv, dh = c->dh;                                      \
    for (int h = NAME(inside)(h0, dv); h < h0 + c->R * dv && h < c->H; h += dv)                                         \
        for (int w = NAME(inside)(w0, dh); w < w0 + c->S * dh && w < c->W; w += dh)

static void NAME(maxpool_task)(void *job, ptrdiff_t task) {
    const struct NAME(pool) *c = job;
    const T *x = c->x + task / c->P * c->H * c->W * c->C;
    T *y = c->to + task * c->Q * c->C;
    int p = task % c->P;
    for (int q = 0; q < c->Q; q++)
        for (int k = 0; k < c->C; k += VL) {
            int n = c->C - k;
            V best = (V){} - (T)INFINITY;
            WINDOW_CELLS {
                V v = LOAD(x + ((ptrdiff_t)h * c->W + w) * c->C + k, n);
                M wins = ((M)(v > best) | (M)(v != v)) & (M)(best == best); /* a NaN wins, and stays */
                best = (V)(((M)v & wins) | ((M)best & ~wins));
            }
            STORE(y + q * c->C + k, best, n);
        }
}

static void NAME(maxpool)(const union arg *a) {
    enum { X, Y, N, H, W, C, P, Q, R, S, SV, SH, TOP, LEFT, DV, DH };
    struct NAME(pool) c = {a[X].p, NULL, NULL, a[Y].p, a[H].i, a[W].i, a[C].i, a[P].i, a[Q].i,
                           a[R].i, a[S].i, a[SV].i, a[SH].i, a[TOP].i, a[LEFT].i, a[DV].i, a[DH].i};
    share(NAME(maxpool_task), &c, a[N].i * c.P);
}

static void NAME(maxpool_backward_task)(void *job, ptrdiff_t n) {
    const struct NAME(pool) *c = job;
    ptrdiff_t map = (ptrdiff_t)c->H * c->W * c->C;
    memset(c->to + n * map, 0, sizeof(T) * map);
    for (int p = 0; p < c->P; p++)
        for (int q = 0; q < c->Q; q++)
            for (int k = 0; k < c->C; k += VL) {
                ptrdiff_t at = ((n * c->P + p) * c->Q + q) * c->C + k;
                int lanes = c->C - k;
                V y = LOAD(c->y + at, lanes), dy = LOAD(c->dy + at, lanes);
                M unclaimed = ~(M){};
                WINDOW_CELLS {
                    ptrdiff_t pixel = n * map + ((ptrdiff_t)h * c->W + w) * c->C + k;
                    V x = LOAD(c->x + pixel, lanes);
                    M wins = ((M)(x == y) | (M)(x != x)) & unclaimed;
                    unclaimed &= ~wins;
                    STORE(c->to + pixel, LOAD(c->to + pixel, lanes) + dy * (V)((M)((V){} + 1) & wins), lanes);
                }
            }
}

/* Each dy goes to its window's maximum or NaN, of equal ones to the first. */
static void NAME(maxpool_backward)(const union arg *a) {
    enum { DY, X, Y, DX, N, H, W, C, P, Q, R, S, SV, SH, TOP, LEFT, DV, DH };
    struct NAME(pool) c = {a[X].p, a[Y].p, a[DY].p, a[DX].p, a[H].i, a[W].i, a[C].i, a[P].i, a[Q].i,
                           a[R].i, a[S].i, a[SV].i, a[SH].i, a[TOP].i, a[LEFT].i, a[DV].i, a[DH].i};
    share(NAME(maxpool_backward_task), &c, a[N].i);
}

struct NAME(average) {
    struct NAME(pool) pool;
    int padding, bottom, right; /* whether its zeros count, and where they end: windows may reach further */
};

static void NAME(avgpool_task)(void *job, ptrdiff_t task) {
    const struct NAME(average) *average = job;
    const struct NAME(pool) *c = &average->pool;
    const T *x = c->x + task / c->P * c->H * c->W * c->C;
    T *y = c->to + task * c->Q * c->C;
    int p = task % c->P;
    for (int q = 0; q < c->Q; q++)
        for (int k = 0; k < c->C; k += VL) {
            V sum = (V){};
            int cells = 0;
            WINDOW_CELLS {
                sum += LOAD(x + ((ptrdiff_t)h * c->W + w) * c->C + k, c->C - k);
                cells++;
            }
            if (average->padding) cells = NAME(least)(c->R, average->bottom - h0) * NAME(least)(c->S, average->right - w0);
            STORE(y + q * c->C + k, sum / (T)cells, c->C - k);
        }
}

static void NAME(avgpool)(const union arg *a) {
    enum { X, Y, N, H, W, C, P, Q, R, S, SV, SH, TOP, LEFT, PADDING, BOTTOM, RIGHT };
    struct NAME(average) c = {{a[X].p, NULL, NULL, a[Y].p, a[H].i, a[W].i, a[C].i, a[P].i, a[Q].i, a[R].i, a[S].i,
                               a[SV].i, a[SH].i, a[TOP].i, a[LEFT].i, 1, 1}, a[PADDING].i, a[BOTTOM].i, a[RIGHT].i};
    share(NAME(avgpool_task), &c, a[N].i * c.pool.P);
}

/* --- the optimiser: one pass over the flat buffers ---------------------------------------------------------------------- */

enum { NAME(PART) = 1 << 15 };

struct NAME(update) {
    T *w, *m, *v;
    const T *g;
    double *sums;
    ptrdiff_t size;
    T lr, first, second, rest_first, rest_second, epsilon, decay, scale, shrink; /* rest: 1 - first, as double */
    int nesterov;
};

#define PART_OF(c) ptrdiff_t i = task * NAME(PART), end = i + NAME(PART) < c->size ? i + NAME(PART) : c->size

static void NAME(square_sum_task)(void *job, ptrdiff_t task) {
    const struct NAME(update) *c = job;
    V sum = {}, sum1 = {}, sum2 = {}, sum3 = {};
    PART_OF(c);
    for (; i + 4 * VL <= end; i += 4 * VL) {
        const V *g = (const V *)(c->g + i);
        sum += g[0] * g[0], sum1 += g[1] * g[1], sum2 += g[2] * g[2], sum3 += g[3] * g[3];
    }
    sum += sum1 + (sum2 + sum3);
    for (; i < end; i += VL) {
        V g = LOAD(c->g + i, end - i);
        sum += g * g;
    }
    c->sums[task] = 0;
    for (int j = 0; j < VL; j++) c->sums[task] += sum[j];
}

static void NAME(square_sum)(const union arg *a) {
    enum { G, SUM, SIZE };
    struct NAME(update) c = {.g = a[G].p, .size = a[SIZE].i};
    ptrdiff_t parts = (c.size + NAME(PART) - 1) / NAME(PART);
    c.sums = scratch(0, sizeof(double) * parts);
    share(NAME(square_sum_task), &c, parts);
    double sum = 0;
    for (ptrdiff_t i = 0; i < parts; i++) sum += c.sums[i];
    *(T *)a[SUM].p = sum;
}

static void NAME(sgd_task)(void *job, ptrdiff_t task) {
    const struct NAME(update) *c = job;
    PART_OF(c);
    for (; i < end; i += VL) {
        int n = end - i < VL ? end - i : VL;
        V w = LOAD(c->w + i, n), g = LOAD(c->g + i, n) * c->scale + c->decay * w, v = c->first * LOAD(c->v + i, n) + g;
        STORE(c->v + i, v, n);
        STORE(c->w + i, w - c->lr * (c->nesterov ? (V)(g + c->first * v) : v), n);
    }
}

static void NAME(sgd)(const union arg *a) {
    enum { W, G, VELOCITY, SIZE, LR, MOMENTUM, DECAY, SCALE, NESTEROV };
    struct NAME(update) c = {.w = a[W].p, .g = a[G].p, .v = a[VELOCITY].p, .size = a[SIZE].i, .lr = a[LR].f,
                             .first = a[MOMENTUM].f, .decay = a[DECAY].f, .scale = a[SCALE].f, .nesterov = a[NESTEROV].i};
    share(NAME(sgd_task), &c, (c.size + NAME(PART) - 1) / NAME(PART));
}

static void NAME(adam_task)(void *job, ptrdiff_t task) {
    const struct NAME(update) *c = job;
    PART_OF(c);
    for (; i < end; i += VL) {
        int n = end - i < VL ? end - i : VL;
        V w = LOAD(c->w + i, n) * c->shrink, g = LOAD(c->g + i, n) * c->scale + c->decay * w, root;
        V m = c->first * LOAD(c->m + i, n) + c->rest_first * g, v = c->second * LOAD(c->v + i, n) + c->rest_second * (g * g);
        for (int j = 0; j < VL; j++) root[j] = sizeof(T) == 4 ? sqrtf(v[j]) : sqrt(v[j]);
        STORE(c->m + i, m, n);
        STORE(c->v + i, v, n);
        STORE(c->w + i, w - c->lr * m / (root + c->epsilon), n);
    }
}

/* lr and epsilon come with the corrections for the first steps in them; shrink: 1 - lr * decay where that is decoupled. */
static void NAME(adam)(const union arg *a) {
    enum { W, G, MEAN, SQUARE, SIZE, LR, B1, B2, EPSILON, DECAY, SHRINK, SCALE };
    struct NAME(update) c = {.w = a[W].p, .g = a[G].p, .m = a[MEAN].p, .v = a[SQUARE].p, .size = a[SIZE].i, .lr = a[LR].f,
                             .first = a[B1].f, .second = a[B2].f, .rest_first = 1 - a[B1].f, .rest_second = 1 - a[B2].f, .epsilon = a[EPSILON].f, .decay = a[DECAY].f,
                             .shrink = a[SHRINK].f, .scale = a[SCALE].f};
    share(NAME(adam_task), &c, (c.size + NAME(PART) - 1) / NAME(PART));
}
