/* What the module and the kernels know of one another. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* work(job, task) for every task, by all threads; where these are taken, as inside a task, by the caller alone. */
typedef void (*work_fn)(void *job, ptrdiff_t task);
void share(work_fn work, void *job, ptrdiff_t tasks);

/* How many threads share a loop. */
int workers(void);

/* Memory that a thread keeps for its next kernel: for a whole kernel (slots 0, 1), a task that shares loops itself (1), a task (2). */
void *scratch(int slot, size_t size);

/* A kernel takes its arguments as a row of these. */
union arg {
    void *p;     /* an array, or NULL for None */
    ptrdiff_t i; /* an int */
    double f;    /* a float */
};

typedef void (*kernel_fn)(const union arg *args);

#define KERNELS(X)                                                                                                      \
    X(conv2d) X(conv2d_pack) X(conv2d_weights) X(winograd) X(winograd_pack) X(winograd_weights) X(depthwise)            \
    X(depthwise_weights) X(statistics) X(norm_add_relu) X(norm_add_relu_backward) X(norm_sums) X(norm_dx) X(sums)       \
    X(relu_backward) X(maxpool) X(maxpool_backward) X(avgpool) X(square_sum) X(sgd) X(adam)

#define INLINE static inline __attribute__((always_inline))
#define JOIN_(name, isa, type) name##_##isa##_##type
#define JOIN(name, isa, type) JOIN_(name, isa, type)
#define NAME(name) JOIN(name, ISA, T)

/* For tests: MINIRES_BASE compiles what other processors get; MINIRES_WIDE, from AVX2 on, with AVX-512's code in AVX2's
   instructions. */
#if defined(__x86_64__) && !defined(MINIRES_BASE)
#define X86
#endif

/* From here to TARGET_END functions may use what `list` names. */
#define PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define TARGET(list) PRAGMA(clang attribute push(__attribute__((target(list))), apply_to = function))
#define TARGET_END PRAGMA(clang attribute pop)
#else
#define TARGET(list) PRAGMA(GCC target(list))
#define TARGET_END
#endif

/* The tables of the kernels, in that order: of base.c, avx2.c, avx512.c. */
#define TABLES(isa) extern const kernel_fn table_##isa##_float[], table_##isa##_double[];
#ifdef X86
TABLES(sse2) TABLES(avx2) TABLES(avx512)
#else
TABLES(base)
#endif
