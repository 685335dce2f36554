// Splats of tiles on a GPU: a block of 256 threads for each tile, a pixel a thread; the tile's splats come through
// shared memory, 256 at a time. torch sorts the keys between splat_bin and splat_blend.
#include "../include/launch.h"
//
#include "../include/splat.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int THREADS = SPLAT_TILE * SPLAT_TILE;
constexpr int KEPT = 4;  // channels that a thread keeps; blocks along y blend the others

struct Splat {
    float x, y, a, b, c, opacity;
    int32_t id;
};

DF_BODY Splat read(const SplatBlendArgs& args, int32_t id) {
    const float* conic = args.conics + 3 * int64_t(id);
    const Falloff<float> f = falloff_of(conic[0], conic[1], conic[2]);
    return {args.means2d[2 * int64_t(id)], args.means2d[2 * int64_t(id) + 1], f.a, f.b, f.c, args.opacities[id], id};
}

// What a splat has at a pixel, before it is cut off.
DF_BODY float strength(const Splat& splat, float dx, float dy) {
    const float u = splat.a * dx + splat.b * dy, v = splat.c * dy;
    return splat.opacity * exp2_minus(u * u + v * v);
}

// The tile of a block and the pixel of a thread.
struct Spot {
    int64_t image, pixel;
    int32_t x, y, first, count;
    bool inside;
};

DF_BODY Spot spot_of(const SplatBlendArgs& args) {
    const int32_t across = tiles_along(args.width), tiles = across * tiles_along(args.height);
    const int32_t task = block_x(), tile = task % tiles, thread = thread_in_block();
    Spot spot;
    spot.image = task / tiles;
    spot.x = tile % across * SPLAT_TILE + thread % SPLAT_TILE, spot.y = tile / across * SPLAT_TILE + thread / SPLAT_TILE;
    spot.inside = spot.x < args.width && spot.y < args.height;
    spot.pixel = (spot.image * args.height + spot.y) * args.width + spot.x;
    spot.first = args.offsets[task];
    const int32_t end = task + 1 < args.images * tiles ? args.offsets[task + 1] : int32_t(args.intersections);
    spot.count = end - spot.first;
    return spot;
}

constexpr int GRADIENTS = SPLAT_MOMENTS;  // of a splat beside its channels

// Where a splat's gradient number k is summed up: place, conic, opacity, absolute by the place, channels.
DF_BODY float* gradient_of(const SplatBlendArgs& args, int64_t id, int k) {
    if (k < 2) return args.grad_means2d + 2 * id + k;
    if (k < 5) return args.grad_conics + 3 * id + k - 2;
    if (k < 6) return args.grad_opacities + id;
    if (k < 8) return args.absgrad ? args.absgrad + 2 * id + k - 6 : nullptr;
    return k - 8 < KEPT && k - 8 < args.channels ? args.grad_colors + id * args.channels + k - 8 : nullptr;
}

}  // namespace DF_LEVEL
}  // namespace dreamforge

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

DF_KERNEL(splat_count, SplatBinArgs) {
    const int64_t m = thread_in_row();
    if (m < args.count) args.tiles[m] = tile_box(args.means2d + 2 * m, args.radii + 2 * m, args.width, args.height).size();
}

DF_KERNEL(splat_bin, SplatBinArgs) {
    const int64_t m = thread_in_row();
    if (m >= args.count) return;
    const int32_t across = tiles_along(args.width), tiles = across * tiles_along(args.height);
    const TileBox box = tile_box(args.means2d + 2 * m, args.radii + 2 * m, args.width, args.height);
    int64_t image = 0, to = args.places[m];
    while (args.first[image + 1] <= m) ++image;
    for (int32_t y = box.top; y < box.bottom; ++y)
        for (int32_t x = box.left; x < box.right; ++x, ++to) {
            args.keys[to] = tile_key(image, tiles, y * across + x, args.depths[m]);
            args.ids[to] = int32_t(m);
        }
}

