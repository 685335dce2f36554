// Every operation: its name and what it is given. The CPU driver has a function of this name at every SIMD level, the
// library a C function df_<name>, CUDA a kernel of this name.
#pragma once
#include "adam.h"
#include "antialias.h"
#include "hashgrid.h"
#include "march.h"
#include "mlp.h"
#include "raster.h"
#include "texture.h"

#define DF_OPS(OP)                          \
    OP(adam_sparse_step, AdamArgs)          \
    OP(antialias_outline, AntialiasArgs)    \
    OP(antialias_blend, AntialiasArgs)      \
    OP(antialias_backward, AntialiasArgs)   \
    OP(hashgrid_encode, HashGridArgs)       \
    OP(hashgrid_grad_table, HashGridArgs)   \
    OP(hashgrid_grad_points, HashGridArgs)  \
    OP(mlp_forward, MlpArgs)                \
    OP(mlp_backward, MlpArgs)               \
    OP(march_pack, MarchArgs)               \
    OP(march_count, MarchArgs)              \
    OP(march_fill, MarchArgs)               \
    OP(march_keep_count, RenderArgs)        \
    OP(march_keep, RenderArgs)              \
    OP(march_render, RenderArgs)            \
    OP(march_render_backward, RenderArgs)   \
    OP(raster_cover, RasterArgs)            \
    OP(raster_resolve, RasterArgs)          \
    OP(raster_backward, RasterArgs)         \
    OP(raster_interpolate, InterpolateArgs) \
    OP(raster_interpolate_backward, InterpolateArgs) \
    OP(texture_forward, TextureArgs)        \
    OP(texture_backward, TextureArgs)
