/* The compiled kernels as a Python module: threads that share their loops, and one table for each instruction set.

   kernels.c holds the maths. base.c, avx2.c and avx512.c read it, once for each type; which of them runs is decided when
   the module is loaded. A kernel takes its arguments as a row of pointers and numbers: who calls it from Python, in
   minires/fast/cpu, has seen to shapes, types and contiguity; that every array is contiguous and of one type is
   checked once more. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "module.h"

/* --- threads ---------------------------------------------------------------------------------------------------------

   One pool for all kernels: whoever is free takes the next task of a loop. Where tasks add up, they are divided by the
   loop's shape alone, so that results do not depend on how many threads there are. Between two loops the threads look for
   work for a while, since the next layer follows within microseconds, then sleep. A second Python thread that comes
   meanwhile works alone. */

enum { MOST_WORKERS = 256, SPINS = 2000, YIELDS = 200, TASKS = 1 << 20 };

static struct {
    pthread_mutex_t owner, lock; /* whose loop it is; of `wake` and `asleep` */
    pthread_cond_t wake;
    pthread_t threads[MOST_WORKERS];
    _Atomic int size; /* how many share a loop, the caller among them: kernels read it while another caller may set it */
    int started, asleep, stop;
    work_fn work;
    void *job;
    _Atomic uint64_t ticket; /* the loop's number, its tasks and the next of them, 20 bits each of the latter two */
    _Atomic uint32_t done;
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .size = 1};

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline int tasks_left(uint64_t ticket) { return (ticket & (TASKS - 1)) < (ticket >> 20 & (TASKS - 1)); }

/* Take tasks until there are no more; whether there was one. The ticket says how many the loop has, so that one who comes
   late never takes the number of one loop for the tasks of the next. */
static int take_tasks(void) {
    int some = 0;
    for (;;) {
        uint64_t ticket = atomic_load_explicit(&pool.ticket, memory_order_acquire);
        if (!tasks_left(ticket)) return some;
        if (!atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket + 1)) continue;
        pool.work(pool.job, ticket & (TASKS - 1));
        atomic_fetch_add_explicit(&pool.done, 1, memory_order_release);
        some = 1;
    }
}

static void *serve(void *unused) {
    for (int spins = 0;;) {
        if (take_tasks()) spins = 0;
        if (++spins < SPINS) pause_briefly();
        else if (spins < SPINS + YIELDS) sched_yield();
        else {
            pthread_mutex_lock(&pool.lock);
            uint64_t ticket = atomic_load(&pool.ticket);
            pool.asleep++;
            while (!pool.stop && !tasks_left(ticket) && atomic_load(&pool.ticket) == ticket) pthread_cond_wait(&pool.wake, &pool.lock);
            pool.asleep--;
            int stop = pool.stop;
            pthread_mutex_unlock(&pool.lock);
            if (stop) return NULL;
            spins = 0;
        }
    }
}

static void start_workers(void) {
    while (pool.started < pool.size - 1) {
        if (pthread_create(&pool.threads[pool.started], NULL, serve, NULL)) break;
        pool.started++;
    }
}

static void stop_workers(void) {
    pthread_mutex_lock(&pool.lock);
    pool.stop = 1;
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < pool.started; i++) pthread_join(pool.threads[i], NULL);
    pool.started = pool.stop = 0;
}

void share(work_fn work, void *job, ptrdiff_t tasks) {
    if (tasks <= 1 || tasks >= TASKS || pool.size == 1 || pthread_mutex_trylock(&pool.owner)) {
        for (ptrdiff_t task = 0; task < tasks; task++) work(job, task);
        return;
    }
    start_workers();
    pool.work = work;
    pool.job = job;
    atomic_store(&pool.done, 0);
    uint64_t number = (atomic_load(&pool.ticket) >> 40) + 1;
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.ticket, number << 40 | (uint64_t)tasks << 20);
    if (pool.asleep) pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    take_tasks();
    for (int spins = 0; atomic_load_explicit(&pool.done, memory_order_acquire) < tasks;) {
        if (++spins < SPINS) pause_briefly();
        else sched_yield();
    }
    pthread_mutex_unlock(&pool.owner);
}

