/* The ops in C, for one instruction set and one type: read by base.c, avx2.c and avx512.c for each of them. Reading this
   file is optional: minires/ops says the same in NumPy, ops/naive.py in loops, with the same letters. Here are the tiles
   that all convolutions are made of; what it includes at its end holds the rest.

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

/* acc[j] = sum over k of x[at[j] + k] u[k]: m rows of a result, nr vectors of its columns, kept in registers; meanwhile
   weights that come soon are on their way from memory. */
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

#include "convolution.c"
#include "weights.c"
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
