// Every operation: its name and what it is given. The CPU driver has a function of this name at every SIMD level, the
// library a C function df_<name>, CUDA a kernel of this name.
#pragma once
#include "adam.h"
#include "antialias.h"
#include "flexicubes.h"
#include "hashgrid.h"
#include "isosurface.h"
#include "march.h"
#include "mlp.h"
#include "raster.h"
#include "splat.h"
#include "texture.h"

#define DF_OPS(OP)                                   \
    OP(adam_sparse_step, AdamArgs)                   \
    OP(antialias_outline, AntialiasArgs)             \
    OP(antialias_blend, AntialiasArgs)               \
    OP(antialias_backward, AntialiasArgs)            \
    OP(hashgrid_encode, HashGridArgs)                \
    OP(hashgrid_grad_table, HashGridArgs)            \
    OP(hashgrid_grad_points, HashGridArgs)           \
    OP(mlp_forward, MlpArgs)                         \
    OP(mlp_backward, MlpArgs)                        \
    OP(march_pack, MarchArgs)                        \
    OP(march_count, MarchArgs)                       \
    OP(march_fill, MarchArgs)                        \
    OP(march_keep_count, RenderArgs)                 \
    OP(march_keep, RenderArgs)                       \
    OP(march_render, RenderArgs)                     \
    OP(march_render_backward, RenderArgs)            \
    OP(raster_cover, RasterArgs)                     \
    OP(raster_resolve, RasterArgs)                   \
    OP(raster_backward, RasterArgs)                  \
    OP(raster_interpolate, InterpolateArgs)          \
    OP(raster_interpolate_backward, InterpolateArgs) \
    OP(flexicubes_cases, FlexiArgs)                  \
    OP(flexicubes_count, FlexiArgs)                  \
    OP(flexicubes_vertices, FlexiArgs)               \
    OP(flexicubes_faces, FlexiArgs)                  \
    OP(flexicubes_share, FlexiArgs)                  \
    OP(flexicubes_pull, FlexiArgs)                   \
    OP(flexicubes_gather, FlexiArgs)                 \
    OP(tetrahedra_count, TetraArgs)                  \
    OP(tetrahedra_fill, TetraArgs)                   \
    OP(tetrahedra_backward, TetraArgs)               \
    OP(splat_project, SplatProjectArgs)              \
    OP(splat_project_backward, SplatProjectArgs)     \
    OP(splat_harmonics, SplatHarmonicsArgs)          \
    OP(splat_harmonics_backward, SplatHarmonicsArgs) \
    OP(splat_count, SplatBinArgs)                    \
    OP(splat_bin, SplatBinArgs)                      \
    OP(splat_blend, SplatBlendArgs)                  \
    OP(splat_blend_backward, SplatBlendArgs)         \
    OP(texture_forward, TextureArgs)                 \
    OP(texture_backward, TextureArgs)