/* In a forked child only the thread that forked lives on: another one's loop, and what was left of it, are gone. */
static void after_fork(void) {
    pthread_mutex_init(&pool.owner, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.started = pool.asleep = pool.stop = 0;
    atomic_store(&pool.ticket, 0);
}

int workers(void) { return pool.size; }

struct scratch {
    void *memory;
    size_t size;
};

#ifdef __SANITIZE_ADDRESS__ /* no room to spare, where a mistake would go unseen */
enum { EXACT = 1 };
#else
enum { EXACT = 0 };
#endif

static pthread_key_t scratch_key;

static void free_scratch(void *slots) {
    for (int i = 0; i < 3; i++) free(((struct scratch *)slots)[i].memory);
    free(slots);
}

void *scratch(int slot, size_t size) {
    struct scratch *slots = pthread_getspecific(scratch_key);
    if (!slots) {
        slots = calloc(3, sizeof *slots);
        pthread_setspecific(scratch_key, slots);
    }
    if (slots[slot].size < size || EXACT) {
        free(slots[slot].memory);
        if (!EXACT) size += size / 4;
        slots[slot].size = size;
        if (posix_memalign(&slots[slot].memory, 4096, size)) Py_FatalError("minires: no memory for a kernel's scratch");
    }
    return slots[slot].memory;
}

/* --- the kernels, once for each instruction set and type ------------------------------------------------------------ */

enum { KERNEL_COUNT = 0
#define COUNT(name) +1
       KERNELS(COUNT)
};

static const struct isa {
    const char *name;
    const kernel_fn *tables[2]; /* float, double */
} isas[] = {
#ifdef X86
#ifndef MINIRES_WIDE
    {"sse2", {table_sse2_float, table_sse2_double}},
#endif
    {"avx2", {table_avx2_float, table_avx2_double}},
    {"avx512", {table_avx512_float, table_avx512_double}},
#else
    {"base", {table_base_float, table_base_double}},
#endif
};

enum { ISA_COUNT = sizeof isas / sizeof *isas };

static const struct isa *chosen = isas;

/* How many of `isas`, from the first on, this processor has. */
static int known_isas(void) {
#if defined(X86) && !defined(MINIRES_WIDE)
    __builtin_cpu_init(); /* not every compiler's library does so by itself */
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 1;
    int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw");
    return wide ? 3 : 2;
#else
    return ISA_COUNT;
#endif
}

/* --- the module -------------------------------------------------------------------------------------------------------- */

enum { MOST_ARGS = 32, INTERFACE = 5 }; /* INTERFACE: raised whenever what engine.py may expect of this file changes */

/* --- calls that were written down, to be made again at once ---

   While a list is recorded, each call is appended to it. A replay makes the same calls with the same arrays, without
   Python between them. */
struct call {
    kernel_fn kernel;
    union arg args[MOST_ARGS];
};

struct replay {
    struct call *calls;
    Py_ssize_t count, room;
    PyObject *arrays; /* that must live as long, but for those in the memory of bytearrays: whoever recorded keeps these */
};

static _Thread_local struct replay *recording;

static int is_borrowed(PyObject *array) {
    PyObject *base = PyObject_GetAttrString(array, "base");
    int is = base && PyByteArray_Check(base);
    Py_XDECREF(base);
    PyErr_Clear();
    return is;
}

static int write_down(kernel_fn kernel, const union arg *args, PyObject *const *given, Py_ssize_t count) {
    struct replay *r = recording;
    if (r->count == r->room) {
        struct call *more = realloc(r->calls, sizeof *more * (r->room = 2 * r->room + 64));
        if (!more) return PyErr_NoMemory(), -1;
        r->calls = more;
    }
    r->calls[r->count].kernel = kernel;
    memcpy(r->calls[r->count++].args, args, sizeof(union arg) * MOST_ARGS);
    for (Py_ssize_t i = 0; i < count; i++)
        if (PyObject_CheckBuffer(given[i]) && !is_borrowed(given[i]) && PyList_Append(r->arrays, given[i])) return -1;
    return 0;
}

static void free_replay(PyObject *capsule) {
    struct replay *r = PyCapsule_GetPointer(capsule, "replay");
    if (recording == r) recording = NULL;
    free(r->calls);
    Py_XDECREF(r->arrays);
    free(r);
}

static PyObject *record(PyObject *self, PyObject *unused) {
    struct replay *r = calloc(1, sizeof *r);
    if (!r || !(r->arrays = PyList_New(0))) return free(r), PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(r, "replay", free_replay);
    if (capsule) recording = r;
    return capsule;
}

static PyObject *stop_recording(PyObject *self, PyObject *unused) {
    recording = NULL;
    Py_RETURN_NONE;
}

static PyObject *replay(PyObject *self, PyObject *capsule) {
    const struct replay *r = PyCapsule_GetPointer(capsule, "replay");
    if (!r) return NULL;
    Py_BEGIN_ALLOW_THREADS for (Py_ssize_t i = 0; i < r->count; i++) r->calls[i].kernel(r->calls[i].args);
    Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

/* kernel(*args): arrays, None, ints and floats, in the order that the kernel names them. The first array's type decides. */
static PyObject *run(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    union arg args[MOST_ARGS] = {0};
    Py_buffer arrays[MOST_ARGS];
    int held = 0, type = -1;
    PyObject *result = NULL;
    if (count > MOST_ARGS) {
        PyErr_SetString(PyExc_TypeError, "too many arguments for a kernel");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *value = given[i];
        if (value == Py_None) continue;
        if (PyLong_Check(value)) args[i].i = PyLong_AsSsize_t(value);
        else if (PyFloat_Check(value)) args[i].f = PyFloat_AsDouble(value);
        else {
            if (PyObject_GetBuffer(value, &arrays[held], PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) goto done;
            args[i].p = arrays[held].buf;
            const char *format = arrays[held++].format;
            int this = format && !strcmp(format, "f") ? 0 : format && !strcmp(format, "d") ? 1 : 2;
            if (this == 2 && !arrays[held - 1].ndim && PyIndex_Check(value)) { /* an integer of NumPy's */
                args[i].i = PyNumber_AsSsize_t(value, PyExc_OverflowError);
                if (PyErr_Occurred()) goto done;
                continue;
            }
            if (this == 2 || (type >= 0 && this != type)) {
                PyErr_SetString(PyExc_TypeError, "a kernel takes arrays of float32 or of float64, all alike");
                goto done;
            }
            type = this;
        }
        if (PyErr_Occurred()) goto done;
    }
    if (type >= 0) {
        kernel_fn kernel = chosen->tables[type][PyLong_AsLong(self)];
        Py_BEGIN_ALLOW_THREADS kernel(args);
        Py_END_ALLOW_THREADS
        if (recording && write_down(kernel, args, given, count)) goto done;
    }
    result = Py_NewRef(Py_None);
done:
    while (held) PyBuffer_Release(&arrays[--held]);
    return result;
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))run, METH_FASTCALL, NULL},
static PyMethodDef kernels[] = {KERNELS(METHOD)};

static PyObject *set_threads(PyObject *self, PyObject *value) {
    long size = PyLong_AsLong(value);
    if (size == -1 && PyErr_Occurred()) return NULL;
    size = size < 1 ? 1 : size > MOST_WORKERS ? MOST_WORKERS : size;
    Py_BEGIN_ALLOW_THREADS pthread_mutex_lock(&pool.owner);
    if (size != pool.size) {
        stop_workers();
        pool.size = size;
    }
    pthread_mutex_unlock(&pool.owner);
    Py_END_ALLOW_THREADS return PyLong_FromLong(size);
}

static PyObject *threads(PyObject *self, PyObject *unused) { return PyLong_FromLong(pool.size); }

static PyObject *instruction_sets(PyObject *self, PyObject *unused) {
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < known_isas(); i++) {
        PyObject *name = PyUnicode_FromString(isas[i].name);
        PyList_Append(names, name);
        Py_DECREF(name);
    }
    return names;
}

