/* The ops in C, for one instruction set and one type: read by module.c for each of them. Reading this file is optional:
   minires/ops says the same in NumPy, ops/naive.py in loops, with the same letters.

   T      the type of a number; V a vector of VL of them, in GCC's and Clang's notation: no intrinsics
   ROWS   how many rows of a result a tile holds, times two vectors: as many as there are registers
   NAME   gives a function its name for this type

   NHWC: x (N, H, W, C), w (R, S, C, O), y (N, P, Q, O). */

#define VL ((int)(BYTES / sizeof(T)))
#define WIDE (2 * VL)
#define V NAME(vector)
#define M NAME(mask)
typedef T V __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
typedef __typeof__(_Generic((T)0, float: (int32_t)0, double: (int64_t)0)) M __attribute__((vector_size(BYTES), may_alias));

/* The first n numbers of a vector in memory, zeros behind them. */
INLINE V NAME(load)(const T *p, int n) {
    if (n >= VL) return *(const V *)p;
    T part[VL];
    for (int i = 0; i < VL; i++) part[i] = i < n ? p[i] : 0;
    return *(const V *)part;
}

INLINE void NAME(store)(T *p, V v, int n) {
    if (n >= VL) *(V *)p = v;
    else
        for (int i = 0; i < n; i++) p[i] = v[i];
}

/* Numbers that lie `step` apart, zeros behind the first n. */
INLINE V NAME(column)(const T *p, ptrdiff_t step, int n) {
    T part[VL];
    if (n >= VL)
        for (int i = 0; i < VL; i++) part[i] = p[i * step];
    else
        for (int i = 0; i < VL; i++) part[i] = i < n ? p[i * step] : 0;
    return *(const V *)part;
}

/* max(v, 0), a NaN staying one; and g where y > 0, times 0 elsewhere, as NumPy's dy * (y > 0). */
INLINE V NAME(positive)(V v) { return (V)((M)v & ~(M)(v <= (V){})); }
INLINE V NAME(gate)(V g, V y) { return g * (V)((M)((V){} + 1) & (M)(y > (V){})); }

/* Arrays that are walked side by side start a cache line apart from a multiple of its size: otherwise, with channels that are
   powers of two, they would all fall into the same few places of the cache. */
#define LINE ((int)(64 / sizeof(T)))

#define LOAD NAME(load)
#define STORE NAME(store)

/* --- products: the tiles that every convolution is made of ----------------------------------------------------------- */

/* The vectors of a tile of m rows, unrolled, so that they stay in registers. */
#define EACH_ROW _Pragma("GCC unroll 16") for (int j = 0; j < m; j++) _Pragma("GCC unroll 2") for (int i = 0; i < nr; i++)

/* A stretch of numbers side by side in the source, that meets as many rows of the packed weights. */
struct NAME(run) {
    ptrdiff_t x;
    int k, length;
};

/* acc[j] = sum over k of x[at[j] + k] u[k]: m rows of a result, nr vectors of its columns, kept in registers. */
INLINE void NAME(dot)(const int m, const int nr, const T *x, const ptrdiff_t *at, const struct NAME(run) * run, int runs,
                      const T *u, V acc[][2]) {
    EACH_ROW acc[j][i] = (V){};
    for (; runs--; run++) {
        const T *p[ROWS], *v = u + (ptrdiff_t)run->k * nr * VL;
        for (int j = 0; j < m; j++) p[j] = x + at[j] + run->x;
        for (int k = 0; k < run->length; k++, v += nr * VL) {
            V v0 = *(const V *)v, v1 = nr > 1 ? *(const V *)(v + VL) : v0;
#pragma GCC unroll 16
            for (int j = 0; j < m; j++) {
                acc[j][0] += p[j][k] * v0;
                if (nr > 1) acc[j][1] += p[j][k] * v1;
            }
        }
    }
}

/* What happens to a tile of the result: added to what is there, or the end of the sum. */
struct NAME(end) {
    T *y;
    const T *b, *add;
    int relu, first, last;
};

INLINE void NAME(finish)(const int m, const int nr, const struct NAME(end) * end, const ptrdiff_t *at, int o, const int columns,
                         V acc[][2]) {
    T *y = end->y + o;
    if (!end->first) EACH_ROW acc[j][i] += LOAD(y + at[j] + i * VL, columns - i * VL);
    if (end->last && end->b) EACH_ROW acc[j][i] += LOAD(end->b + o + i * VL, columns - i * VL);
    if (end->last && end->add) EACH_ROW acc[j][i] += LOAD(end->add + o + at[j] + i * VL, columns - i * VL);
    if (end->last && end->relu) EACH_ROW acc[j][i] = NAME(positive)(acc[j][i]);
    EACH_ROW STORE(y + at[j] + i * VL, acc[j][i], columns - i * VL);
}

#define TILE(m, nr)                                                                                                     \
    static __attribute__((noinline)) void NAME(tile_##m##_##nr)(                                                        \
        const T *x, const ptrdiff_t *from, const struct NAME(run) * run, int runs, const T *u,                          \
        const struct NAME(end) * end, const ptrdiff_t *to, int o, int columns) {                                        \
        V acc[m][2];                                                                                                    \
        NAME(dot)(m, nr, x, from, run, runs, u, acc);                                                                   \
        if (columns >= nr * VL) NAME(finish)(m, nr, end, to, o, nr * VL, acc);                                          \
        else NAME(finish)(m, nr, end, to, o, columns, acc);                                                             \
    }
TILE(1, 1) TILE(2, 1) TILE(4, 1) TILE(1, 2) TILE(2, 2) TILE(4, 2)
#if ROWS == 6
TILE(6, 1) TILE(6, 2)
#define FULL_TILE(nr) NAME(tile_6_##nr)
#else
TILE(8, 1) TILE(8, 2)
#define FULL_TILE(nr) NAME(tile_8_##nr)
#endif

/* y[to[i]] (+)= x[from[i]] u for all rows, one panel of columns wide. */
static void NAME(panel)(const T *x, const ptrdiff_t *from, const struct NAME(run) * run, int runs, const T *u,
                        const struct NAME(end) * end, const ptrdiff_t *to, int o, int columns, int rows) {
    while (rows > 0) {
        int m = rows >= ROWS ? ROWS : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
#define RUN(tile) tile(x, from, run, runs, u, end, to, o, columns)
        if (columns > VL) {
            if (m == ROWS) RUN(FULL_TILE(2));
            else if (m == 4) RUN(NAME(tile_4_2));
            else if (m == 2) RUN(NAME(tile_2_2));
            else RUN(NAME(tile_1_2));
        } else {
            if (m == ROWS) RUN(FULL_TILE(1));
            else if (m == 4) RUN(NAME(tile_4_1));
            else if (m == 2) RUN(NAME(tile_2_1));
            else RUN(NAME(tile_1_1));
        }
        from += m;
        to += m;
        rows -= m;
    }
}

