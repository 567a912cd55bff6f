/* The gradient of the weights: dw[r, s, c, o] = sum over the pixels under the tap of x[.., c] dy[.., o]. Part of kernels.c. */

enum { NAME(STRIP) = 192, NAME(PIECE) = 240, NAME(ADDED) = 1 << 13 };

/* dw = the sum of the slices' parts, in their order. */
struct NAME(parts) {
    const T *parts;
    T *dw;
    ptrdiff_t size, slices;
};

static void NAME(add_task)(void *job, ptrdiff_t task) {
    const struct NAME(parts) *c = job;
    ptrdiff_t start = task * NAME(ADDED), n = c->size - start < NAME(ADDED) ? c->size - start : NAME(ADDED);
    memcpy(c->dw + start, c->parts + start, sizeof(T) * n);
    for (ptrdiff_t s = 1; s < c->slices; s++)
        for (ptrdiff_t i = start; i < start + n; i += VL)
            STORE(c->dw + i, LOAD(c->dw + i, start + n - i) + LOAD(c->parts + s * c->size + i, start + n - i), start + n - i);
}

static void NAME(add_parts)(const T *parts, ptrdiff_t slices, ptrdiff_t size, T *dw) {
    struct NAME(parts) c = {parts, dw, size, slices};
    share(NAME(add_task), &c, (size + NAME(ADDED) - 1) / NAME(ADDED));
}

/* d[j] (+)= sum over i of x[i][j] g[i]: m rows of weights, nr vectors of columns. at: where each x[i] starts; NULL, packed. */
INLINE void NAME(outer)(const int m, const int nr, const T *x, const ptrdiff_t *at, const T *g, int rows, T *d, int O,
                        int fresh, int columns) {
    V acc[ROWS][2];
    if (fresh) EACH_ROW acc[j][i] = (V){};
    else EACH_ROW acc[j][i] = LOAD(d + (ptrdiff_t)j * O + i * VL, columns - i * VL);
    for (int i = 0; i < rows; i++, g += nr * VL) {
        const T *p = at ? x + at[i] : x + (ptrdiff_t)i * m;
        V g0 = *(const V *)g, g1 = nr > 1 ? *(const V *)(g + VL) : g0;
#pragma GCC unroll 16
        for (int j = 0; j < m; j++) {
            acc[j][0] += p[j] * g0;
            if (nr > 1) acc[j][1] += p[j] * g1;
        }
    }
    EACH_ROW STORE(d + (ptrdiff_t)j * O + i * VL, acc[j][i], columns - i * VL);
}

#define OUTER(m)                                                                                                        \
    static __attribute__((noinline)) void NAME(outer_##m)(const T *x, const ptrdiff_t *at, const T *g, int rows, T *d,  \
                                                          int O, int fresh, int columns) {                              \
        if (columns >= WIDE && !at) NAME(outer)(m, 2, x, NULL, g, rows, d, O, fresh, WIDE);                             \
        else if (columns >= WIDE) NAME(outer)(m, 2, x, at, g, rows, d, O, fresh, WIDE);                                 \
        else if (columns > VL) NAME(outer)(m, 2, x, at, g, rows, d, O, fresh, columns);                                 \
        else NAME(outer)(m, 1, x, at, g, rows, d, O, fresh, columns);                                                   \
    }
OUTER(1) OUTER(2) OUTER(4)
#if ROWS == 6
OUTER(6)
#define FULL_OUTER NAME(outer_6)
#else
OUTER(8)
#define FULL_OUTER NAME(outer_8)
#endif

