/* The kernels for any processor; on x86 with SSE2, which all of those have. */

#include "module.h"
#include "geometry.h"

#ifndef MINIRES_WIDE
#ifdef X86
#define ISA sse2
#define ROWS 6
#else
#define ISA base
#define ROWS 8
#endif
#define BYTES 16
#define T float
#include "kernels.c"
#define T double
#include "kernels.c"
#endif