INLINE int NAME(width)(int columns) { return columns > VL ? WIDE : VL; }
INLINE int NAME(panels)(int columns) { return (columns + WIDE - 1) / WIDE; }

/* --- convolution, directly ------------------------------------------------------------------------------------------- */

/* Of the weights DEPTH rows at a time: 16 KiB of a panel. Of the result CHUNK rows, or, where there are no more than FEW of them,
   all at once: then weights are packed as they are needed, else once for all. */
enum { NAME(DEPTH) = 8192 / BYTES, NAME(CHUNK) = 16 * ROWS, NAME(FEW) = 256 };

/* x is the source (N, H, W, K), y the result (N, P, Q, O). */
struct NAME(conv) {
    const T *x, *w, *packed, *b, *add;
    T *y;
    int N, H, W, K, P, Q, O, R, S, backward, relu, row_tasks, panel_tasks;
    struct axis v, h;
};

/* Rows k.. of the packed weights for a panel: those taps and channels of the source, [k][column]. Going back (`backward`)
   the source is dy and the columns are the image's channels: w is turned and transposed. */
static void NAME(pack)(const struct NAME(conv) * c, int panel, int k, int count, T *u) {
    int o = panel * WIDE, n = c->O - o, width = NAME(width)(n), taps = c->R * c->S;
    for (; count--; k++, u += width) {
        const T *w = c->w + (ptrdiff_t)k * c->O + o;
        if (c->backward) w = c->w + ((ptrdiff_t)(taps - 1 - k / c->K) * c->O + o) * c->K + k % c->K;
        else __builtin_prefetch(w + width); /* the next panel's */
        for (int i = 0; i < width; i += VL)
            *(V *)(u + i) = c->backward ? NAME(column)(w + (ptrdiff_t)i * c->K, c->K, n - i) : LOAD(w + i, n - i);
    }
}

static void NAME(pack_task)(void *job, ptrdiff_t task) {
    const struct NAME(conv) *c = job;
    int depth = c->R * c->S * c->K, k = task * 32, count = depth - k < 32 ? depth - k : 32;
    for (int panel = 0; panel < NAME(panels)(c->O); panel++)
        NAME(pack)(c, panel, k, count, (T *)c->packed + (ptrdiff_t)panel * WIDE * depth + (ptrdiff_t)k * NAME(width)(c->O - panel * WIDE));
}

/* The stretches that a pixel of the groups v and h sees; taps that follow one another in memory make one. */
static int NAME(find_runs)(const struct group *v, const struct group *h, int W, int K, int S, struct NAME(run) * run) {
    int runs = 0;
    for (int i = 0; i < v->taps; i++)
        for (int j = 0; j < h->taps; j++) {
            struct NAME(run) next = {((ptrdiff_t)v->step[i] * W + h->step[j]) * K, (v->tap[i] * S + h->tap[j]) * K, K};
            struct NAME(run) *last = run + runs - 1;
            if (runs && last->x + last->length == next.x && last->k + last->length == next.k) last->length += K;
            else run[runs++] = next;
        }
    return runs;
}

/* The first `count` rows from `row` on, of all pixels of a group in all images: where each starts in x and in y. */
static void NAME(place_rows)(const struct group *v, const struct group *h, ptrdiff_t row, int count, int H, int W, int K,
                             int P, int Q, int O, ptrdiff_t *from, ptrdiff_t *to) {
    ptrdiff_t map = (ptrdiff_t)v->places * h->places, n = row / map;
    int i = row % map / h->places, j = row % h->places;
    for (int k = 0; k < count; k++) {
        from[k] = ((n * H + v->source[i]) * W + h->source[j]) * K;
        to[k] = ((n * P + v->place[i]) * Q + h->place[j]) * O;
        if (++j == h->places) {
            j = 0;
            if (++i == v->places) i = 0, n++;
        }
    }
}

/* Rows of one class: where they start, what they see, and of that what meets the rows of the weights at hand. */
struct NAME(rows) {
    int count, runs, parts, first, last;
    ptrdiff_t *from, *at, *to;
    struct NAME(run) * run, *part;
    const T *x;
};

/* Set `parts` to what the rows see of the weights' rows k0 .. k1, counted from k0. Where several panels read it and it lies
   scattered, it is copied to `copy`, side by side; how many numbers that took. */
static ptrdiff_t NAME(take)(const struct NAME(conv) * c, struct NAME(rows) * r, int k0, int k1, int scattered, T *copy) {
    int length = 0, parts = r->parts = 0;
    for (int i = 0; i < r->runs; i++) {
        int lo = r->run[i].k > k0 ? r->run[i].k : k0, hi = r->run[i].k + r->run[i].length < k1 ? r->run[i].k + r->run[i].length : k1;
        if (lo < hi) r->part[r->parts++] = (struct NAME(run)){r->run[i].x + lo - r->run[i].k, lo - k0, hi - lo};
    }
    if (!r->parts) return 0;
    r->first = r->run[0].k >= k0;
    r->last = r->run[r->runs - 1].k + r->run[r->runs - 1].length <= k1;
    r->x = c->x;
    memcpy(r->at, r->from, sizeof *r->at * r->count);
    if (!scattered) return 0;
    for (int i = 0; i < r->parts; i++) length += r->part[i].length;
    for (int row = 0; row < r->count; row++) {
        T *p = copy + (r->at[row] = (ptrdiff_t)row * (length + LINE));
        for (int i = 0; i < r->parts; p += r->part[i++].length)
            memcpy(p, c->x + r->from[row] + r->part[i].x, sizeof(T) * r->part[i].length);
    }
    for (int i = 0, x = 0; i < r->parts; i++) { /* what is side by side now, and in the weights, is one */
        struct NAME(run) p = {x, r->part[i].k, r->part[i].length};
        x += p.length;
        if (parts && r->part[parts - 1].k + r->part[parts - 1].length == p.k) r->part[parts - 1].length += p.length;
        else r->part[parts++] = p;
    }
    r->parts = parts;
    r->x = copy;
    return (ptrdiff_t)r->count * (length + LINE);
}