static PyObject *use(PyObject *self, PyObject *name) {
    for (int i = 0; i < known_isas(); i++) {
        PyObject *known = PyUnicode_FromString(isas[i].name);
        int same = PyObject_RichCompareBool(known, name, Py_EQ);
        Py_DECREF(known);
        if (same) {
            chosen = &isas[i];
            Py_RETURN_NONE;
        }
    }
    PyErr_SetString(PyExc_ValueError, "an instruction set that this processor does not have");
    return NULL;
}

static PyMethodDef methods[] = {
    {"set_threads", set_threads, METH_O, "Let so many threads share each kernel's loops; how many it will be."},
    {"threads", threads, METH_NOARGS, "How many threads share each kernel's loops."},
    {"instruction_sets", instruction_sets, METH_NOARGS, "The instruction sets that there are kernels for and this processor has."},
    {"record", record, METH_NOARGS, "Write down this thread's calls from now on, into what is returned."},
    {"stop_recording", stop_recording, METH_NOARGS, "Write no more of them down."},
    {"replay", replay, METH_O, "Make all calls again that were recorded."},
    {"use", use, METH_O, "Take the kernels of this instruction set from now on."},
    {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", "Compiled kernels; see minires/fast/cpu.", -1, methods};

PyMODINIT_FUNC PyInit__kernels(void) {
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    for (long i = 0; i < KERNEL_COUNT; i++) {
        PyObject *index = PyLong_FromLong(i), *function = PyCFunction_New(&kernels[i], index);
        Py_XDECREF(index);
        if (!function || PyModule_AddObjectRef(module, kernels[i].ml_name, function)) return NULL;
        Py_DECREF(function);
    }
    PyModule_AddIntConstant(module, "interface", INTERFACE);
    pthread_key_create(&scratch_key, free_scratch);
    pthread_atfork(NULL, NULL, after_fork);
    chosen = &isas[known_isas() - 1];
    return module;
}
