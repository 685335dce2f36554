// What a CUDA kernel is written with: threads, blocks, barriers, shuffles, shared memory, atomic sums and maxima. NVRTC turns it
// into CUDA. For the host build (DF_HOST_CUDA) every thread of a block is a thread of the system, so that tests run a
// kernel's logic without a GPU, and the thread sanitizer sees its races.
#pragma once
#include "scalar.h"

#if defined(__CUDACC_RTC__)

#define DF_KERNEL(name, Args) extern "C" __global__ void name(const Args args)
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

// The value of the thread `by` further on in the warp of 32; every thread of the warp must ask.
template <class T>
DF_BODY T shuffle_down(T value, uint32_t by) {
    return __shfl_down_sync(0xffffffffu, value, by);
}

}  // namespace DF_LEVEL
}  // namespace dreamforge

#else
#include "../host/launch.h"
#endif

namespace dreamforge {
namespace DF_LEVEL {

// The thread's number among all threads of a row of blocks.
DF_BODY int64_t thread_in_row() { return int64_t(block_x()) * block_size() + thread_in_block(); }

}  // namespace DF_LEVEL
}  // namespace dreamforge
