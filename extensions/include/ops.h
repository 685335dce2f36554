// Every operation: its name and what it is given. The CPU driver has a function of this name at every SIMD level, the
// library a C function df_<name>, CUDA a kernel of this name.
#pragma once
#include "adam.h"
#include "hashgrid.h"
#include "march.h"
#include "mlp.h"
#include "splat.h"

#define DF_OPS(OP)                          \
    OP(adam_sparse_step, AdamArgs)          \
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
    OP(splat_project, SplatProjectArgs)     \
    OP(splat_project_backward, SplatProjectArgs)    \
    OP(splat_harmonics, SplatHarmonicsArgs) \
    OP(splat_harmonics_backward, SplatHarmonicsArgs) \
    OP(splat_count, SplatBinArgs)           \
    OP(splat_bin, SplatBinArgs)             \
    OP(splat_blend, SplatBlendArgs)         \
    OP(splat_blend_backward, SplatBlendArgs)
