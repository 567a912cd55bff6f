/* Winograd's F(4x4, 3x3): 36 multiplications for 144. Part of kernels.c.

   A tile of 4x4 outputs sees 6x6 inputs:  y = A^T [(G w G^T) * (B^T x B)] A, summed over the channels; * is cell by cell, so
   that for each of the 36 cells the tiles times the channels are one product. Points 0, +-a, +-b and infinity with
   a = 1/sqrt(2), b = sqrt(2): they round less than the usual 0, +-1, +-2 (lesson 14 derives the matrices and measures it).
   The gradients are the transposed maps. A. Lavin, S. Gray, arXiv:1509.09308. */

#define CELLS 36
#define SHORT 16
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

/* Image and first output of a tile; from one tile to the next without a division, which takes as long as a transform. */
struct NAME(spot) {
    int n, p, q;
};

INLINE struct NAME(spot) NAME(spot_of)(const struct NAME(tiles) * t, ptrdiff_t tile) {
    int i = tile % t->each;
    return (struct NAME(spot)){tile / t->each, i / t->across * 4, i % t->across * 4};
}

INLINE void NAME(next)(const struct NAME(tiles) * t, struct NAME(spot) * at) {
    if ((at->q += 4) < 4 * t->across) return;
    at->q = 0;
    if ((at->p += 4) * t->across < 4 * t->each) return;
    at->p = 0;
    at->n++;
}

/* Where the size x size pixels of a tile start, and how far apart its rows are, `K` being what is between two pixels of a row;
   a tile that reaches over the edge of the map is copied to `edge`, zeros outside. */
INLINE const T *NAME(find_tile)(const T *x, const struct NAME(tiles) * t, int K, struct NAME(spot) spot, const int size, T *edge,
                                ptrdiff_t *down) {
    int h = spot.p - t->top, w = spot.q - t->left;
    const T *at = x + (((ptrdiff_t)spot.n * t->H + h) * t->W + w) * K;
    *down = (ptrdiff_t)t->W * K;
    for (int r = size; r < size + 4; r++) /* ask for what the tile below will need */
        for (int k = 0; k < 4 * K; k += LINE) __builtin_prefetch(at + r * *down + k);
    if (h >= 0 && w >= 0 && h + size <= t->H && w + size <= t->W) return at;
    int from = w < 0 ? -w * K : 0, end = (w + size <= t->W ? size : t->W - w) * K; /* of a row: what is inside the map */
    for (int r = 0; r < size; r++, at += *down) {
        T *row = edge + (ptrdiff_t)r * size * K;
        int inside = h + r >= 0 && h + r < t->H, k = 0, stop = inside ? from : size * K;
        for (; k < stop; k += VL) *(V *)(row + k) = (V){};
        for (; inside && k < end; k += VL) *(V *)(row + k) = *(const V *)(at + k);
        for (; k < size * K; k += VL) *(V *)(row + k) = (V){};
    }
    *down = (ptrdiff_t)size * K;
    return edge;
}

/* y = x u for rows of SHORT numbers side by side: so few that a loop over them and a pointer for each row would take as long as
   the sums. */
INLINE void NAME(short_rows)(const int m, const int nr, const T *x, const T *u, T *y) {
    V acc[m][2];
    EACH_ROW acc[j][i] = (V){};
#pragma GCC unroll 16
    for (int k = 0; k < SHORT; k++) EACH_ROW acc[j][i] += x[j * SHORT + k] * *(const V *)(u + (k * nr + i) * VL);
    EACH_ROW *(V *)(y + (j * nr + i) * VL) = acc[j][i];
}

INLINE void NAME(short_sums)(const int nr, const T *x, const T *u, T *y, ptrdiff_t rows) {
    const int m = nr > 1 ? ROWS : 2 * ROWS;
    for (; rows >= m; rows -= m, x += m * SHORT, y += m * nr * VL) NAME(short_rows)(m, nr, x, u, y);
    for (; rows > 0; rows--, x += SHORT, y += nr * VL) NAME(short_rows)(1, nr, x, u, y);
}

static __attribute__((noinline)) void NAME(short_panel)(int width, const T *x, const T *u, T *y, ptrdiff_t rows) {
    if (width > VL) NAME(short_sums)(2, x, u, y, rows);
    else NAME(short_sums)(1, x, u, y, rows);
}

struct NAME(winograd) {
    const T *x, *w, *b, *add;
    T *U, *y;
    int N, H, W, K, P, Q, O, backward, relu, block, blocks, panel_tasks;
    struct NAME(tiles) tiles;
    ptrdiff_t count;
};

