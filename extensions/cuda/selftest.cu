// The launch layer itself: the sum of a block's numbers by shuffles within warps, then over shared memory.
#include "../include/launch.h"

namespace dreamforge {
struct SumArgs {
    const float* numbers;  // [blocks, threads]
    float* sums;           // [blocks]
    float* total;          // one number
};
}  // namespace dreamforge

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

DF_KERNEL(selftest_sum, SumArgs) {
    DF_SHARED(float, of_warp, 32);
    float sum = args.numbers[thread_in_row()];
    for (uint32_t by = 16; by > 0; by /= 2) sum += shuffle_down(sum, by);
    if (thread_in_block() % 32 == 0) of_warp[thread_in_block() / 32] = sum;
    sync_block();
    if (thread_in_block() < 32) {
        sum = thread_in_block() < block_size() / 32 ? of_warp[thread_in_block()] : 0.0f;
        for (uint32_t by = 16; by > 0; by /= 2) sum += shuffle_down(sum, by);
        if (thread_in_block() == 0) {
            args.sums[block_x()] = sum;
            add_atomically(args.total, sum);
        }
    }
}
