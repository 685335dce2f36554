// Every CUDA kernel, compiled for the host: see include/launch.h.
#include "../cuda/adam.cu"
#include "../cuda/hashgrid.cu"
#include "../cuda/march.cu"
#include "../cuda/mlp.cu"
#include "../cuda/selftest.cu"
#include "../cuda/splat.cu"
#include "../cuda/splat_project.cu"