/* Panels p0 .. p1 of the result for these rows, some of the weights' rows at a time. */
static void NAME(convolve)(const struct NAME(conv) * c, struct NAME(rows) * rows, int classes, int p0, int p1, T *copy, T *slab) {
    int depth = c->R * c->S * c->K, scattered = p1 - p0 > 1 && (c->R * c->S > 1 || depth > NAME(DEPTH));
    for (int k = 0; k < depth; k += NAME(DEPTH)) {
        int k1 = k + NAME(DEPTH) < depth ? k + NAME(DEPTH) : depth;
        T *free_copy = copy;
        for (int i = 0; i < classes; i++) free_copy += NAME(take)(c, rows + i, k, k1, scattered, free_copy);
        for (int panel = p0; panel < p1; panel++) {
            int o = panel * WIDE, n = c->O - o < WIDE ? c->O - o : WIDE;
            const T *u = c->packed ? c->packed + (ptrdiff_t)o * depth + (ptrdiff_t)k * NAME(width)(n) : slab;
            if (!c->packed) NAME(pack)(c, panel, k, k1 - k, slab);
            for (struct NAME(rows) *r = rows; r < rows + classes; r++) {
                struct NAME(end) end = {c->y, c->b, c->add, c->relu, r->first, r->last};
                if (r->parts) NAME(panel)(r->x, r->at, r->part, r->parts, u, &end, r->to, o, n, r->count);
            }
        }
    }
}

static void NAME(conv_task)(void *job, ptrdiff_t task) {
    const struct NAME(conv) *c = job;
    int panels = NAME(panels)(c->O), t = task / c->panel_tasks, u = task % c->panel_tasks, taps = c->R * c->S;
    int p0 = (ptrdiff_t)panels * u / c->panel_tasks, p1 = (ptrdiff_t)panels * (u + 1) / c->panel_tasks;
    int classes = c->v.groups * c->h.groups, most = c->packed ? NAME(CHUNK) : NAME(FEW), held = c->packed ? 1 : classes, used = 0;
    ptrdiff_t taken = 3 * sizeof(ptrdiff_t) * most + (sizeof(struct NAME(rows)) + 2 * sizeof(struct NAME(run)) * taps) * held;
    char *memory = scratch(2, sizeof(T) * ((NAME(DEPTH) + LINE) * (most + WIDE)) + taken);
    T *slab = (T *)memory, *copy = slab + NAME(DEPTH) * WIDE;
    struct NAME(rows) *rows = (void *)(copy + (NAME(DEPTH) + LINE) * most);
    struct NAME(run) *run = (void *)(rows + held);
    ptrdiff_t *from = (void *)(run + 2 * taps * held), *at = from + most, *to = at + most;
    for (int class = 0; class < classes; class++) {
        const struct group *v = c->v.group + class / c->h.groups, *h = c->h.group + class % c->h.groups;
        ptrdiff_t all = (ptrdiff_t)c->N * v->places * h->places, end = all * (t + 1) / c->row_tasks;
        for (ptrdiff_t row = all * t / c->row_tasks; row < end; row += most) {
            struct NAME(rows) *r = rows + (c->packed ? 0 : class);
            *r = (struct NAME(rows)){.count = end - row < most ? end - row : most, .run = run + 2 * taps * (r - rows)};
            r->part = r->run + taps, r->from = from + used, r->at = at + used, r->to = to + used;
            r->runs = NAME(find_runs)(v, h, c->W, c->K, c->S, r->run);
            NAME(place_rows)(v, h, row, r->count, c->H, c->W, c->K, c->P, c->Q, c->O, r->from, r->to);
            if (!r->runs) { /* pixels that meet no tap */
                struct NAME(end) nothing = {c->y, c->b, c->add, c->relu, 1, 1};
                for (int p = p0; p < p1; p++)
                    NAME(panel)(c->x, r->from, NULL, 0, c->x, &nothing, r->to, p * WIDE, c->O - p * WIDE < WIDE ? c->O - p * WIDE : WIDE, r->count);
            } else if (c->packed) NAME(convolve)(c, r, 1, p0, p1, copy, slab);
            used += c->packed ? 0 : r->count;
        }
    }
    if (!c->packed) NAME(convolve)(c, rows, classes, p0, p1, copy, slab);
}

/* y = x convolved with w, + b, + add, then ReLU, as far as they are there; or the gradient of the image. */
static void NAME(conv2d)(const union arg *a) {
    enum { X, W, PACKED, B, ADD, Y, N, HEIGHT, WIDTH, K, P, Q, O, R, S, SV, SH, TOP, LEFT, DV, DH, BACKWARD, RELU };
    struct NAME(conv) c = {a[X].p, a[W].p, a[PACKED].p, a[B].p, a[ADD].p, a[Y].p, a[N].i, a[HEIGHT].i, a[WIDTH].i,
                           a[K].i, a[P].i, a[Q].i, a[O].i, a[R].i, a[S].i, a[BACKWARD].i, a[RELU].i};
    c.v = make_axis((struct side){c.H, c.P, c.R, a[SV].i, a[DV].i, a[TOP].i, c.backward});
    c.h = make_axis((struct side){c.W, c.Q, c.S, a[SH].i, a[DH].i, a[LEFT].i, c.backward});
    ptrdiff_t rows = (ptrdiff_t)c.N * c.P * c.Q, depth = (ptrdiff_t)c.R * c.S * c.K;
    int panels = NAME(panels)(c.O), few = rows <= NAME(FEW) && !c.packed, most = few ? 1 : 4 * pool.size;
    c.row_tasks = rows / 256 < 1 ? 1 : rows / 256 < most ? rows / 256 : most;
    int rest = few ? pool.size : (most + c.row_tasks - 1) / c.row_tasks;
    c.panel_tasks = rest < panels ? rest : panels;
    if (!c.packed && !few) {
        c.packed = scratch(0, sizeof(T) * depth * panels * WIDE);
        share(NAME(pack_task), &c, (depth + 31) / 32);
    }
    share(NAME(conv_task), &c, (ptrdiff_t)c.row_tasks * c.panel_tasks);
    free_axis(&c.v);
    free_axis(&c.h);
}

static void NAME(conv2d_pack)(const union arg *a) {
    enum { W, PACKED, TAPS, K, O };
    struct NAME(conv) c = {.w = a[W].p, .packed = a[PACKED].p, .R = a[TAPS].i, .S = 1, .K = a[K].i, .O = a[O].i};
    share(NAME(pack_task), &c, ((ptrdiff_t)c.R * c.K + 31) / 32);
}

/* --- the gradient of the weights: dw[r, s, c, o] = sum over the pixels under the tap of x[.., c] dy[.., o] ------------- */

enum { NAME(STRIP) = 192, NAME(PIECE) = 240 };

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
    int N, H, W, C, P, Q, O, R, S, slices, groups;
    struct axis v, h;
};

