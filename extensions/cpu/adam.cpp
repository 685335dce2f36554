// Sparse Adam on a CPU: tasks of many rows; vectors without a hit cost one look.
#include "simd.h"
#include "tasks.h"
//
#include "../include/adam.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int64_t NUMBERS = 1 << 14;  // of a task: a multiple of every row and vector

// Every lane of a row of F is set where one of them is.
template <int F>
DF_BODY Ints whole_rows(Ints mask) {
    for (int by = 1; by < F; by *= 2) {
        Ints other;
        for (int i = 0; i < W; ++i) other[i] = mask[i ^ by];
        mask |= other;
    }
    return mask;
}

template <int F>
static void step_numbers(const AdamArgs& args, int64_t first, int64_t end) {
    int64_t i = first;
    if constexpr (W % F == 0)
        for (; i + W <= end; i += W) {
            const Floats grad = load<Floats>(args.grad + i);
            Ints hit = grad != 0.0f;
            if (!any(hit)) continue;
            hit = whole_rows<F>(hit);
            const Floats before = load<Floats>(args.table + i), mean = load<Floats>(args.mean + i),
                         square = load<Floats>(args.square + i);
            Floats now[3] = {before, mean, square};
            adam_update(args, grad, now[0], now[1], now[2]);
            store(args.table + i, hit ? now[0] : before);
            store(args.mean + i, hit ? now[1] : mean);
            store(args.square + i, hit ? now[2] : square);
            store(args.grad + i, Floats{});
        }
    for (; i < end; i += F) {
        bool hit = false;
        for (int f = 0; f < F; ++f) hit |= args.grad[i + f] != 0.0f;
        for (int64_t k = i; hit && k < i + F; ++k) {
            adam_update(args, args.grad[k], args.table[k], args.mean[k], args.square[k]);
            args.grad[k] = 0.0f;
        }
    }
}

void adam_sparse_step(const AdamArgs& args) {
    const int64_t numbers = args.rows * args.features;
    parallel((numbers + NUMBERS - 1) / NUMBERS, [&](int64_t task) {
        const int64_t first = task * NUMBERS, end = least(first + NUMBERS, numbers);
        switch (args.features) {
            case 1: return step_numbers<1>(args, first, end);
            case 2: return step_numbers<2>(args, first, end);
            case 4: return step_numbers<4>(args, first, end);
            case 8: return step_numbers<8>(args, first, end);
        }
    });
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