INLINE int NAME(rows_of)(int left) { return left >= ROWS ? ROWS : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

struct NAME(weights) {
    const T *x, *dy;
    T *dw, *parts; /* one gradient for each slice of the rows, where there are several */
    int N, H, W, C, P, Q, O, R, S, G, slices, groups; /* G: of the convolution, C and O are those of one; groups: of panels */
    struct axis v, h;
};

/* strip = the numbers of dy in these places, for the columns of one panel. */
static void NAME(take_columns)(const T *dy, const ptrdiff_t *place, int count, int n, T *strip) {
    int width = NAME(width)(n);
    for (int i = 0; i < count; i++, strip += width) {
        *(V *)strip = LOAD(dy + place[i], n);
        if (width > VL) *(V *)(strip + VL) = LOAD(dy + place[i] + VL, n - VL);
    }
}

static void NAME(outer_rows)(int m, const T *x, const ptrdiff_t *at, const T *g, int rows, T *d, int O, int fresh, int columns) {
    if (m == ROWS) FULL_OUTER(x, at, g, rows, d, O, fresh, columns);
    else if (m == 4) NAME(outer_4)(x, at, g, rows, d, O, fresh, columns);
    else if (m == 2) NAME(outer_2)(x, at, g, rows, d, O, fresh, columns);
    else NAME(outer_1)(x, at, g, rows, d, O, fresh, columns);
}

/* In small maps most pixels see an edge, and few see the same taps. Tap by tap over all of them each gradient is written once. */
static void NAME(taps_task)(void *job, ptrdiff_t task) {
    const struct NAME(weights) *c = job;
    int among = task / c->groups, group = task % c->groups, panels = NAME(panels)(c->O), row_of_dw = c->O * c->G;
    int from = (ptrdiff_t)panels * group / c->groups, to = (ptrdiff_t)panels * (group + 1) / c->groups;
    const T *x = c->x + among * c->C, *dy = c->dy + among * c->O;
    ptrdiff_t source[NAME(STRIP)], place[NAME(STRIP)], rows = c->N * c->P * c->Q;
    T *strips = scratch(2, sizeof(T) * rows * (to - from) * WIDE);
    for (int class = 0, row = 0; class < c->v.groups * c->h.groups; class++) {
        const struct group *v = c->v.group + class / c->h.groups, *h = c->h.group + class % c->h.groups;
        int count = c->N * v->places * h->places;
        NAME(place_rows)(v, h, 0, count, c->H, c->W, c->C * c->G, c->P, c->Q, row_of_dw, source + row, place + row);
        row += count;
    }
    for (int panel = from; panel < to; panel++)
        NAME(take_columns)(dy + panel * WIDE, place, rows, c->O - panel * WIDE, strips + (panel - from) * WIDE * rows);
    for (int tap = 0; tap < c->R * c->S; tap++)
        for (int k = 0, m; k < c->C; k += m) {
            m = NAME(rows_of)(c->C - k);
            for (int panel = from; panel < to; panel++) {
                int n = c->O - panel * WIDE, fresh = 1;
                const T *strip = strips + (panel - from) * WIDE * rows;
                T *d = c->dw + ((ptrdiff_t)tap * c->C + k) * row_of_dw + among * c->O + panel * WIDE;
                for (int class = 0, row = 0, count; class < c->v.groups * c->h.groups; class++) {
                    const struct group *v = c->v.group + class / c->h.groups, *h = c->h.group + class % c->h.groups;
                    int i = find_tap(v, tap / c->S), j = find_tap(h, tap % c->S);
                    count = c->N * v->places * h->places;
                    if (i >= 0 && j >= 0) {
                        const T *from_tap = x + ((ptrdiff_t)v->step[i] * c->W + h->step[j]) * c->C * c->G + k;
                        NAME(outer_rows)(m, from_tap, source + row, strip, count, d, row_of_dw, fresh, n);
                        fresh = 0;
                    }
                    row += count, strip += count * NAME(width)(n);
                }
                for (int j = 0; fresh && j < m; j++) memset(d + (ptrdiff_t)j * row_of_dw, 0, sizeof(T) * NAME(least)(n, WIDE));
            }
        }
}

static void NAME(weights_task)(void *job, ptrdiff_t task) {
    const struct NAME(weights) *c = job;
    int among = task / (c->slices * c->groups), slice = task / c->groups % c->slices, group = task % c->groups;
    int panels = NAME(panels)(c->O), row_of_dw = c->O * c->G;
    const T *source_x = c->x + among * c->C, *source_dy = c->dy + among * c->O;
    int from = (ptrdiff_t)panels * group / c->groups, to = (ptrdiff_t)panels * (group + 1) / c->groups;
    int first = from * WIDE, stop = to * WIDE < c->O ? to * WIDE : c->O, taps = c->R * c->S, depth = taps * c->C;
    T *dw = (c->slices > 1 ? c->parts + (ptrdiff_t)slice * depth * row_of_dw : c->dw) + among * c->O;
    int classes = c->v.groups * c->h.groups, alone = classes == 1 && c->v.group->taps * c->h.group->taps == taps;
    for (int k = 0; k < depth && !alone; k++) memset(dw + (ptrdiff_t)k * row_of_dw + first, 0, sizeof(T) * (stop - first));
    T *g = scratch(2, sizeof(T) * NAME(STRIP) * ((to - from) * WIDE + NAME(PIECE) + ROWS) + sizeof(struct NAME(run)) * taps);
    T *packed = g + NAME(STRIP) * (to - from) * WIDE;
    struct NAME(run) *run = (void *)(packed + NAME(STRIP) * (NAME(PIECE) + ROWS));
    int pack = to - from >= 4; /* rows of x are copied where enough panels read the copy */
    for (int class = 0; class < classes; class++) {
        const struct group *v = c->v.group + class / c->h.groups, *h = c->h.group + class % c->h.groups;
        ptrdiff_t rows = (ptrdiff_t)c->N * v->places * h->places, start = rows * slice / c->slices, end = rows * (slice + 1) / c->slices;
        int runs = NAME(find_runs)(v, h, c->W, c->C, c->G, c->S, run);
        for (ptrdiff_t row = start; row < end; row += NAME(STRIP)) {
            ptrdiff_t source[NAME(STRIP)], place[NAME(STRIP)];
            int count = end - row < NAME(STRIP) ? end - row : NAME(STRIP), fresh = alone && row == start;
            NAME(place_rows)(v, h, row, count, c->H, c->W, c->C * c->G, c->P, c->Q, row_of_dw, source, place);
            for (int panel = from; panel < to; panel++) {
                T *strip = g + (ptrdiff_t)(panel - from) * WIDE * NAME(STRIP);
                NAME(take_columns)(source_dy + panel * WIDE, place, count, c->O - panel * WIDE, strip);
            }
            for (int r = 0; r < runs; r++)
                for (int k0 = 0; k0 < run[r].length; k0 += NAME(PIECE)) {
                    int k1 = k0 + NAME(PIECE) < run[r].length ? k0 + NAME(PIECE) : run[r].length;
                    const T *x = source_x + run[r].x;
                    for (int k = k0, m; pack && k < k1; k += m) {
                        m = NAME(rows_of)(k1 - k);
                        T *copy = packed + (ptrdiff_t)(k - k0) * NAME(STRIP);
                        if (m == ROWS)
                            for (int i = 0; i < count; i++, copy += ROWS) memcpy(copy, x + source[i] + k, sizeof(T) * ROWS);
                        else
                            for (int i = 0; i < count; i++, copy += m) memcpy(copy, x + source[i] + k, sizeof(T) * m);
                    }
                    for (int panel = from; panel < to; panel++) {
                        int o = panel * WIDE, n = c->O - o;
                        const T *strip = g + (ptrdiff_t)(panel - from) * WIDE * NAME(STRIP);
                        for (int k = k0, m; k < k1; k += m) {
                            m = NAME(rows_of)(k1 - k);
                            const T *xs = pack ? packed + (ptrdiff_t)(k - k0) * NAME(STRIP) : x + k;
                            const ptrdiff_t *at = pack ? NULL : source;
                            T *d = dw + (ptrdiff_t)(run[r].k + k) * row_of_dw + o;
                            NAME(outer_rows)(m, xs, at, strip, count, d, row_of_dw, fresh, n);
                        }
                    }
                }
        }
    }
}

static void NAME(conv2d_weights)(const union arg *a) {
    enum { X, DY, DW, N, HEIGHT, WIDTH, C, P, Q, O, R, S, SV, SH, TOP, LEFT, DV, DH, G };
    struct NAME(weights) c = {a[X].p, a[DY].p, a[DW].p, NULL, a[N].i, a[HEIGHT].i, a[WIDTH].i,
                              a[C].i / a[G].i, a[P].i, a[Q].i, a[O].i / a[G].i, a[R].i, a[S].i, a[G].i};
    c.v = make_axis((struct side){c.H, c.P, c.R, a[SV].i, a[DV].i, a[TOP].i, 0});
    c.h = make_axis((struct side){c.W, c.Q, c.S, a[SH].i, a[DH].i, a[LEFT].i, 0});
    ptrdiff_t rows = (ptrdiff_t)c.N * c.P * c.Q, panels = NAME(panels)(c.O), size = (ptrdiff_t)c.R * c.S * c.C * a[O].i;
    /* of the shape alone, since the order of the sum depends on it; panels are divided where the slices are too few */
    ptrdiff_t slices = NAME(least)(NAME(least)(64 / (panels * c.G), rows / 512), 16);
    c.slices = slices > 1 ? slices : 1;
    int tasks = c.slices * c.G, groups = (2 * workers() + tasks - 1) / tasks;
    c.groups = NAME(least)(NAME(least)(groups, workers()), panels);
    if (c.slices > 1) c.parts = scratch(0, sizeof(T) * c.slices * size);
    int small = rows <= NAME(STRIP) && c.v.groups * c.h.groups > 1;
    share(small ? NAME(taps_task) : NAME(weights_task), &c, (ptrdiff_t)c.slices * c.groups * c.G);
    if (c.slices > 1) NAME(add_parts)(c.parts, c.slices, size, c.dw);
    free_axis(&c.v);
    free_axis(&c.h);
}
