// Texels at texture coordinates: the bodies for one point. See ops/texture.py.
#pragma once
#include "scalar.h"

namespace dreamforge {

constexpr int TEXTURE_LEVELS = 16;  // at most

// Mirrored in ops/texture.py.
struct TextureArgs {
    const float* texels;  // [sets, total, channels]: the levels of a pyramid, one after another
    const float* uv;      // [sets, points, 2]
    const float* level;   // [sets, points], or null
    float* out;           // [sets, points, channels]
    const float* pull;    // like out
    float *grad, *grad_uv;  // like texels, zeros, or null; like uv, or null
    int64_t sets, points, total, first[TEXTURE_LEVELS];
    int32_t height[TEXTURE_LEVELS], width[TEXTURE_LEVELS], channels, levels, nearest, wrap;
};

namespace DF_LEVEL {

// The two texels beside a place along one side of a picture; `share` is the second one's.
struct Beside {
    int32_t low, high;
    float share;
};

DF_BODY int32_t texel_of(int32_t at, int32_t size, bool wrap) {
    if (wrap) at = at < 0 ? at + size : at >= size ? at - size : at;
    return at < 0 ? 0 : at >= size ? size - 1 : at;  // a place that is no number too
}

DF_BODY Beside beside(float at, int32_t size, bool wrap, bool nearest) {
    at = wrap ? at - floor_of(at) : at < -1.0f ? -1.0f : at > 2.0f ? 2.0f : at;
    at = at * float(size) - (nearest ? 0.0f : 0.5f);
    const float corner = floor_of(at);
    const int32_t low = corner >= -2.0e9f ? int32_t(vertex_of(corner)) : 0;  // of no number 0
    return Beside{texel_of(low, size, wrap), texel_of(low + 1, size, wrap), nearest ? 0.0f : at - corner};
}

// Calls each(texel of all levels, its weight, how that changes with u, with v) for all texels that a point sees.
template <class Each>
DF_BODY void for_texels(const TextureArgs& args, int64_t point, const Each& each) {
    float level = args.level ? args.level[point] : 0.0f;
    const float last = float(args.levels - 1);
    level = level > 0.0f ? (level < last ? level : last) : 0.0f;
    const int32_t lower = int32_t(level);
    for (int32_t n = lower; n <= lower + 1 && n < args.levels; ++n) {
        const float part = n == lower ? 1.0f - (level - float(lower)) : level - float(lower);
        if (part == 0.0f) continue;
        const int32_t width = args.width[n], height = args.height[n];
        const Beside x = beside(args.uv[2 * point], width, args.wrap, args.nearest);
        const Beside y = beside(args.uv[2 * point + 1], height, args.wrap, args.nearest);
        const int64_t top = args.first[n] + int64_t(y.low) * width, bottom = args.first[n] + int64_t(y.high) * width;
        if (args.nearest) {
            each(top + x.low, part, 0.0f, 0.0f);
            continue;
        }
        const float right = part * float(width), down = part * float(height);
        const float left_share = 1.0f - x.share, upper_share = 1.0f - y.share;
        each(top + x.low, part * left_share * upper_share, -right * upper_share, -down * left_share);
        each(top + x.high, part * x.share * upper_share, right * upper_share, -down * x.share);
        each(bottom + x.low, part * left_share * y.share, -right * y.share, down * left_share);
        each(bottom + x.high, part * x.share * y.share, right * y.share, down * x.share);
    }
}

// `point`: among those of all sets.
DF_BODY void texture_point(const TextureArgs& args, int64_t set, int64_t point) {
    float* out = args.out + point * args.channels;
    const float* texels = args.texels + set * args.total * args.channels;
    for (int c = 0; c < args.channels; ++c) out[c] = 0.0f;
    for_texels(args, point, [&](int64_t texel, float weight, float, float) {
        for (int c = 0; c < args.channels; ++c) out[c] += weight * texels[texel * args.channels + c];
    });
}

DF_BODY void pull_uv(const TextureArgs& args, int64_t set, int64_t point) {
    const float *pull = args.pull + point * args.channels, *texels = args.texels + set * args.total * args.channels;
    float to_u = 0.0f, to_v = 0.0f;
    for_texels(args, point, [&](int64_t texel, float, float with_u, float with_v) {
        float sum = 0.0f;
        for (int c = 0; c < args.channels; ++c) sum += pull[c] * texels[texel * args.channels + c];
        to_u += with_u * sum;
        to_v += with_v * sum;
    });
    args.grad_uv[2 * point] = to_u;
    args.grad_uv[2 * point + 1] = to_v;
}

// add(texel, weight, pull): to the gradient of the point's set.
template <class Add>
DF_BODY void pull_texels(const TextureArgs& args, int64_t point, const Add& add) {
    const float* pull = args.pull + point * args.channels;
    for_texels(args, point, [&](int64_t texel, float weight, float, float) { add(texel, weight, pull); });
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
