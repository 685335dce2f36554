// Threads. The pool is the caller's, given by address: torch's own, so that no second one competes with it.
#pragma once
#include "../include/portable.h"

namespace dreamforge {

typedef void (*Range)(int64_t begin, int64_t end, void* context);
typedef void (*Task)(void* context, int64_t number);

// How many threads the pool has.
int64_t thread_total();

// Run tasks 0 ... count - 1, each once, in no order, on as many threads as the pool has; return when all are done.
void run_tasks(int64_t count, Task task, void* context);

template <class Body>
void parallel(int64_t count, const Body& body) {
    run_tasks(count, [](void* context, int64_t number) { (*(const Body*)context)(number); }, (void*)&body);
}

}  // namespace dreamforge
