// The launch layer itself: the sum of a block's numbers by shuffles within warps, then over shared memory; votes.
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

namespace dreamforge {
struct VoteArgs {
    const int32_t* numbers;       // [blocks, threads]
    int32_t *of_warp, *of_block;  // like numbers: whether one of the warp's, of the block's is above 0
    float *sums, *many;           // [blocks]; [blocks * threads], of 16 multiples of the number over each warp
};
}  // namespace dreamforge

DF_KERNEL(selftest_vote, VoteArgs) {
    const bool here = args.numbers[thread_in_row()] > 0;
    for (int times = 0; times < 3; ++times) {  // a vote must not meet the one before
        args.of_warp[thread_in_row()] = any_in_warp(times < 2 ? !here : here);
        args.of_block[thread_in_row()] = any_in_block(times < 2 ? !here : here);
    }
    const float number = float(args.numbers[thread_in_row()]);
    add_from_warp(args.sums + block_x(), number);
    float multiples[16];
    for (int k = 0; k < 16; ++k) multiples[k] = float(k) * number;
    args.many[thread_in_row()] = sums_in_warp(multiples);
}
