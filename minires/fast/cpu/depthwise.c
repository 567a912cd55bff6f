/* Depthwise convolution, as many groups as channels: each channel by itself, so that vectors of channels meet vectors of weights.
   Part of kernels.c. x is the source (N, H, W, C), y the result (N, P, Q, C), w (R, S, 1, C); `backward` as in conv2d. */

struct NAME(depthwise) {
    const T *x, *w, *b, *add;
    T *y;
    int H, W, C, P, Q, R, S, relu;
    struct side v, h;
};

/* One row of the result. */
static void NAME(depthwise_task)(void *job, ptrdiff_t task) {
    const struct NAME(depthwise) *c = job;
    int rows = 0, turned = c->v.backward;
    const T *x[c->R], *w[c->R];
    for (int r = 0; r < c->R; r++) {
        int source = source_of(&c->v, task % c->P, r);
        if (source < 0) continue;
        x[rows] = c->x + (task / c->P * c->H + source) * c->W * c->C;
        w[rows++] = c->w + (ptrdiff_t)(turned ? c->R - 1 - r : r) * c->S * c->C;
    }
    for (int q = 0; q < c->Q; q++) {
        int columns = 0;
        ptrdiff_t from[c->S], tap[c->S], at = (task * c->Q + q) * c->C;
        for (int s = 0; s < c->S; s++) {
            int source = source_of(&c->h, q, s);
            if (source < 0) continue;
            from[columns] = (ptrdiff_t)source * c->C;
            tap[columns++] = (ptrdiff_t)(turned ? c->S - 1 - s : s) * c->C;
        }
        for (int k = 0; k < c->C; k += VL) {
            int n = c->C - k;
            V sum = (V){};
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < columns; j++) sum += LOAD(x[i] + from[j] + k, n) * LOAD(w[i] + tap[j] + k, n);
            if (c->b) sum += LOAD(c->b + k, n);
            if (c->add) sum += LOAD(c->add + at + k, n);
            if (c->relu) sum = NAME(positive)(sum);
            STORE(c->y + at + k, sum, n);
        }
    }
}

static void NAME(depthwise)(const union arg *a) {
    enum { X, WEIGHTS, B, ADD, Y, N, H, W, C, P, Q, R, S, SV, SH, TOP, LEFT, DV, DH, BACKWARD, RELU };
    struct NAME(depthwise) c = {a[X].p, a[WEIGHTS].p, a[B].p, a[ADD].p, a[Y].p, a[H].i, a[W].i, a[C].i, a[P].i, a[Q].i, a[R].i, a[S].i, a[RELU].i};
    c.v = (struct side){c.H, c.P, c.R, a[SV].i, a[DV].i, a[TOP].i, a[BACKWARD].i};
    c.h = (struct side){c.W, c.Q, c.S, a[SH].i, a[DH].i, a[LEFT].i, a[BACKWARD].i};
    share(NAME(depthwise_task), &c, a[N].i * c.P);
}

/* dw[r, s, c] = sum over the pixels under the tap of x[.., c] dy[.., c]. Slices of the rows of dy and blocks of channels are the
   tasks; each slice has a sum of its own. */
struct NAME(depthwise_weights) {
    const T *x, *dy;
    T *parts; /* (slices, R, S, C) */
    int H, W, C, P, Q, R, S, slices, blocks;
    ptrdiff_t rows;
    struct side v, h;
};

/* `wide` vectors of channels of one tap: q places from x and dy on, `step` and C numbers apart. */
INLINE void NAME(under_tap)(const int wide, const T *x, ptrdiff_t step, const T *dy, int C, int q, T *sum, const int n) {
    V acc[wide];
    EACH_VECTOR acc[i] = LOAD(sum + i * VL, n);
    for (; q--; x += step, dy += C) EACH_VECTOR acc[i] += LOAD(x + i * VL, n) * LOAD(dy + i * VL, n);
    EACH_VECTOR STORE(sum + i * VL, acc[i], n);
}

static void NAME(depthwise_weights_task)(void *job, ptrdiff_t task) {
    const struct NAME(depthwise_weights) *c = job;
    int block = task % c->blocks, slice = task / c->blocks;
    int k0 = block * NAME(CHANNELS), k1 = k0 + NAME(CHANNELS) < c->C ? k0 + NAME(CHANNELS) : c->C;
    T *sums = c->parts + (ptrdiff_t)slice * c->R * c->S * c->C;
    for (int tap = 0; tap < c->R * c->S; tap++) memset(sums + (ptrdiff_t)tap * c->C + k0, 0, sizeof(T) * (k1 - k0));
    for (ptrdiff_t row = c->rows * slice / c->slices; row < c->rows * (slice + 1) / c->slices; row++)
        for (int r = 0; r < c->R; r++) {
            int source = source_of(&c->v, row % c->P, r);
            if (source < 0) continue;
            for (int s = 0; s < c->S; s++) {
                int first = 0, end = c->Q;
                while (first < end && source_of(&c->h, first, s) < 0) first++;
                while (end > first && source_of(&c->h, end - 1, s) < 0) end--;
                if (first == end) continue;
                const T *x = c->x + ((row / c->P * c->H + source) * c->W + source_of(&c->h, first, s)) * c->C;
                const T *dy = c->dy + (row * c->Q + first) * c->C;
                T *sum = sums + (ptrdiff_t)(r * c->S + s) * c->C;
                ptrdiff_t step = (ptrdiff_t)c->h.stride * c->C;
                int k = k0;
#define UNDER_TAP(wide, n) NAME(under_tap)(wide, x + k, step, dy + k, c->C, end - first, sum + k, n)
                for (; k + 4 * VL <= k1; k += 4 * VL) UNDER_TAP(4, VL);
                for (; k + VL <= k1; k += VL) UNDER_TAP(1, VL);
                if (k < k1) UNDER_TAP(1, k1 - k);
#undef UNDER_TAP
            }
        }
}

static void NAME(depthwise_weights)(const union arg *a) {
    enum { X, DY, DW, N, H, W, C, P, Q, R, S, SV, SH, TOP, LEFT, DV, DH };
    struct NAME(depthwise_weights) c = {a[X].p, a[DY].p, a[DW].p, a[H].i, a[W].i, a[C].i, a[P].i, a[Q].i, a[R].i, a[S].i};
    c.v = (struct side){c.H, c.P, c.R, a[SV].i, a[DV].i, a[TOP].i, 0};
    c.h = (struct side){c.W, c.Q, c.S, a[SH].i, a[DH].i, a[LEFT].i, 0};
    ptrdiff_t size = (ptrdiff_t)c.R * c.S * c.C;
    c.rows = a[N].i * c.P;
    c.blocks = (c.C + NAME(CHANNELS) - 1) / NAME(CHANNELS);
    c.slices = c.rows < 16 ? c.rows : 16; /* of the shape alone: the order of the sum depends on it */
    c.parts = scratch(0, sizeof(T) * c.slices * size);
    share(NAME(depthwise_weights_task), &c, (ptrdiff_t)c.slices * c.blocks);
    NAME(add_parts)(c.parts, c.slices, size, a[DW].p);
}