enum { NAME(TAKE) = 32, NAME(AT_ONCE) = 128 };

/* The numbers of U for a cell of a panel. */
INLINE ptrdiff_t NAME(cell_of)(int K) { return (ptrdiff_t)K * WIDE + LINE; }

/* U (36, k1 - k0, columns of a panel) = G w G^T for some rows of a panel, `cell` numbers to each of the 36. */
static void NAME(transform_panel)(const struct NAME(winograd) * c, int panel, int k0, int k1, T *U, ptrdiff_t cell) {
    int o0 = panel * WIDE, width = NAME(width)(c->O - o0);
    ptrdiff_t tap = (ptrdiff_t)c->K * c->O;
    T turned[9 * VL * VL] __attribute__((aligned(64)));
    for (int o = o0; o < o0 + width; o += VL)
        for (int k = k0; k < k1; k++) {
            T *to = U + (ptrdiff_t)(k - k0) * width + (o - o0);
            const T *from = turned + k % VL * VL;
            if (!c->backward) {
                BOTH_WAYS(NAME(taps), 3, 6, c->w + (ptrdiff_t)k * c->O + o, 3 * tap, tap, to, 6 * cell, cell);
                continue;
            }
            for (int i = 0; k % VL == 0 && i < 9; i++)
                NAME(transpose)(c->w + ((8 - i) * c->O + o) * (ptrdiff_t)c->K + k, c->K, turned + i * VL * VL, VL);
            BOTH_WAYS(NAME(taps), 3, 6, from, 3 * VL * VL, VL * VL, to, 6 * cell, cell);
        }
}

/* All panels, TAKE rows of one to a task. */
static void NAME(transform_weights)(void *job, ptrdiff_t task) {
    const struct NAME(winograd) *c = job;
    int pieces = (c->K + NAME(TAKE) - 1) / NAME(TAKE), panel = task / pieces, k0 = task % pieces * NAME(TAKE);
    int k1 = k0 + NAME(TAKE) < c->K ? k0 + NAME(TAKE) : c->K;
    ptrdiff_t cell = NAME(cell_of)(c->K);
    T *U = c->U + panel * CELLS * cell + (ptrdiff_t)k0 * NAME(width)(c->O - panel * WIDE);
    NAME(transform_panel)(c, panel, k0, k1, U, cell);
}

