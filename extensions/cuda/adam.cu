// Sparse Adam on a GPU: a thread for each row.
#include "../include/launch.h"
//
#include "../include/adam.h"

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

DF_KERNEL(adam_sparse_step, AdamArgs) {
    const int64_t row = thread_in_row();
    if (row >= args.rows) return;
    const int64_t first = row * args.features;
    bool hit = false;
    for (int f = 0; f < args.features; ++f) hit |= args.grad[first + f] != 0.0f;
    for (int64_t i = first; hit && i < first + args.features; ++i) {
        adam_update(args, args.grad[i], args.table[i], args.mean[i], args.square[i]);
        args.grad[i] = 0.0f;
    }
}