static void NAME(weights_task)(void *job, ptrdiff_t task) {
    const struct NAME(weights) *c = job;
    int slice = task / c->groups, group = task % c->groups, panels = NAME(panels)(c->O);
    int from = (ptrdiff_t)panels * group / c->groups, to = (ptrdiff_t)panels * (group + 1) / c->groups;
    int first = from * WIDE, stop = to * WIDE < c->O ? to * WIDE : c->O, taps = c->R * c->S, depth = taps * c->C;
    T *dw = c->slices > 1 ? c->parts + (ptrdiff_t)slice * depth * c->O : c->dw;
    int classes = c->v.groups * c->h.groups, alone = classes == 1 && c->v.group->taps * c->h.group->taps == taps;
    for (int k = 0; k < depth && !alone; k++) memset(dw + (ptrdiff_t)k * c->O + first, 0, sizeof(T) * (stop - first));
    T *g = scratch(2, sizeof(T) * NAME(STRIP) * ((to - from) * WIDE + NAME(PIECE) + ROWS) + sizeof(struct NAME(run)) * taps);
    T *packed = g + NAME(STRIP) * (to - from) * WIDE;
    struct NAME(run) *run = (void *)(packed + NAME(STRIP) * (NAME(PIECE) + ROWS));
    int pack = to - from >= 4; /* rows of x are copied where enough panels read the copy */
    for (int class = 0; class < classes; class++) {
        const struct group *v = c->v.group + class / c->h.groups, *h = c->h.group + class % c->h.groups;
        ptrdiff_t rows = (ptrdiff_t)c->N * v->places * h->places, start = rows * slice / c->slices, end = rows * (slice + 1) / c->slices;
        int runs = NAME(find_runs)(v, h, c->W, c->C, c->S, run);
        for (ptrdiff_t row = start; row < end; row += NAME(STRIP)) {
            ptrdiff_t source[NAME(STRIP)], place[NAME(STRIP)];
            int count = end - row < NAME(STRIP) ? end - row : NAME(STRIP), fresh = alone && row == start;
            NAME(place_rows)(v, h, row, count, c->H, c->W, c->C, c->P, c->Q, c->O, source, place);
            for (int panel = from; panel < to; panel++) {
                int n = c->O - panel * WIDE, width = NAME(width)(n);
                T *strip = g + (ptrdiff_t)(panel - from) * WIDE * NAME(STRIP);
                for (int i = 0; i < count; i++, strip += width) {
                    const T *dy = c->dy + place[i] + panel * WIDE;
                    *(V *)strip = LOAD(dy, n);
                    if (width > VL) *(V *)(strip + VL) = LOAD(dy + VL, n - VL);
                }
            }
            for (int r = 0; r < runs; r++)
                for (int k0 = 0; k0 < run[r].length; k0 += NAME(PIECE)) {
                    int k1 = k0 + NAME(PIECE) < run[r].length ? k0 + NAME(PIECE) : run[r].length;
                    const T *x = c->x + run[r].x;
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
                            T *d = dw + (ptrdiff_t)(run[r].k + k) * c->O + o;
                            if (m == ROWS) FULL_OUTER(xs, at, strip, count, d, c->O, fresh, n);
                            else if (m == 4) NAME(outer_4)(xs, at, strip, count, d, c->O, fresh, n);
                            else if (m == 2) NAME(outer_2)(xs, at, strip, count, d, c->O, fresh, n);
                            else NAME(outer_1)(xs, at, strip, count, d, c->O, fresh, n);
                        }
                    }
                }
        }
    }
}

static void NAME(conv2d_weights)(const union arg *a) {
    enum { X, DY, DW, N, HEIGHT, WIDTH, C, P, Q, O, R, S, SV, SH, TOP, LEFT, DV, DH };
    struct NAME(weights) c = {a[X].p, a[DY].p, a[DW].p, NULL, a[N].i, a[HEIGHT].i, a[WIDTH].i,
                              a[C].i, a[P].i, a[Q].i, a[O].i, a[R].i, a[S].i};
    c.v = make_axis((struct side){c.H, c.P, c.R, a[SV].i, a[DV].i, a[TOP].i, 0});
    c.h = make_axis((struct side){c.W, c.Q, c.S, a[SH].i, a[DH].i, a[LEFT].i, 0});
    ptrdiff_t rows = (ptrdiff_t)c.N * c.P * c.Q, panels = NAME(panels)(c.O), size = (ptrdiff_t)c.R * c.S * c.C * c.O;
    ptrdiff_t slices = 16 / panels, enough = rows / 512;
    if (slices > enough) slices = enough;
    c.slices = slices > 1 ? slices : 1; /* of the shape alone: the order of the sum depends on it */
    c.groups = panels < pool.size ? panels : pool.size;
    if (c.slices > 1) c.parts = scratch(0, sizeof(T) * c.slices * size);
    share(NAME(weights_task), &c, (ptrdiff_t)c.slices * c.groups);
    for (int s = 0; c.slices > 1 && s < c.slices; s++)
        for (ptrdiff_t i = 0; i < size; i++) c.dw[i] = s ? c.dw[i] + c.parts[s * size + i] : c.parts[i];
    free_axis(&c.v);
    free_axis(&c.h);
}

/* --- Winograd's F(4x4, 3x3): 36 multiplications for 144 ---------------------------------------------------------------

   A tile of 4x4 outputs sees 6x6 inputs:  y = A^T [(G w G^T) * (B^T x B)] A, summed over the channels; * is cell by cell, so
   that for each of the 36 cells the tiles times the channels are one product. Points 0, +-a, +-b and infinity with
   a = 1/sqrt(2), b = sqrt(2): their rounding is a third of that of the usual 0, +-1, +-2.    A. Lavin, S. Gray, arXiv:1509.09308. The gradients are the transposed maps. */

#define CELLS 36
#define ROOT ((T)1.41421356237309504880)

/* B^T d: six numbers of a row or column of inputs; A^T m: six products to four outputs; and A y: four to six. */
INLINE void NAME(inputs)(const V *d, V *e) {
    V even_a = d[4] - 2 * d[2], odd_a = (d[3] - 2 * d[1]) * (ROOT / 2), even_b = d[4] - d[2] / 2, odd_b = (d[3] - d[1] / 2) * ROOT;
    e[0] = d[0] - (T)2.5 * d[2] + d[4];
    e[1] = even_a + odd_a;
    e[2] = even_a - odd_a;
    e[3] = even_b + odd_b;
    e[4] = even_b - odd_b;
    e[5] = d[1] - (T)2.5 * d[3] + d[5];
}

INLINE void NAME(outputs)(const V *m, V *y) {
    V sum_a = m[1] + m[2], apart_a = (m[1] - m[2]) * (ROOT / 2), sum_b = m[3] + m[4], apart_b = (m[3] - m[4]) * ROOT;
    y[0] = m[0] + sum_a + sum_b;
    y[1] = apart_a + apart_b;
    y[2] = sum_a / 2 + 2 * sum_b;
    y[3] = apart_a / 2 + 2 * apart_b + m[5];
}

