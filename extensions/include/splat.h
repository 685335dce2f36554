// Splatting 3D Gaussians (Kerbl et al. 2023; Zwicker et al. 2002): what the operations are given, the tiles that a
// Gaussian touches, and what it does to a pixel. F is a float, or a vector of them (cpu/simd.h, to be included before).
#pragma once
#include "scalar.h"
//
#include "numbers.h"

namespace dreamforge {

constexpr int SPLAT_TILE = 16;       // pixels a side
constexpr int SPLAT_CHANNELS = 512;  // at most
constexpr int SPLAT_MOMENTS = 8;     // numbers of a slot before the channels
constexpr int64_t SPLAT_CHUNK = 2048;  // Gaussians of a task

// All of these are mirrored in ops/splat_native.py. C cameras, N Gaussians, one image for each camera.
struct SplatProjectArgs {
    const float *means, *quats, *scales, *opacities;          // [N, 3], [N, 4] w x y z, [N, 3], [N]
    const float *viewmats, *intrinsics;                       // [C, 4, 4] world to camera, [C, 3, 3] in pixels
    int32_t* radii;                                           // [C, N, 2], zeros: not seen
    float *means2d, *depths, *conics, *compensations;         // [C, N, 2], [C, N], [C, N, 3], [C, N] or null
    const float *grad_means2d, *grad_depths, *grad_conics, *grad_compensations;  // or null: nothing pulls
    float *grad_means, *grad_quats, *grad_scales;             // like what they belong to
    float* grad_viewmats;                                     // [C, 3, 4], or null; CUDA: zeros at the start
    float* scratch;                                           // CPU: [chunks, C, 12], or null
    int64_t cameras, count, mean_step, conic_step;            // steps: from one to the next of grad_means2d and grad_conics
    float width, height, near, far, clip, blur;
    float min_alpha, extent, floor, margin;                   // see Rules in ops/splat.py
    int32_t opacity_extent;
};

struct SplatHarmonicsArgs {
    const float *means, *eyes, *coefficients;  // [N, 3], [C, 3], [N, bases, 3] or, if `own`, [C, N, bases, 3]
    const int32_t* radii;                      // [C, N, 2]
    float* colors;                             // [C, N, 3]: max(0, 1/2 + harmonics)
    const float* grad_colors;
    float *grad_means, *grad_eyes, *grad_coefficients;  // eyes on CUDA: zeros at the start
    float* scratch;                                     // CPU: [chunks, C, 3]
    int64_t cameras, count;
    int32_t bases, degree, own;
};

// Gaussians of all images stand one after another: those of image i are [first[i], first[i + 1]).
struct SplatBinArgs {
    const float *means2d, *depths;  // [M, 2], [M]
    const int32_t* radii;           // [M, 2]
    // [images + 1]; [M]: how many tiles Gaussians before this one touch, for splat_bin on CUDA with its own, for
    // splat_order where each of the sorted keys was
    const int64_t *first, *places;
    int32_t *tiles, *ids, *offsets; // [M], how many it touches, on CUDA also in `keys`; [intersections]; [images, tiles]
    int32_t* slots;                 // CPU: [intersections], numbered by Gaussian and then by tile; CUDA: ids, not sorted
    int64_t* keys;                  // [intersections]: image, tile, bits of the depth; CUDA: by Gaussian, then sorted
    uint32_t* scratch;              // CPU: [4 M + images * SPLAT_PARTS * tiles]
    int64_t images, count, intersections;
    int32_t width, height;
};
constexpr int64_t SPLAT_PARTS = 8;  // of an image's Gaussians, whose tiles are counted by themselves

struct SplatBlendArgs {
    const float *means2d, *conics, *opacities, *colors;  // [M, 2], [M, 3], [M], [M, channels]
    const float* backgrounds;                            // [images, channels], or null
    const int32_t *ids, *offsets;                        // as above
    float *out, *alphas, *light;                         // [images, height, width, channels], twice [images, height, width]
    int32_t* ends;                                       // like light: the first of its tile's Gaussians not to count
    const float *grad_out, *grad_alphas;
    float *grad_means2d, *grad_conics, *grad_opacities, *grad_colors;  // CPU: like what they belong to
    float *grad_backgrounds, *absgrad;                   // CUDA: zeros at the start; like means2d or, on CUDA, any; or null
    const int32_t *slots, *tiles;                        // CPU: as above
    const int64_t* places;
    // CPU: [intersections, SPLAT_MOMENTS + channels up to a multiple of 4], in the slots' order; CUDA: [M, SPLAT_MOMENTS +
    // channels], zeros at the start: gradients by means2d, conics, opacities, the absolute ones by means2d, by colors
    float* parts;
    float* records;      // CPU: [M, 8], from the forward to the backward pass
    float* scratch;      // CPU: [images, tiles, channels], or null
    int64_t count, intersections;
    int32_t images, width, height, channels;
    float max_alpha, min_alpha, stop;
};

namespace DF_LEVEL {

DF_BODY int32_t tiles_along(int32_t pixels) { return (pixels + SPLAT_TILE - 1) / SPLAT_TILE; }

struct TileBox {
    int32_t left, right, top, bottom;  // right and bottom do not belong to it
    DF_BODY int32_t size() const { return (right - left) * (bottom - top); }
    DF_BODY int32_t number(int32_t x, int32_t y) const { return (y - top) * (right - left) + x - left; }
};

DF_BODY int32_t tile_edge(float tile, int32_t tiles) {
    return tile >= float(tiles) ? tiles : tile > 0.0f ? int32_t(tile) : 0;
}

// The tiles that the box of a Gaussian touches; none of one that is not seen.
DF_BODY TileBox tile_box(const float* mean, const int32_t* radius, int32_t width, int32_t height) {
    if (radius[0] <= 0 || radius[1] <= 0) return {0, 0, 0, 0};
    const float share = 1.0f / SPLAT_TILE, x = float(radius[0]), y = float(radius[1]);
    const int32_t across = tiles_along(width), down = tiles_along(height);
    return {tile_edge(floor_of((mean[0] - x) * share), across), tile_edge(-floor_of((-mean[0] - x) * share), across),
            tile_edge(floor_of((mean[1] - y) * share), down), tile_edge(-floor_of((-mean[1] - y) * share), down)};
}

DF_BODY int64_t tile_key(int64_t image, int32_t tiles, int32_t tile, float depth) {
    int bits = 0;  // as many as the number of tiles needs
    while (tiles >> bits) ++bits;
    return ((image << bits | tile) << 32) | int64_t(bits_of(depth));
}

// sigma = (A dx^2 + C dy^2) / 2 + B dx dy with the conic A, B, C, as a sum of squares, which no rounding makes negative:
// e^-sigma = 2^-(u^2 + v^2) with u = a dx + b dy, v = c dy (Cholesky).
template <class F>
struct Falloff {
    F a, b, c;
};

template <class F>
DF_BODY Falloff<F> falloff_of(F A, F B, F C) {
    const float scale = 0.84932180f;  // the root of log2(e) / 2
    const F root = root_of(A), b = B / root, rest = C - b * b;
    return {scale * root, scale * b, scale * root_of(at_least(rest, 0.0f))};
}

// The gradient of a projected Gaussian from sums over pixels of h = alpha dL/dalpha, where alpha is not cut off:
// moments are the sums of h, h dx, h dy, h dx^2, h dx dy, h dy^2.
DF_BODY void conic_gradient(const float* moments, const float* conic, float opacity, float* mean, float* to_conic,
                            float* to_opacity) {
    mean[0] = conic[0] * moments[1] + conic[1] * moments[2];
    mean[1] = conic[1] * moments[1] + conic[2] * moments[2];
    to_conic[0] = -0.5f * moments[3];
    to_conic[1] = -moments[4];
    to_conic[2] = -0.5f * moments[5];
    *to_opacity = opacity > 0.0f ? moments[0] / opacity : 0.0f;
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
