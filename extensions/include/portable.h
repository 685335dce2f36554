// What the shared headers need of a compiler: C++17 for a CPU, for NVRTC, and for the host build of the CUDA kernels.
// No STL, no exceptions, no C library.
#pragma once

#if defined(__CUDACC_RTC__)
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned short uint16_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define DF_BODY __device__ __forceinline__
#else
#include <stdint.h>
#define DF_BODY inline __attribute__((always_inline))
#endif

// Every level of instructions, and CUDA, has the bodies in a namespace of its own: a function compiled for one
// processor must never be linked into the code for another.
#if defined(__CUDACC_RTC__) || defined(DF_HOST_CUDA)
#define DF_LEVEL device
#elif defined(__AVX512F__)
#define DF_LEVEL avx512
#elif defined(__AVX2__)
#define DF_LEVEL avx2
#else
#define DF_LEVEL baseline
#endif