INLINE void NAME(outputs_back)(const V *y, V *m) {
    V even_a = y[0] + y[2] / 2, odd_a = (y[1] + y[3] / 2) * (ROOT / 2), even_b = y[0] + 2 * y[2], odd_b = (y[1] + 2 * y[3]) * ROOT;
    m[0] = y[0];
    m[1] = even_a + odd_a;
    m[2] = even_a - odd_a;
    m[3] = even_b + odd_b;
    m[4] = even_b - odd_b;
    m[5] = y[3];
}

/* G g: three taps to six; and its transpose, six to three. */
INLINE void NAME(taps)(const V *g, V *u) {
    V even_a = (g[0] + g[2] / 2) * (T)(-2. / 3), odd_a = g[1] * (ROOT / 2 * (T)(-2. / 3));
    V even_b = (g[0] + 2 * g[2]) * (T)(1. / 6), odd_b = g[1] * (ROOT * (T)(1. / 6));
    u[0] = g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
}

INLINE void NAME(taps_back)(const V *u, V *g) {
    V sum_a = (u[1] + u[2]) * (T)(-2. / 3), sum_b = (u[3] + u[4]) * (T)(1. / 6);
    g[0] = u[0] + sum_a + sum_b;
    g[1] = (u[1] - u[2]) * (ROOT / 2 * (T)(-2. / 3)) + (u[3] - u[4]) * (ROOT * (T)(1. / 6));
    g[2] = sum_a / 2 + 2 * sum_b + u[5];
}

/* `line` over each row of an array (n x n) of vectors, then over each column of what that gives: (m x m). In both, a row lies
   `down` numbers behind the one above, a column `along` numbers behind the one before. */
#define BOTH_WAYS(line, n, m, from, from_down, from_along, to, to_down, to_along)                                       \
    do {                                                                                                                \
        V half_[n][m];                                                                                                  \
        _Pragma("GCC unroll 6") for (int i_ = 0; i_ < n; i_++) {                                                        \
            V in_[n];                                                                                                   \
            _Pragma("GCC unroll 6") for (int j_ = 0; j_ < n; j_++)                                                      \
                in_[j_] = *(const V *)((from) + i_ * (ptrdiff_t)(from_down) + j_ * (ptrdiff_t)(from_along));            \
            line(in_, half_[i_]);                                                                                       \
        }                                                                                                               \
        _Pragma("GCC unroll 6") for (int j_ = 0; j_ < m; j_++) {                                                        \
            V in_[n], out_[m];                                                                                          \
            _Pragma("GCC unroll 6") for (int i_ = 0; i_ < n; i_++) in_[i_] = half_[i_][j_];                             \
            line(in_, out_);                                                                                            \
            _Pragma("GCC unroll 6") for (int i_ = 0; i_ < m; i_++)                                                      \
                *(V *)((to) + i_ * (ptrdiff_t)(to_down) + j_ * (ptrdiff_t)(to_along)) = out_[i_];                       \
        }                                                                                                               \
    } while (0)

struct NAME(tiles) {
    int H, W, top, left, across, each; /* tiles in a row of a map, and in a map */
};

/* Where the size x size pixels of a tile start, and how far apart its rows are, `K` being what is between two pixels of a row;
   a tile that reaches over the edge of the map is copied to `edge`, zeros outside. */
INLINE const T *NAME(find_tile)(const T *x, const struct NAME(tiles) * t, int K, ptrdiff_t tile, const int size, T *edge,
                                ptrdiff_t *down) {
    int n = tile / t->each, i = tile % t->each, h = i / t->across * 4 - t->top, w = i % t->across * 4 - t->left;
    const T *at = x + (((ptrdiff_t)n * t->H + h) * t->W + w) * K;
    *down = (ptrdiff_t)t->W * K;
    if (h >= 0 && w >= 0 && h + size <= t->H && w + size <= t->W) return at;
    for (int r = 0; r < size; r++)
        for (int s = 0; s < size; s++) {
            T *to = edge + ((ptrdiff_t)r * size + s) * K;
            const T *pixel = at + r * *down + s * K;
            int inside = h + r >= 0 && h + r < t->H && w + s >= 0 && w + s < t->W;
            for (int k = 0; k < K; k += VL) *(V *)(to + k) = inside ? *(const V *)(pixel + k) : (V){};
        }
    *down = (ptrdiff_t)size * K;
    return edge;
}

struct NAME(winograd) {
    const T *x, *w, *b, *add;
    T *U, *y;
    int N, H, W, K, P, Q, O, backward, relu, block, blocks, panel_tasks;
    struct NAME(tiles) tiles;
    ptrdiff_t count;
};

enum { NAME(TAKE) = 32 };

/* The numbers of U for a cell of a panel. */
INLINE ptrdiff_t NAME(cell_of)(int K) { return (ptrdiff_t)K * WIDE + LINE; }

/* U (panels, 36, K, columns of a panel) = G w G^T, for a panel and TAKE channels of the source. */
static void NAME(transform_weights)(void *job, ptrdiff_t task) {
    const struct NAME(winograd) *c = job;
    int pieces = (c->K + NAME(TAKE) - 1) / NAME(TAKE), o0 = task / pieces * WIDE, k0 = task % pieces * NAME(TAKE);
    int width = NAME(width)(c->O - o0);
    for (int k = k0; k < k0 + NAME(TAKE) && k < c->K; k++)
        for (int o = o0; o < o0 + width; o += VL) {
            ptrdiff_t cell = NAME(cell_of)(c->K), tap = (ptrdiff_t)c->K * c->O;
            T *to = c->U + o0 / WIDE * CELLS * cell + (ptrdiff_t)k * width + (o - o0), turned[9 * VL];
            const T *from = c->w + (ptrdiff_t)k * c->O + o;
            for (int i = 0; c->backward && i < 9; i++)
                *(V *)(turned + i * VL) = NAME(column)(c->w + ((8 - i) * c->O + o) * (ptrdiff_t)c->K + k, c->K, VL);
            if (c->backward) from = turned, tap = VL;
            BOTH_WAYS(NAME(taps), 3, 6, from, 3 * tap, tap, to, 6 * cell, cell);
        }
}