static void NAME(winograd_task)(void *job, ptrdiff_t task) {
    const struct NAME(winograd) *c = job;
    int block = task / c->panel_tasks, group = task % c->panel_tasks, panels = NAME(panels)(c->O), K = c->K, size = c->block;
    ptrdiff_t first = c->count * block / c->blocks, tiles = c->count * (block + 1) / c->blocks - first;
    ptrdiff_t x_cell = (ptrdiff_t)size * K + LINE, m_cell = (ptrdiff_t)size * WIDE + LINE;
    ptrdiff_t cell_of_U = NAME(cell_of)(c->U ? K : NAME(least)(K, NAME(AT_ONCE)));
    ptrdiff_t own = c->U ? 0 : cell_of_U; /* some rows of a panel's weights, which stay in the cache of the core that uses them */
    T *X = scratch(2, sizeof(T) * CELLS * (x_cell + m_cell + K + own)), *products = X + CELLS * x_cell;
    T *edge = products + CELLS * m_cell, *transformed = edge + CELLS * K;
    struct NAME(spot) start = NAME(spot_of)(&c->tiles, first), spot = start;
    for (ptrdiff_t t = 0; t < tiles; t++, NAME(next)(&c->tiles, &spot)) {
        ptrdiff_t down;
        const T *from = NAME(find_tile)(c->x, &c->tiles, K, spot, 6, edge, &down);
        for (int k = 0; k < K; k += VL) BOTH_WAYS(NAME(inputs), 6, 6, from + k, down, K, X + t * K + k, 6 * x_cell, x_cell);
    }
    ptrdiff_t from[size], to[size];
    for (int panel = (ptrdiff_t)panels * group / c->panel_tasks; panel < (ptrdiff_t)panels * (group + 1) / c->panel_tasks; panel++) {
        int o0 = panel * WIDE, width = NAME(width)(c->O - o0);
        for (int t = 0; t < tiles; t++) from[t] = (ptrdiff_t)t * K, to[t] = (ptrdiff_t)t * width;
        for (int k = 0; k < K; k += NAME(AT_ONCE)) {
            int k1 = NAME(least)(K, k + NAME(AT_ONCE));
            const T *U = c->U ? c->U + panel * CELLS * cell_of_U + (ptrdiff_t)k * width : transformed;
            if (!c->U) NAME(transform_panel)(c, panel, k, k1, transformed, cell_of_U);
            for (int cell = 0; cell < CELLS; cell++) {
                struct NAME(run) run = {k, 0, k1 - k};
                struct NAME(end) end = {products + cell * m_cell, NULL, NULL, 0, k == 0, 1};
                if (K == SHORT) NAME(short_panel)(width, X + cell * x_cell, U + cell * cell_of_U, products + cell * m_cell, tiles);
                else NAME(panel)(X + cell * x_cell, from, &run, 1, U + cell * cell_of_U, &end, to, 0, width, tiles);
            }
        }
        spot = start;
        for (ptrdiff_t t = 0; t < tiles; t++, NAME(next)(&c->tiles, &spot)) {
            int p = spot.p, q = spot.q;
            ptrdiff_t at = (((ptrdiff_t)spot.n * c->P + p) * c->Q + q) * c->O + o0;
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
    /* weights that no cache holds are transformed where they are used, for as many tiles at once as possible */
    int many = NAME(least)(128, 32768 / c.K);
    if (many < most) many = most;
    int large = !c.U && (ptrdiff_t)c.K * c.O > 20000 && (c.count + many - 1) / many * panels >= 2 * workers();
    if (large) most = many;
    c.blocks = (c.count + most - 1) / most;
    if ((c.blocks > 1 || panels < workers()) && c.blocks < 8 * workers()) c.blocks = (c.blocks + workers() - 1) / workers() * workers();
    if (c.blocks > c.count) c.blocks = c.count;
    c.block = (c.count + c.blocks - 1) / c.blocks;
    int rest = (workers() + c.blocks - 1) / c.blocks;
    c.panel_tasks = rest < panels ? rest : panels;
    if (!c.U && c.blocks > 1 && !large) {
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

/* dw = G^T [sum over tiles of (B^T x B)^T (A dy A^T)] G. A chunk of tiles is transformed, X (C / VL, 36, tiles, VL) and
   D (O / VL, 36, tiles, VL); then each task makes some rows and columns of the 36 products and turns them back at once, so
   that transformed gradients never go to memory. Where there are many tiles each slice of them has a sum of its own and
   stays with one core, in whose cache the chunks live; where there are few, all cores share each chunk. */
struct NAME(gradient) {
    const T *x, *dy;
    T *dw, *X, *D;
    int C, O, tiles, more, slices, chunks; /* tiles of a chunk, chunks of a slice */
    ptrdiff_t count, first, cell;          /* all tiles, the first of a chunk; numbers of a cell of X or D */
    struct NAME(tiles) in, out;
};

enum { NAME(SHARE) = 4 };

static void NAME(transform_both)(void *job, ptrdiff_t task) {
    const struct NAME(gradient) *c = job;
    T *edge = scratch(2, sizeof(T) * CELLS * (c->C > c->O ? c->C : c->O));
    int t = task * NAME(SHARE), end = NAME(least)(t + NAME(SHARE), c->tiles);
    for (struct NAME(spot) spot = NAME(spot_of)(&c->in, c->first + t); t < end; t++, NAME(next)(&c->in, &spot)) {
        ptrdiff_t down, cell = c->cell;
        const T *from = NAME(find_tile)(c->x, &c->in, c->C, spot, 6, edge, &down);
        for (int k = 0; k < c->C; k += VL)
            BOTH_WAYS(NAME(inputs), 6, 6, from + k, down, c->C, c->X + k / VL * CELLS * cell + t * VL, 6 * cell, cell);
        from = NAME(find_tile)(c->dy, &c->out, c->O, spot, 4, edge, &down);
        for (int o = 0; o < c->O; o += VL)
            BOTH_WAYS(NAME(outputs_back), 4, 6, from + o, down, c->O, c->D + o / VL * CELLS * cell + t * VL, 6 * cell, cell);
    }
}

#define CELL_ROWS (VL < 4 ? VL : VL < 8 ? 4 : VL / 2) /* rows of a tile here: they divide a vector */

INLINE void NAME(cells)(const struct NAME(gradient) * c, const int nr, const T *x, const T *d, T (*products)[CELL_ROWS * WIDE]) {
    for (int i = 0; i < CELLS; i++, x += c->cell, d += c->cell) {
        V acc[CELL_ROWS][2] = {};
        for (int t = 0; t < c->tiles; t++) {
            V v0 = *(const V *)(d + t * VL), v1 = nr > 1 ? *(const V *)(d + CELLS * c->cell + t * VL) : v0;
#pragma GCC unroll 16
            for (int j = 0; j < CELL_ROWS; j++) {
                acc[j][0] += x[t * VL + j] * v0;
                if (nr > 1) acc[j][1] += x[t * VL + j] * v1;
            }
        }
        for (int j = 0; j < CELL_ROWS; j++) {
            *(V *)(products[i] + j * WIDE) = acc[j][0];
            if (nr > 1) *(V *)(products[i] + j * WIDE + VL) = acc[j][1];
        }
    }
}

static void NAME(gradient_task)(void *job, ptrdiff_t task) {
    const struct NAME(gradient) *c = job;
    int group = task % (c->C / VL), o0 = task / (c->C / VL) * WIDE, nr = c->O - o0 > VL ? 2 : 1;
    for (int k = 0; k < VL; k += CELL_ROWS) {
        T products[CELLS][CELL_ROWS * WIDE] __attribute__((aligned(64)));
        const T *x = c->X + group * CELLS * c->cell + k, *d = c->D + o0 / VL * CELLS * c->cell;
        if (nr > 1) NAME(cells)(c, 2, x, d, products);
        else NAME(cells)(c, 1, x, d, products);
        for (int j = 0; j < CELL_ROWS; j++)
            for (int o = 0; o < nr * VL; o += VL) {
                T g[9 * VL] __attribute__((aligned(64)));
                BOTH_WAYS(NAME(taps_back), 6, 3, products[0] + j * WIDE + o, 6 * CELL_ROWS * WIDE, CELL_ROWS * WIDE, g, 3 * VL, VL);
                for (int tap = 0; tap < 9; tap++) {
                    T *dw = c->dw + ((ptrdiff_t)tap * c->C + group * VL + k + j) * c->O + o0 + o;
                    V sum = *(const V *)(g + tap * VL);
                    if (c->more) sum += *(const V *)dw;
                    *(V *)dw = sum;
                }
            }
    }
}

static void NAME(gradient_slice)(void *job, ptrdiff_t slice) {
    struct NAME(gradient) c = *(struct NAME(gradient) *)job;
    ptrdiff_t chunks = c.chunks * c.slices;
    c.dw += slice * 9 * c.C * c.O;
    c.X = scratch(1, sizeof(T) * c.cell * CELLS * ((c.C + c.O) / VL));
    c.D = c.X + CELLS * c.cell * (c.C / VL);
    for (ptrdiff_t chunk = slice * c.chunks; chunk < (slice + 1) * c.chunks; chunk++, c.more = 1) {
        c.first = c.count * chunk / chunks;
        c.tiles = c.count * (chunk + 1) / chunks - c.first;
        share(NAME(transform_both), &c, (c.tiles + NAME(SHARE) - 1) / NAME(SHARE));
        share(NAME(gradient_task), &c, (ptrdiff_t)(c.C / VL) * NAME(panels)(c.O));
    }
}

static void NAME(winograd_weights)(const union arg *a) {
    enum { X, DY, DW, N, H, W, C, P, Q, O, TOP, LEFT };
    struct NAME(gradient) c = {.x = a[X].p, .dy = a[DY].p, .dw = a[DW].p, .C = a[C].i, .O = a[O].i, .slices = 1};
    int across = (a[Q].i + 3) / 4, each = across * ((a[P].i + 3) / 4), best = 24000 / sizeof(T) / (c.C + c.O);
    c.in = (struct NAME(tiles)){a[H].i, a[W].i, a[TOP].i, a[LEFT].i, across, each};
    c.out = (struct NAME(tiles)){a[P].i, a[Q].i, 0, 0, across, each};
    c.count = a[N].i * each;
    best = best < 24 ? 24 : best > 256 ? 256 : best;
    /* of the shape alone: the order of the sum depends on it */
    while (c.slices < 16 && c.count > c.slices * best * 3 / 2) c.slices *= 2;
    c.chunks = (c.count + c.slices * best / 2) / (c.slices * best);
    if (!c.chunks) c.chunks = 1;
    c.cell = (c.count / (c.slices * c.chunks) + 1) * VL + LINE;
    if (c.slices > 1) c.dw = scratch(0, sizeof(T) * c.slices * 9 * c.C * c.O);
    share(NAME(gradient_slice), &c, c.slices);
    if (c.slices > 1) NAME(add_parts)(c.dw, c.slices, (ptrdiff_t)9 * c.C * c.O, a[DW].p);
}
