/* The ops in C, for one instruction set and one type: read by base.c, avx2.c and avx512.c for each of them. Reading this file is optional:
   minires/ops says the same in NumPy, ops/naive.py in loops, with the same letters. Here are the tiles and the direct
   convolution; winograd.c and passes.c hold the rest.

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

/* From a and b, side by side, the numbers at the places `at`. */
INLINE V NAME(pick)(V a, V b, M at) {
#ifdef __clang__
    V picked;
    for (int i = 0; i < VL; i++) picked[i] = at[i] < VL ? a[at[i]] : b[at[i] - VL];
    return picked;
#else
    return __builtin_shuffle(a, b, at);
#endif
}

/* to[j][i] = from[i][j], a block of VL x VL; rows start `from_step` and `to_step` apart. Quarters change places, then
   quarters of quarters. */
INLINE void NAME(transpose)(const T *from, ptrdiff_t from_step, T *to, ptrdiff_t to_step) {
    V v[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) v[i] = *(const V *)(from + i * from_step);
#pragma GCC unroll 4
    for (int half = VL / 2; half; half /= 2) {
        M upper = {}, lower = {};
#pragma GCC unroll 16
        for (int j = 0; j < VL; j++) upper[j] = j & half ? VL + j - half : j, lower[j] = j & half ? VL + j : j + half;
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) {
            if (i & half) continue;
            V a = v[i], b = v[i + half];
            v[i] = NAME(pick)(a, b, upper);
            v[i + half] = NAME(pick)(a, b, lower);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) *(V *)(to + i * to_step) = v[i];
}

/* max(v, 0), a NaN staying one; and g where y > 0, times 0 elsewhere, as NumPy's dy * (y > 0). */
INLINE V NAME(positive)(V v) { return (V)((M)v & ~(M)(v <= (V){})); }
INLINE V NAME(gate)(V g, V y) { return g * (V)((M)((V){} + 1) & (M)(y > (V){})); }

/* Arrays that are walked side by side start a cache line apart from a multiple of its size: otherwise, with channels that are
   powers of two, they would all fall into the same few places of the cache. */
#define LINE ((int)(64 / sizeof(T)))