static void NAME(winograd_task)(void *job, ptrdiff_t task) {
    const struct NAME(winograd) *c = job;
    int block = task / c->panel_tasks, group = task % c->panel_tasks, panels = NAME(panels)(c->O), K = c->K, size = c->block;
    ptrdiff_t first = c->count * block / c->blocks, tiles = c->count * (block + 1) / c->blocks - first;
    ptrdiff_t x_cell = (ptrdiff_t)size * K + LINE, m_cell = (ptrdiff_t)size * WIDE + LINE;
    T *X = scratch(2, sizeof(T) * CELLS * (x_cell + m_cell + K)), *products = X + CELLS * x_cell, *edge = products + CELLS * m_cell;
    for (ptrdiff_t t = 0; t < tiles; t++) {
        ptrdiff_t down;
        const T *from = NAME(find_tile)(c->x, &c->tiles, K, first + t, 6, edge, &down);
        for (int k = 0; k < K; k += VL) BOTH_WAYS(NAME(inputs), 6, 6, from + k, down, K, X + t * K + k, 6 * x_cell, x_cell);
    }
    ptrdiff_t from[size], to[size];
    for (int panel = (ptrdiff_t)panels * group / c->panel_tasks; panel < (ptrdiff_t)panels * (group + 1) / c->panel_tasks; panel++) {
        int o0 = panel * WIDE, width = NAME(width)(c->O - o0);
        const T *U = c->U + panel * CELLS * NAME(cell_of)(K);
        for (int t = 0; t < tiles; t++) from[t] = (ptrdiff_t)t * K, to[t] = (ptrdiff_t)t * width;
        for (int cell = 0; cell < CELLS; cell++) {
            struct NAME(run) run = {0, 0, K};
            struct NAME(end) end = {products + cell * m_cell, NULL, NULL, 0, 1, 1};
            NAME(panel)(X + cell * x_cell, from, &run, 1, U + cell * NAME(cell_of)(K), &end, to, 0, width, tiles);
        }
        for (ptrdiff_t t = 0; t < tiles; t++) {
            int n = (first + t) / c->tiles.each, i = (first + t) % c->tiles.each;
            int p = i / c->tiles.across * 4, q = i % c->tiles.across * 4;
            ptrdiff_t at = (((ptrdiff_t)n * c->P + p) * c->Q + q) * c->O + o0;
            for (int o = 0; o < width; o += VL) {
                T y[16 * VL] __attribute__((aligned(64)));
                const T *m = products + t * width + o;
                int whole = p + 4 <= c->P && q + 4 <= c->Q;
                if (whole && !c->b && !c->add && !c->relu) {
                    BOTH_WAYS(NAME(outputs), 6, 4, m, 6 * m_cell, m_cell, c->y + at + o, c->Q * c->O, c->O);
                    continue;
                }
                BOTH_WAYS(NAME(outputs), 6, 4, m, 6 * m_cell, m_cell, y, 4 * VL, VL);
                for (int r = 0; r < 4 && p + r < c->P; r++)
                    for (int s = 0; s < 4 && q + s < c->Q; s++) {
                        ptrdiff_t pixel = at + ((ptrdiff_t)r * c->Q + s) * c->O + o;
                        V v = *(const V *)(y + (r * 4 + s) * VL);
                        if (c->b) v += *(const V *)(c->b + o0 + o);
                        if (c->add) v += *(const V *)(c->add + pixel);
                        if (c->relu) v = NAME(positive)(v);
                        *(V *)(c->y + pixel) = v;
                    }
            }
        }
    }
}

/* As conv2d, for 3x3 kernels with stride 1 and channels that are multiples of VL. U: made already, or NULL. */
static void NAME(winograd)(const union arg *a) {
    enum { X, WEIGHTS, MADE, B, ADD, Y, N, H, W, K, P, Q, O, TOP, LEFT, BACKWARD, RELU };
    struct NAME(winograd) c = {a[X].p, a[WEIGHTS].p, a[B].p, a[ADD].p, a[MADE].p, a[Y].p, a[N].i, a[H].i, a[W].i,
                               a[K].i, a[P].i, a[Q].i, a[O].i, a[BACKWARD].i, a[RELU].i};
    int panels = NAME(panels)(c.O), across = (c.Q + 3) / 4, down = (c.P + 3) / 4;
    c.tiles = (struct NAME(tiles)){c.H, c.W, a[TOP].i, a[LEFT].i, across, across * down};
    c.count = (ptrdiff_t)c.N * c.tiles.each;
    int most = 10240 / sizeof(T) / c.K / ROWS * ROWS; /* transformed tiles that stay in the cache */
    most = most < 3 * ROWS ? 3 * ROWS : most > 16 * ROWS ? 16 * ROWS : most;
    c.blocks = (c.count + most - 1) / most;
    if (c.blocks > 1 && c.blocks < 8 * pool.size) c.blocks = (c.blocks + pool.size - 1) / pool.size * pool.size;
    if (c.blocks > c.count) c.blocks = c.count;
    c.block = (c.count + c.blocks - 1) / c.blocks;
    int rest = (pool.size + c.blocks - 1) / c.blocks;
    c.panel_tasks = rest < panels ? rest : panels;
    if (!c.U) {
        c.U = scratch(0, sizeof(T) * CELLS * panels * NAME(cell_of)(c.K));
        share(NAME(transform_weights), &c, (ptrdiff_t)panels * ((c.K + NAME(TAKE) - 1) / NAME(TAKE)));
    }
    share(NAME(winograd_task), &c, (ptrdiff_t)c.blocks * c.panel_tasks);
}

static void NAME(winograd_pack)(const union arg *a) {
    enum { WEIGHTS, U, K, O };
    struct NAME(winograd) c = {.w = a[WEIGHTS].p, .U = a[U].p, .K = a[K].i, .O = a[O].i};
    share(NAME(transform_weights), &c, (ptrdiff_t)NAME(panels)(c.O) * ((c.K + NAME(TAKE) - 1) / NAME(TAKE)));
}

/* dw = G^T [sum over tiles of (B^T x B)^T (A dy A^T)] G. A chunk of tiles is transformed by all, X (C / VL, 36, tiles, VL)
   and D (O / VL, 36, tiles, VL); then each task makes some rows and columns of the 36 products and turns them back at
   once, so that transformed gradients never go to memory. */
struct NAME(gradient) {
    const T *x, *dy;
    T *dw, *X, *D;
    int C, O, tiles, more;
    ptrdiff_t first, cell; /* numbers of a cell of X or D */
    struct NAME(tiles) in, out;
};

enum { NAME(SHARE) = 4 };

static void NAME(transform_both)(void *job, ptrdiff_t task) {
    const struct NAME(gradient) *c = job;
    T *edge = scratch(2, sizeof(T) * CELLS * (c->C > c->O ? c->C : c->O));
    for (int t = task * NAME(SHARE); t < (task + 1) * NAME(SHARE) && t < c->tiles; t++) {
        ptrdiff_t down, cell = c->cell;
        const T *from = NAME(find_tile)(c->x, &c->in, c->C, c->first + t, 6, edge, &down);
        for (int k = 0; k < c->C; k += VL)
            BOTH_WAYS(NAME(inputs), 6, 6, from + k, down, c->C, c->X + k / VL * CELLS * cell + t * VL, 6 * cell, cell);
        from = NAME(find_tile)(c->dy, &c->out, c->O, c->first + t, 4, edge, &down);
        for (int o = 0; o < c->O; o += VL)
            BOTH_WAYS(NAME(outputs_back), 4, 6, from + o, down, c->O, c->D + o / VL * CELLS * cell + t * VL, 6 * cell, cell);
    }
}

