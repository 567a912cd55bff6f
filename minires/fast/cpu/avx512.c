/* The kernels for x86 processors with AVX-512: thirty-two registers. */

#include "module.h"
#include "geometry.h"

#ifdef X86
#ifdef MINIRES_WIDE
TARGET("avx2,fma")
#else
TARGET("avx512f,avx512vl,avx512dq,avx512bw,fma")
#endif
#define ISA avx512
#define BYTES 64
#define ROWS 8
#define T float
#include "kernels.c"
#define T double
#include "kernels.c"
TARGET_END
#endif
