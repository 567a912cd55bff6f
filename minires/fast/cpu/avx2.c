/* The kernels for x86 processors with AVX2: sixteen registers. */

#include "module.h"
#include "geometry.h"

#ifdef X86
TARGET("avx2,fma")
#define ISA avx2
#define BYTES 32
#define ROWS 6
#define T float
#include "kernels.c"
#define T double
#include "kernels.c"
TARGET_END
#endif