#define SOME (VL < 4 ? VL : VL < 8 ? 4 : VL / 2) /* rows of a tile here: they divide a vector */

INLINE void NAME(cells)(const struct NAME(gradient) * c, const int nr, const T *x, const T *d, T (*products)[SOME * WIDE]) {
    for (int i = 0; i < CELLS; i++, x += c->cell, d += c->cell) {
        V acc[SOME][2] = {};
        for (int t = 0; t < c->tiles; t++) {
            V v0 = *(const V *)(d + t * VL), v1 = nr > 1 ? *(const V *)(d + CELLS * c->cell + t * VL) : v0;
#pragma GCC unroll 16
            for (int j = 0; j < SOME; j++) {
                acc[j][0] += x[t * VL + j] * v0;
                if (nr > 1) acc[j][1] += x[t * VL + j] * v1;
            }
        }
        for (int j = 0; j < SOME; j++) {
            *(V *)(products[i] + j * WIDE) = acc[j][0];
            if (nr > 1) *(V *)(products[i] + j * WIDE + VL) = acc[j][1];
        }
    }
}

static void NAME(gradient_task)(void *job, ptrdiff_t task) {
    const struct NAME(gradient) *c = job;
    int group = task % (c->C / VL), o0 = task / (c->C / VL) * WIDE, nr = c->O - o0 > VL ? 2 : 1;
    for (int k = 0; k < VL; k += SOME) {
        T products[CELLS][SOME * WIDE] __attribute__((aligned(64)));
        const T *x = c->X + group * CELLS * c->cell + k, *d = c->D + o0 / VL * CELLS * c->cell;
        if (nr > 1) NAME(cells)(c, 2, x, d, products);
        else NAME(cells)(c, 1, x, d, products);
        for (int j = 0; j < SOME; j++)
            for (int o = 0; o < nr * VL; o += VL) {
                T g[9 * VL] __attribute__((aligned(64)));
                BOTH_WAYS(NAME(taps_back), 6, 3, products[0] + j * WIDE + o, 6 * SOME * WIDE, SOME * WIDE, g, 3 * VL, VL);
                for (int tap = 0; tap < 9; tap++) {
                    T *dw = c->dw + ((ptrdiff_t)tap * c->C + group * VL + k + j) * c->O + o0 + o;
                    V sum = *(const V *)(g + tap * VL);
                    if (c->more) sum += *(const V *)dw;
                    *(V *)dw = sum;
                }
            }
    }
}

static void NAME(winograd_weights)(const union arg *a) {
    enum { X, DY, DW, N, H, W, C, P, Q, O, TOP, LEFT };
    struct NAME(gradient) c = {.x = a[X].p, .dy = a[DY].p, .dw = a[DW].p, .C = a[C].i, .O = a[O].i};
    int across = (a[Q].i + 3) / 4, each = across * ((a[P].i + 3) / 4);
    c.in = (struct NAME(tiles)){a[H].i, a[W].i, a[TOP].i, a[LEFT].i, across, each};
    c.out = (struct NAME(tiles)){a[P].i, a[Q].i, 0, 0, across, each};
    ptrdiff_t count = a[N].i * each, most = 24000 / sizeof(T) / (c.C + c.O);
    most = most < 16 ? 16 : most > 256 ? 256 : most;
    if (most > count) most = count;
    c.cell = most * VL + LINE;
    c.X = scratch(0, sizeof(T) * CELLS * c.cell * ((c.C + c.O) / VL));
    c.D = c.X + CELLS * c.cell * (c.C / VL);
    for (c.first = 0; c.first < count; c.first += most, c.more = 1) {
        c.tiles = count - c.first < most ? count - c.first : most;
        share(NAME(transform_both), &c, (c.tiles + NAME(SHARE) - 1) / NAME(SHARE));
        share(NAME(gradient_task), &c, (ptrdiff_t)(c.C / VL) * NAME(panels)(c.O));
    }
}

/* --- passes over memory: x and its like are rows of C channels -------------------------------------------------------- */

enum { NAME(CHANNELS) = 256, NAME(MOST) = 32 };

/* Sums over the rows, channel by channel. What is summed:
     without g:   sum of d and of d^2,     d = x - centre
     with g:      sum of d and of d * (x - centre), where d = g, or g where y > 0; d is written to `kept` where given.
   Blocks of channels and slices of rows are the tasks; in a slice a few rows are summed as T, then added as double. */
struct NAME(sums) {
    const T *x, *g, *y, *centre;
    T *kept;
    int C, blocks, slices;
    ptrdiff_t rows;
    double *parts; /* (slices, 2, C) */
};

/* `wide` vectors of channels from k on, n of whose last one count: side by side, since an addition takes several cycles. */
INLINE void NAME(sum_rows)(const struct NAME(sums) * c, const int wide, const int graded, const int gated, ptrdiff_t row,
                           ptrdiff_t end, int k, const int n, double *sum, double *other) {
    V s[wide], q[wide], centre[wide];
#define EACH_VECTOR _Pragma("GCC unroll 4") for (int i = 0; i < wide; i++)
    EACH_VECTOR s[i] = q[i] = (V){}, centre[i] = c->centre ? LOAD(c->centre + k + i * VL, n) : (V){};
    for (ptrdiff_t at = row * c->C + k; row < end; row++, at += c->C) EACH_VECTOR {
            V x = LOAD(c->x + at + i * VL, n) - centre[i], d = graded ? LOAD(c->g + at + i * VL, n) : x;
            if (gated) {
                d = NAME(gate)(d, LOAD(c->y + at + i * VL, n));
                if (c->kept) STORE(c->kept + at + i * VL, d, n);
            }
            s[i] += d;
            q[i] += d * x;
        }
    EACH_VECTOR for (int j = 0; j < n; j++) sum[k + i * VL + j] += s[i][j], other[k + i * VL + j] += q[i][j];
}

INLINE void NAME(sum_block)(const struct NAME(sums) * c, const int graded, const int gated, ptrdiff_t row, ptrdiff_t end, int k,
                            int k1, double *sum, double *other) {
    for (; k + 4 * VL <= k1; k += 4 * VL) NAME(sum_rows)(c, 4, graded, gated, row, end, k, VL, sum, other);
    for (; k + 2 * VL <= k1; k += 2 * VL) NAME(sum_rows)(c, 2, graded, gated, row, end, k, VL, sum, other);
    for (; k < k1; k += VL) NAME(sum_rows)(c, 1, graded, gated, row, end, k, k1 - k < VL ? k1 - k : VL, sum, other);
}

