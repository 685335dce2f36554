// The library's C functions: one for each operation, and what the caller must say or may ask.
#include "../include/ops.h"
#include "tasks.h"

namespace dreamforge {

#define DECLARE(name, Args) void name(const Args&);
namespace baseline { DF_OPS(DECLARE) }
#if defined(__x86_64__)
namespace avx2 { DF_OPS(DECLARE) }
namespace avx512 { DF_OPS(DECLARE) }
#endif
#undef DECLARE

static int (*parallel_for)(int64_t, int64_t, int64_t, Range, void*) = nullptr;
static int (*thread_count)(uint32_t*) = nullptr;

struct Work {
    int64_t next, count;
    Task task;
    void* context;
};

// Threads take the next task when they have done one: none waits for a share that a busy core has not begun.
static void take(Work& work) {
    for (;;) {
        int64_t number = __atomic_fetch_add(&work.next, 1, __ATOMIC_RELAXED);
        if (number >= work.count) return;
        work.task(work.context, number);
    }
}

int64_t thread_total() {
    uint32_t threads = 1;
    if (thread_count && parallel_for) thread_count(&threads);
    return threads;
}

void run_tasks(int64_t count, Task task, void* context) {
    Work work{0, count, task, context};
    int64_t threads = thread_total();
    if (count < threads) threads = count;
    if (threads < 2)
        take(work);
    else
        parallel_for(0, threads, 1, [](int64_t, int64_t, void* shared) { take(*(Work*)shared); }, &work);
}

}  // namespace dreamforge

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

// The hash of the sources that this was built from.
EXPORT const char* df_sources() { return DF_SOURCES; }

// The best level of this processor: 0 baseline, 1 AVX2, 2 AVX-512.
EXPORT int df_best_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    // Whoever has AVX2 has F16C, an older extension that clang 14 knows no name for.
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512cd");
    return avx2 ? (avx512 ? 2 : 1) : 0;
#else
    return 0;
#endif
}

// torch_parallel_for and torch_get_num_threads of libtorch, by address; without them one thread does everything.
EXPORT void df_use_threads(void* parallel_for, void* thread_count) {
    dreamforge::parallel_for = (decltype(dreamforge::parallel_for))parallel_for;
    dreamforge::thread_count = (decltype(dreamforge::thread_count))thread_count;
}

#if defined(__x86_64__)
#define DEFINE(name, Args)                                       \
    EXPORT void df_##name(int level, const dreamforge::Args* args) { \
        if (level == 2)                                          \
            dreamforge::avx512::name(*args);                     \
        else if (level == 1)                                     \
            dreamforge::avx2::name(*args);                       \
        else                                                     \
            dreamforge::baseline::name(*args);                   \
    }
#else
#define DEFINE(name, Args) \
    EXPORT void df_##name(int, const dreamforge::Args* args) { dreamforge::baseline::name(*args); }
#endif
DF_OPS(DEFINE)

// The bytes of an operation's arguments, for a test of their mirror in Python.
#define SIZE(name, Args) \
    EXPORT int64_t df_size_##name() { return sizeof(dreamforge::Args); }
DF_OPS(SIZE)
