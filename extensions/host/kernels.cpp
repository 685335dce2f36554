// Every CUDA kernel, compiled for the host: see include/launch.h.
#include "../cuda/adam.cu"
#include "../cuda/antialias.cu"
#include "../cuda/hashgrid.cu"
#include "../cuda/march.cu"
#include "../cuda/mlp.cu"
#include "../cuda/raster.cu"
#include "../cuda/selftest.cu"
#include "../cuda/texture.cu"