static void NAME(sums_task)(void *job, ptrdiff_t task) {
    const struct NAME(sums) *c = job;
    int block = task % c->blocks, slice = task / c->blocks, k0 = block * NAME(CHANNELS);
    int k1 = k0 + NAME(CHANNELS) < c->C ? k0 + NAME(CHANNELS) : c->C, step = 8192 / (k1 - k0) > 32 ? 8192 / (k1 - k0) : 32;
    double *sum = c->parts + (ptrdiff_t)slice * 2 * c->C, *other = sum + c->C;
    for (int k = k0; k < k1; k++) sum[k] = other[k] = 0;
    ptrdiff_t end = c->rows * (slice + 1) / c->slices;
    for (ptrdiff_t row = c->rows * slice / c->slices; row < end; row += step) {
        ptrdiff_t stop = row + step < end ? row + step : end;
        if (!c->g) NAME(sum_block)(c, 0, 0, row, stop, k0, k1, sum, other);
        else if (!c->y) NAME(sum_block)(c, 1, 0, row, stop, k0, k1, sum, other);
        else NAME(sum_block)(c, 1, 1, row, stop, k0, k1, sum, other);
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
    for (int i = 0; i < SAMPLE; i++)
        for (int k = 0; k < c.C; k++) centre[k] += c.x[c.rows * i / SAMPLE * c.C + k] / SAMPLE;
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
    const T *x, *add, *beta, *mean, *scale, *g, *y, *slope;
    T *to;
    int C, relu;
    ptrdiff_t rows, step;
};

INLINE void NAME(forward_rows)(const struct NAME(norm) * c, const int normed, ptrdiff_t row, ptrdiff_t end) {
    for (; row < end; row++)
        for (int k = 0; k < c->C; k += VL) {
            int n = c->C - k;
            ptrdiff_t at = row * c->C + k;
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

/* dx = scale * (d - beta - (x - mean) * slope), d = g, or g where y > 0. */
INLINE void NAME(backward_rows)(const struct NAME(norm) * c, const int gated, ptrdiff_t row, ptrdiff_t end) {
    for (; row < end; row++)
        for (int k = 0; k < c->C; k += VL) {
            int n = c->C - k;
            ptrdiff_t at = row * c->C + k;
            V d = LOAD(c->g + at, n);
            if (gated) d = NAME(gate)(d, LOAD(c->y + at, n));
            d -= LOAD(c->beta + k, n) + (LOAD(c->x + at, n) - LOAD(c->mean + k, n)) * LOAD(c->slope + k, n);
            STORE(c->to + at, d * LOAD(c->scale + k, n), n);
        }
}

static void NAME(norm_backward_task)(void *job, ptrdiff_t task) {
    const struct NAME(norm) *c = job;
    ptrdiff_t row = task * c->step, end = row + c->step < c->rows ? row + c->step : c->rows;
    if (c->y) NAME(backward_rows)(c, 1, row, end);
    else NAME(backward_rows)(c, 0, row, end);
}

/* From dy: d = dy, or dy where y > 0, kept where asked for; dbeta = sum d, dgamma = sum d * x_hat, and
   dx = gamma * rstd * (d - dbeta / m - x_hat * dgamma / m), the last two terms in training alone. */
static void NAME(norm_add_relu_backward)(const union arg *a) {
    enum { DY, X, Y, GAMMA, MEAN, RSTD, DX, KEPT, DGAMMA, DBETA, ROWS_, C, TRAINING };
    const T *gamma = a[GAMMA].p, *rstd = a[RSTD].p;
    struct NAME(sums) s = {.x = a[X].p, .g = a[DY].p, .y = a[Y].p, .centre = a[MEAN].p, .kept = a[KEPT].p,
                           .C = a[C].i, .rows = a[ROWS_].i};
    NAME(sum_up)(&s);
    T *dgamma = a[DGAMMA].p, *dbeta = a[DBETA].p, *scale = scratch(0, sizeof(T) * 3 * s.C), *slope = scale + s.C, *mean = slope + s.C;
    for (int k = 0; k < s.C; k++) {
        double m = s.rows, training = a[TRAINING].i;
        dbeta[k] = s.parts[k];
        dgamma[k] = s.parts[s.C + k] * rstd[k];
        scale[k] = gamma[k] * rstd[k];
        mean[k] = training ? s.parts[k] / m : 0;
        slope[k] = training ? s.parts[s.C + k] * rstd[k] * rstd[k] / m : 0;
    }
    struct NAME(norm) c = {.x = s.x, .g = s.kept ? s.kept : s.g, .y = s.kept ? NULL : s.y, .mean = s.centre, .scale = scale,
                           .beta = mean, .slope = slope, .to = a[DX].p, .C = s.C, .rows = s.rows};
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
    int H, W, C, P, Q, R, S, sv, sh, top, left;
};

INLINE int NAME(most)(int a, int b) { return a > b ? a : b; }

#define WINDOW_CELLS                                                                                                    \
    int h0 = p * c->sv - c->top, w0 = q * c->sh - c->left;                                                              \
    for (int h = NAME(most)(h0, 0); h < h0 + c->R && h < c->H; h++)                                                     \
        for (int w = NAME(most)(w0, 0); w < w0 + c->S && w < c->W; w++)

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
    enum { X, Y, N, H, W, C, P, Q, R, S, SV, SH, TOP, LEFT };
    struct NAME(pool) c = {a[X].p, NULL, NULL, a[Y].p, a[H].i, a[W].i, a[C].i, a[P].i,
                           a[Q].i, a[R].i, a[S].i, a[SV].i, a[SH].i, a[TOP].i, a[LEFT].i};
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
                    M wins = (M)(LOAD(c->x + pixel, lanes) == y) & unclaimed;
                    unclaimed &= ~wins;
                    STORE(c->to + pixel, LOAD(c->to + pixel, lanes) + dy * (V)((M)((V){} + 1) & wins), lanes);
                }
            }
}

/* Each dy goes to its window's maximum, of equal ones to the first. */
static void NAME(maxpool_backward)(const union arg *a) {
    enum { DY, X, Y, DX, N, H, W, C, P, Q, R, S, SV, SH, TOP, LEFT };
    struct NAME(pool) c = {a[X].p, a[Y].p, a[DY].p, a[DX].p, a[H].i, a[W].i, a[C].i, a[P].i,
                           a[Q].i, a[R].i, a[S].i, a[SV].i, a[SH].i, a[TOP].i, a[LEFT].i};
    share(NAME(maxpool_backward_task), &c, a[N].i);
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

#define ENTRY(name) NAME(name),
static const kernel_fn NAME(table)[] = {KERNELS(ENTRY)};

#undef T
#undef V
#undef M
#undef FULL_TILE
#undef FULL_OUTER
