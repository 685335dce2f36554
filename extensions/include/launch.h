// What a CUDA kernel is written with: threads, blocks of 256 of them, barriers, shuffles, votes, shared memory, atomic
// sums and maxima. NVRTC turns it into CUDA. For the host build (DF_HOST_CUDA) every thread of a block is a thread of the system, so that tests run a
// kernel's logic without a GPU, and the thread sanitizer sees its races.
#pragma once
#include "scalar.h"

#if defined(__CUDACC_RTC__)

#define DF_KERNEL(name, Args) extern "C" __global__ void __launch_bounds__(256) name(const Args args)
#define DF_SHARED(T, name, size) __shared__ T name[size]

namespace dreamforge {
namespace DF_LEVEL {

DF_BODY uint32_t thread_in_block() { return threadIdx.x; }
DF_BODY uint32_t block_size() { return blockDim.x; }
DF_BODY uint32_t block_x() { return blockIdx.x; }
DF_BODY uint32_t block_y() { return blockIdx.y; }
DF_BODY void sync_block() { __syncthreads(); }
DF_BODY void add_atomically(float* to, float value) { atomicAdd(to, value); }
DF_BODY void max_atomically(uint64_t* to, uint64_t value) { atomicMax(to, value); }

// Two neighbours, the first of which lies at a multiple of 8 bytes.
DF_BODY void add_two_atomically(float* to, float first, float second) {
#if __CUDA_ARCH__ >= 900
    atomicAdd((float2*)to, make_float2(first, second));
#else
    atomicAdd(to, first), atomicAdd(to + 1, second);
#endif
}

// The value of the thread `by` further on in the warp of 32; every thread of the warp must ask.
template <class T>
DF_BODY T shuffle_down(T value, uint32_t by) {
    return __shfl_down_sync(0xffffffffu, value, by);
}

// The value of the thread whose number in the warp differs in the bits `by`; every thread of the warp must ask.
template <class T>
DF_BODY T shuffle_across(T value, uint32_t by) {
    return __shfl_xor_sync(0xffffffffu, value, by);
}

// Whether some thread of the warp, or of the block, says so; all must ask. That of the block is a barrier too.
DF_BODY bool any_in_warp(bool here) { return __any_sync(0xffffffffu, here); }
DF_BODY bool any_in_block(bool here) { return __syncthreads_or(here); }

}  // namespace DF_LEVEL
}  // namespace dreamforge

#else
#include "../host/launch.h"
#endif

namespace dreamforge {
namespace DF_LEVEL {

// The thread's number among all threads of a row of blocks.
DF_BODY int64_t thread_in_row() { return int64_t(block_x()) * block_size() + thread_in_block(); }

// Sums over the threads of a warp, all of which must ask: of N values, thread t of 32 gets that of value t N / 32. In
// each step a thread gives half of its values away for what another knows of the rest: 16 shuffles for 16 sums.
template <uint32_t BY = 16, int N>
DF_BODY float sums_in_warp(const float (&value)[N]) {
    if constexpr (N > 1) {
        const bool upper = thread_in_block() & BY;
        float half[N / 2];
        for (int k = 0; k < N / 2; ++k)
            half[k] = (upper ? value[k + N / 2] : value[k]) + shuffle_across(upper ? value[k] : value[k + N / 2], BY);
        return sums_in_warp<BY / 2>(half);
    } else {
        float sum = value[0];
        for (uint32_t by = BY; by > 0; by /= 2) sum += shuffle_across(sum, by);
        return sum;
    }
}

// `to` plus the sum over the threads of a warp, all of which must ask.
DF_BODY void add_from_warp(float* to, float value) {
    const float sum = sums_in_warp({value});
    if (thread_in_block() % 32 == 0) add_atomically(to, sum);
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
