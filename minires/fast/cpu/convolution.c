/* Convolution, directly: forward, and the gradient of the image. Part of kernels.c. */

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
