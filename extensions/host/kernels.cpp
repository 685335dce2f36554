// Every CUDA kernel, compiled for the host: see include/launch.h.
#include "../cuda/hashgrid.cu"
#include "../cuda/selftest.cu"