INLINE ptrdiff_t NAME(least)(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

#define LOAD NAME(load)
#define STORE NAME(store)

/* Passes take channels in blocks, and several vectors side by side, since an addition takes several cycles. */
enum { NAME(CHANNELS) = 256 };
#define EACH_VECTOR _Pragma("GCC unroll 4") for (int i = 0; i < wide; i++)

/* --- products: the tiles that every convolution is made of ----------------------------------------------------------- */

/* The vectors of a tile of m rows, unrolled, so that they stay in registers. */
#define EACH_ROW _Pragma("GCC unroll 16") for (int j = 0; j < m; j++) _Pragma("GCC unroll 2") for (int i = 0; i < nr; i++)

/* A stretch of numbers side by side in the source, that meets as many rows of the packed weights. */
struct NAME(run) {
    ptrdiff_t x;
    int k, length;
};

/* Weights that are needed soon and may lie in no cache: for each k of a sum `step` more of them are asked for. */
struct NAME(soon) {
    const T *u;
    int step;
};

/* Into the second cache (ask: 2), into the first (1) or not. */
INLINE void NAME(ask_for)(const int ask, const int nr, struct NAME(soon) * soon) {
    if (ask == 2) __builtin_prefetch(soon->u, 0, 2);
    for (int i = 0; ask == 1 && i < nr * VL; i += LINE) __builtin_prefetch(soon->u + i);
    if (ask) soon->u += soon->step;
}

/* acc[j] = sum over k of x[at[j] + k] u[k]: m rows of a result, nr vectors of its columns, kept in registers. */
INLINE void NAME(dot)(const int m, const int nr, const T *x, const ptrdiff_t *at, const struct NAME(run) * run, int runs,
                      const T *u, const int ask, struct NAME(soon) soon, V acc[][2]) {
    EACH_ROW acc[j][i] = (V){};
    for (; runs--; run++) {
        const T *p[ROWS], *v = u + (ptrdiff_t)run->k * nr * VL;
        for (int j = 0; j < m; j++) p[j] = x + at[j] + run->x;
        for (int k = 0; k < run->length; k++, v += nr * VL) {
            NAME(ask_for)(ask, nr, &soon);
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
    int far;       /* its rows lie far apart in memory, and are asked for before the sum begins */
    const T *next; /* the weights that are needed after these, as many; NULL where they lie in the cache */
    int depth;     /* how many rows of weights these are */
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

INLINE void NAME(fetch)(const int m, const struct NAME(end) * end, const ptrdiff_t *at, int o) {
    for (int j = 0; j < m; j++) __builtin_prefetch(end->y + at[j] + o, 1);
    if (end->last && end->add)
        for (int j = 0; j < m; j++) __builtin_prefetch(end->add + at[j] + o);
}

#define TILE(m, nr)                                                                                                     \
    static __attribute__((noinline)) void NAME(tile_##m##_##nr)(                                                        \
        const T *x, const ptrdiff_t *from, const struct NAME(run) * run, int runs, const T *u,                          \
        const struct NAME(end) * end, const ptrdiff_t *to, int o, int columns, struct NAME(soon) soon) {                \
        V acc[m][2];                                                                                                    \
        if (end->far) NAME(fetch)(m, end, to, o);                                                                       \
        if (!end->next) NAME(dot)(m, nr, x, from, run, runs, u, 0, soon, acc);                                          \
        else if (soon.step < WIDE) NAME(dot)(m, nr, x, from, run, runs, u, 2, soon, acc);                               \
        else NAME(dot)(m, nr, x, from, run, runs, u, 1, soon, acc);                                                     \
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

/* y[to[i]] (+)= x[from[i]] u for all rows, one panel of columns wide. Each tile asks for its part of the next weights; a tile
   alone, for which memory is the slower part, for those a page or two ahead. */
static void NAME(panel)(const T *x, const ptrdiff_t *from, const struct NAME(run) * run, int runs, const T *u,
                        const struct NAME(end) * end, const ptrdiff_t *to, int o, int columns, int rows) {
    struct NAME(soon) soon = {rows > ROWS ? end->next : u + 8192 / sizeof(T), WIDE / ((rows + ROWS - 1) / ROWS)};
    while (rows > 0) {
        int m = rows >= ROWS ? ROWS : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
#define RUN(tile) tile(x, from, run, runs, u, end, to, o, columns, soon)
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
        from += m, to += m, rows -= m;
        if (end->next) soon.u += soon.step * end->depth;
    }
}

INLINE int NAME(width)(int columns) { return columns > VL ? WIDE : VL; }
INLINE int NAME(panels)(int columns) { return (columns + WIDE - 1) / WIDE; }

/* --- convolution, directly ------------------------------------------------------------------------------------------- */

/* Of the weights DEPTH rows at a time, 8 to 32 KiB of a panel, which stay in the first cache. Of the result CHUNK rows, or,
   where there are no more than FEW of them, all at once: then weights are packed as they are needed, AHEAD panels at a
   time, else once for all. */
enum { NAME(DEPTH) = 256, NAME(CHUNK) = 8 * ROWS, NAME(FEW) = 512, NAME(AHEAD) = 8 };

/* x is the source (N, H, W, K), y the result (N, P, Q, O). In G groups, K and O are the channels of one, and pixels lie G times
   as far apart. */
struct NAME(conv) {
    const T *x, *w, *packed, *b, *add;
    T *y;
    int N, H, W, K, P, Q, O, R, S, G, backward, relu, row_tasks, panel_tasks;
    struct axis v, h;
};

/* One group's, of the whole convolution. */
static struct NAME(conv) NAME(group_of)(const struct NAME(conv) * c, ptrdiff_t g) {
    struct NAME(conv) own = *c;
    own.x += g * c->K, own.y += g * c->O, own.w += g * (c->backward ? c->K : c->O);
    if (own.b) own.b += g * c->O;
    if (own.add) own.add += g * c->O;
    if (own.packed) own.packed += g * c->R * c->S * c->K * NAME(panels)(c->O) * WIDE;
    return own;
}

/* Rows k.. of the packed weights for a panel: those taps and channels of the source, [k][column]. Going back (`backward`)
   the source is dy and the columns are the image's channels: w is turned and transposed. */
static void NAME(pack)(const struct NAME(conv) * c, int panel, int k, int count, T *u) {
    int o = panel * WIDE, n = c->O - o, width = NAME(width)(n), taps = c->R * c->S;
    ptrdiff_t row = (ptrdiff_t)c->G * (c->backward ? c->K : c->O);
    for (; count > 0; k++, count--, u += width) {
        if (!c->backward) {
            const T *w = c->w + k * row + o;
            __builtin_prefetch(w + width); /* the next panel's */
            for (int i = 0; i < width; i += VL) *(V *)(u + i) = LOAD(w + i, n - i);
            continue;
        }
        const T *w = c->w + ((ptrdiff_t)(taps - 1 - k / c->K) * c->O + o) * row + k % c->K;
        if (n < width || count < VL || k % c->K + VL > c->K) {
            for (int i = 0; i < width; i += VL) *(V *)(u + i) = NAME(column)(w + i * row, row, n - i);
            continue;
        }
        for (int i = 0; i < width; i += VL) NAME(transpose)(w + i * row, row, u + i, width);
        k += VL - 1, count -= VL - 1, u += (VL - 1) * width;
    }
}

static void NAME(pack_task)(void *job, ptrdiff_t task) {
    const struct NAME(conv) *all = job;
    int depth = all->R * all->S * all->K, pieces = (depth + 31) / 32, k = task % pieces * 32, count = depth - k < 32 ? depth - k : 32;
    struct NAME(conv) own = NAME(group_of)(all, task / pieces), *c = &own;
    for (int panel = 0; panel < NAME(panels)(c->O); panel++)
        NAME(pack)(c, panel, k, count, (T *)c->packed + (ptrdiff_t)panel * WIDE * depth + (ptrdiff_t)k * NAME(width)(c->O - panel * WIDE));
}

/* The stretches that a pixel of the groups v and h sees; taps that follow one another in memory make one. */
static int NAME(find_runs)(const struct group *v, const struct group *h, int W, int K, int G, int S, struct NAME(run) * run) {
    int runs = 0;
    for (int i = 0; i < v->taps; i++)
        for (int j = 0; j < h->taps; j++) {
            struct NAME(run) next = {((ptrdiff_t)v->step[i] * W + h->step[j]) * K * G, (v->tap[i] * S + h->tap[j]) * K, K};
            struct NAME(run) *last = run + runs - 1;
            if (runs && last->x + last->length == next.x && last->k + last->length == next.k) last->length += K;
            else run[runs++] = next;
        }
    return runs;
}

/* The first `count` rows from `row` on, of all pixels of a group in all images: where each starts in x and in y, whose pixels
   have K and O numbers. */
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
            int o = panel * WIDE, n = c->O - o < WIDE ? c->O - o : WIDE, ahead = (panel - p0) % NAME(AHEAD);
            const T *u = c->packed ? c->packed + (ptrdiff_t)o * depth + (ptrdiff_t)k * NAME(width)(n) : slab + ahead * NAME(DEPTH) * WIDE;
            if (!c->packed && !ahead) { /* some panels at a time, since their columns lie side by side in memory */
                int rows = c->backward ? k1 - k : 16, end = NAME(least)(p1, panel + NAME(AHEAD));
                for (int i = k; i < k1; i += rows)
                    for (int p = panel; p < end; p++)
                        NAME(pack)(c, p, i, NAME(least)(rows, k1 - i), slab + (p - panel) * NAME(DEPTH) * WIDE + (i - k) * NAME(width)(c->O - p * WIDE));
            }
            const T *next = panel + 1 < p1 ? u + (ptrdiff_t)depth * WIDE : c->packed + ((ptrdiff_t)p0 * depth + k1) * WIDE;
            for (struct NAME(rows) *r = rows; r < rows + classes; r++) {
                struct NAME(end) end = {c->y, c->b, c->add, c->relu, r->first, r->last, 1, c->packed ? next : NULL, k1 - k};
                if (r->parts) NAME(panel)(r->x, r->at, r->part, r->parts, u, &end, r->to, o, n, r->count);
            }
        }
    }
}

static void NAME(conv_task)(void *job, ptrdiff_t task) {
    const struct NAME(conv) *all = job;
    int each = all->row_tasks * all->panel_tasks;
    struct NAME(conv) own = NAME(group_of)(all, task / each), *c = &own;
    int panels = NAME(panels)(c->O), t = task % each / c->panel_tasks, u = task % c->panel_tasks, taps = c->R * c->S;
    int p0 = (ptrdiff_t)panels * u / c->panel_tasks, p1 = (ptrdiff_t)panels * (u + 1) / c->panel_tasks;
    int classes = c->v.groups * c->h.groups, most = c->packed ? NAME(CHUNK) : NAME(FEW), held = c->packed ? 1 : classes, used = 0;
    ptrdiff_t taken = 3 * sizeof(ptrdiff_t) * most + (sizeof(struct NAME(rows)) + 2 * sizeof(struct NAME(run)) * taps) * held;
    char *memory = scratch(2, sizeof(T) * ((NAME(DEPTH) + LINE) * (most + NAME(AHEAD) * WIDE)) + taken);
    T *slab = (T *)memory, *copy = slab + NAME(AHEAD) * NAME(DEPTH) * WIDE;
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
            r->runs = NAME(find_runs)(v, h, c->W, c->K, c->G, c->S, r->run);
            NAME(place_rows)(v, h, row, r->count, c->H, c->W, c->K * c->G, c->P, c->Q, c->O * c->G, r->from, r->to);
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

/* What a panel of so many rows costs for each tap: a tile of fewer rows than ROWS waits for its sums. */
static ptrdiff_t NAME(cost)(ptrdiff_t rows) {
    int rest = rows % ROWS;
    return rows - rest + 4 * ((rest >= 4) + (rest % 4 >= 2) + rest % 2);
}

/* In small maps most pixels see an edge, and fill no tile with those that see the same taps. Where it costs less, the image
   gets zeros around it, and all its pixels see all taps. */
static void NAME(pad)(struct NAME(conv) * c, struct side v, struct side h) {
    ptrdiff_t apart = 0;
    for (int i = 0; i < c->v.groups; i++)
        for (int j = 0; j < c->h.groups; j++) {
            const struct group *a = &c->v.group[i], *b = &c->h.group[j];
            apart += NAME(cost)((ptrdiff_t)c->N * a->places * b->places) * a->taps * b->taps;
        }
    int top, left, strided = c->backward && v.stride * h.stride > 1;
    if (strided || NAME(cost)((ptrdiff_t)c->N * c->P * c->Q) * c->R * c->S >= apart) return;
    v = with_zeros(v, &top), h = with_zeros(h, &left);
    ptrdiff_t pixel = (ptrdiff_t)c->K * c->G, row = h.size * pixel, size = c->N * v.size * row;
    int from = left < 0 ? -left : 0, to = NAME(least)(c->W, h.size - left); /* a crop where padding is negative */
    T *padded = memset(scratch(0, sizeof(T) * size), 0, sizeof(T) * size);
    for (int n = 0; n < c->N; n++)
        for (int i = 0; i < v.size; i++)
            if (i >= top && i < top + c->H && to > from)
                memcpy(padded + (n * v.size + i) * row + (left + from) * pixel,
                       c->x + (((ptrdiff_t)n * c->H + i - top) * c->W + from) * pixel, sizeof(T) * (to - from) * pixel);
    free_axis(&c->v);
    free_axis(&c->h);
    c->x = padded, c->H = v.size, c->W = h.size, c->v = make_axis(v), c->h = make_axis(h);
}

/* y = x convolved with w, + b, + add, then ReLU, as far as they are there; or the gradient of the image. */
static void NAME(conv2d)(const union arg *a) {
    enum { X, W, PACKED, B, ADD, Y, N, HEIGHT, WIDTH, K, P, Q, O, R, S, SV, SH, TOP, LEFT, DV, DH, G, BACKWARD, RELU };
    struct NAME(conv) c = {a[X].p, a[W].p, a[PACKED].p, a[B].p, a[ADD].p, a[Y].p, a[N].i, a[HEIGHT].i, a[WIDTH].i,
                           a[K].i / a[G].i, a[P].i, a[Q].i, a[O].i / a[G].i, a[R].i, a[S].i, a[G].i, a[BACKWARD].i, a[RELU].i};
    struct side v = {c.H, c.P, c.R, a[SV].i, a[DV].i, a[TOP].i, c.backward};
    struct side h = {c.W, c.Q, c.S, a[SH].i, a[DH].i, a[LEFT].i, c.backward};
    c.v = make_axis(v);
    c.h = make_axis(h);
    ptrdiff_t rows = (ptrdiff_t)c.N * c.P * c.Q, depth = (ptrdiff_t)c.R * c.S * c.K;
    if (rows <= NAME(FEW)) NAME(pad)(&c, v, h);
    /* a task for each thread, or, where a loop takes milliseconds, several, since some may be held up */
    int each = (double)rows * depth * c.O < 1 << 28 ? 1 : 4;
    int panels = NAME(panels)(c.O), few = rows <= NAME(FEW) && !c.packed, most = few ? 1 : each * workers();
    c.row_tasks = rows / 256 < 1 ? 1 : rows / 256 < most ? rows / 256 : most;
    int rest = few ? workers() : (most + c.row_tasks - 1) / c.row_tasks;
    if (c.row_tasks % workers()) rest = (rest + workers() - 1) / workers() * workers(); /* as much for each thread */
    c.panel_tasks = rest < panels ? rest : panels;
    if (!c.packed && !few) {
        c.packed = scratch(0, sizeof(T) * depth * panels * WIDE * c.G);
        share(NAME(pack_task), &c, (depth + 31) / 32 * c.G);
    }
    share(NAME(conv_task), &c, (ptrdiff_t)c.row_tasks * c.panel_tasks * c.G);
    free_axis(&c.v);
    free_axis(&c.h);
}

static void NAME(conv2d_pack)(const union arg *a) {
    enum { W, PACKED, TAPS, K, O };
    struct NAME(conv) c = {.w = a[W].p, .packed = a[PACKED].p, .R = a[TAPS].i, .S = 1, .K = a[K].i, .O = a[O].i, .G = 1};
    share(NAME(pack_task), &c, ((ptrdiff_t)c.R * c.K + 31) / 32);
}

/* --- the gradient of the weights: dw[r, s, c, o] = sum over the pixels under the tap of x[.., c] dy[.., o] ------------- */

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
    int from = (ptrdiff_t)panels * group / c->groups, to = (ptrdiff_t)panels * (group + 1) / c->groups, rows = c->N * c->P * c->Q;
    ptrdiff_t source[NAME(STRIP)], place[NAME(STRIP)], step;
    T *strips = scratch(2, sizeof(T) * rows * (to - from) * WIDE);
    for (int class = 0, row = 0; class < c->v.groups * c->h.groups; class++) {
        const struct group *v = c->v.group + class / c->h.groups, *h = c->h.group + class % c->h.groups;
        int count = c->N * v->places * h->places;
        NAME(place_rows)(v, h, 0, count, c->H, c->W, c->C * c->G, c->P, c->Q, row_of_dw, source + row, place + row);
        row += count;
    }
    for (int panel = from; panel < to; panel++)
        NAME(take_columns)(c->dy + among * c->O + panel * WIDE, place, rows, c->O - panel * WIDE, strips + (ptrdiff_t)(panel - from) * WIDE * rows);
    for (int tap = 0; tap < c->R * c->S; tap++)
        for (int k = 0, m; k < c->C; k += m) {
            m = NAME(rows_of)(c->C - k);
            for (int panel = from; panel < to; panel++) {
                int n = c->O - panel * WIDE, fresh = 1;
                const T *strip = strips + (ptrdiff_t)(panel - from) * WIDE * rows;
                T *d = c->dw + ((ptrdiff_t)tap * c->C + k) * row_of_dw + among * c->O + panel * WIDE;
                for (int class = 0, row = 0, count; class < c->v.groups * c->h.groups; class++, row += count) {
                    const struct group *v = c->v.group + class / c->h.groups, *h = c->h.group + class % c->h.groups;
                    int i = find_tap(v, tap / c->S), j = find_tap(h, tap % c->S);
                    count = c->N * v->places * h->places;
                    if (i < 0 || j < 0) continue;
                    step = ((ptrdiff_t)v->step[i] * c->W + h->step[j]) * c->C * c->G;
                    NAME(outer_rows)(m, c->x + among * c->C + step + k, source + row, strip + (ptrdiff_t)row * NAME(width)(n), count, d, row_of_dw, fresh, n);
                    fresh = 0;
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

#include "winograd.c"
#include "depthwise.c"
#include "passes.c"

#define ENTRY(name) NAME(name),
const kernel_fn NAME(table)[] = {KERNELS(ENTRY)};
#undef ENTRY

#undef T
#undef V
#undef M
#undef FULL_TILE
#undef FULL_OUTER