// Blocks: x over the tiles of all images, y over every four channels.
DF_KERNEL(splat_blend, SplatBlendArgs) {
    DF_SHARED(Splat, splats, THREADS);
    const Spot spot = spot_of(args);
    const int first_channel = block_y() * KEPT, rest = args.channels - first_channel;
    const int channels = rest < KEPT ? rest : KEPT;
    const float x = spot.x + 0.5f, y = spot.y + 0.5f;
    float light = 1.0f, sum[KEPT] = {};
    int32_t end = spot.count;
    bool done = !spot.inside;
    for (int32_t first = 0; first < spot.count; first += THREADS) {
        if (!any_in_block(!done)) break;  // nobody reads the last splats any more either
        const int32_t mine = first + int32_t(thread_in_block());
        if (mine < spot.count) splats[thread_in_block()] = read(args, args.ids[spot.first + mine]);
        sync_block();
        for (int32_t i = 0; i < THREADS && first + i < spot.count && !done; ++i) {
            const Splat splat = splats[i];
            const float alpha = at_most(strength(splat, x - splat.x, y - splat.y), args.max_alpha);
            if (!(alpha >= args.min_alpha)) continue;
            const float next = light - light * alpha, weight = light * alpha;
            if (next <= args.stop) {
                done = true, end = first + i;
                break;
            }
            const float* color = args.colors + int64_t(splat.id) * args.channels + first_channel;
            for (int k = 0; k < KEPT; ++k)
                if (k < channels) sum[k] += weight * color[k];
            light = next;
        }
    }
    if (!spot.inside) return;
    for (int k = 0; k < KEPT; ++k)
        if (k < channels) {
            const int64_t c = first_channel + k;
            const float behind = args.backgrounds ? light * args.backgrounds[spot.image * args.channels + c] : 0.0f;
            args.out[spot.pixel * args.channels + c] = sum[k] + behind;
        }
    if (first_channel) return;
    args.light[spot.pixel] = light, args.alphas[spot.pixel] = 1.0f - light, args.ends[spot.pixel] = end;
}

// Blocks: x over the tiles of all images. From back to front; what a splat gets is summed up over a warp.
DF_KERNEL(splat_blend_backward, SplatBlendArgs) {
    DF_SHARED(Splat, splats, THREADS);
    const Spot spot = spot_of(args);
    const float x = spot.x + 0.5f, y = spot.y + 0.5f;
    const float* const grad = args.grad_out + spot.pixel * args.channels;
    const float* const background = args.backgrounds ? args.backgrounds + spot.image * args.channels : nullptr;
    float light = 0.0f, pull = 0.0f, few[KEPT] = {};
    int32_t end = 0;
    if (spot.inside) {
        light = args.light[spot.pixel], end = args.ends[spot.pixel], pull = -args.grad_alphas[spot.pixel];
        for (int k = 0; k < KEPT; ++k)
            if (k < args.channels) few[k] = grad[k];
        for (int k = 0; background && k < args.channels; ++k) pull += background[k] * grad[k];
        pull *= light;
    }
    if (args.grad_backgrounds)
        for (int k = 0; k < args.channels; ++k)
            add_from_warp(args.grad_backgrounds + spot.image * args.channels + k, spot.inside ? light * grad[k] : 0.0f);
    for (int32_t first = (spot.count - 1) / THREADS * THREADS; first >= 0; first -= THREADS) {
        if (!any_in_block(first < end)) continue;  // and nobody reads the last splats any more
        const int32_t mine = first + int32_t(thread_in_block());
        if (mine < spot.count) splats[thread_in_block()] = read(args, args.ids[spot.first + mine]);
        sync_block();
        for (int32_t i = (spot.count - first < THREADS ? spot.count - first : THREADS) - 1; i >= 0; --i) {
            const Splat splat = splats[i];
            const float dx = x - splat.x, dy = y - splat.y, full = strength(splat, dx, dy);
            const float alpha = at_most(full, args.max_alpha);
            const bool here = first + i < end && alpha >= args.min_alpha;
            if (!any_in_warp(here)) continue;
            const int64_t id = splat.id;
            const float *color = args.colors + id * args.channels, *conic = args.conics + 3 * id;
            float along = 0.0f, weight = 0.0f, h = 0.0f;
            if (here) {
                const float inverse = 1.0f / (1.0f - alpha);
                light *= inverse, weight = light * alpha;
                for (int k = 0; k < KEPT; ++k)
                    if (k < args.channels) along += color[k] * few[k];
                for (int k = KEPT; k < args.channels; ++k) along += color[k] * grad[k];
                if (full < args.max_alpha) h = weight * along - pull * (alpha * inverse);
                pull += weight * along;
            }
            const float hx = h * dx, hy = h * dy, zero = 0.0f;
            const float ax = conic[0] * hx + conic[1] * hy, ay = conic[1] * hx + conic[2] * hy;
            const float sums[2 * GRADIENTS] = {
                ax, ay, -0.5f * hx * dx, -hx * dy, -0.5f * hy * dy, h / splat.opacity,
                ax < zero ? -ax : ax, ay < zero ? -ay : ay, weight * few[0], weight * few[1], weight * few[2],
                weight * few[3]};
            const float sum = sums_in_warp(sums);
            float* const to = thread_in_block() % 2 == 0 ? gradient_of(args, id, thread_in_block() % 32 / 2) : nullptr;
            if (to) add_atomically(to, sum);
            for (int k = KEPT; k < args.channels; ++k)
                add_from_warp(args.grad_colors + id * args.channels + k, here ? weight * grad[k] : zero);
        }
    }
}
