// Splats of tiles on a GPU: a block of 256 threads for each tile, a pixel a thread; the tile's splats come through
// shared memory, 256 at a time. torch sorts the keys between splat_bin and splat_order.
#include "../include/launch.h"
//
#include "../include/splat.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int THREADS = SPLAT_TILE * SPLAT_TILE;
constexpr int KEPT = 4;                // channels that a thread keeps; blocks along y blend the others

// A warp has 8 x 4 pixels: fewer splats touch such a block than a longer one.
constexpr int ACROSS = 8, DOWN = 4;

struct alignas(16) Splat {
    float x, y, a, b;
    float c, opacity, cut;  // cut: beyond this exponent it is cut off, whatever the rounding
    int32_t id;
    float color[KEPT];
    float conic[3], none;
};

DF_BODY Splat read(const SplatBlendArgs& args, int32_t id, int first_channel, int channels) {
    const float* conic = args.conics + 3 * int64_t(id);
    const Falloff<float> f = falloff_of(conic[0], conic[1], conic[2]);
    const float opacity = args.opacities[id];
    const float cut = opacity >= args.min_alpha ? log2_of(opacity / args.min_alpha) + 1e-3f : -1.0f;
    Splat splat = {
        args.means2d[2 * int64_t(id)], args.means2d[2 * int64_t(id) + 1], f.a, f.b, f.c, opacity, cut, id, {}, {}, 0.0f};
    for (int k = 0; k < KEPT; ++k)
        splat.color[k] = k < channels ? args.colors[int64_t(id) * args.channels + first_channel + k] : 0.0f;
    for (int k = 0; k < 3; ++k) splat.conic[k] = conic[k];
    return splat;
}

// The exponent at a pixel: 2 to its negative is what is left of the opacity there. No number where anything is none.
DF_BODY float exponent(const Splat& splat, float dx, float dy) {
    const float u = splat.a * dx + splat.b * dy, v = splat.c * dy;
    return u * u + v * v;
}

// The tile of a block and the pixel of a thread.
struct Spot {
    int64_t image, pixel;
    int32_t x, y, first, count;
    bool inside;
};

DF_BODY Spot spot_of(const SplatBlendArgs& args) {
    const int32_t across = tiles_along(args.width), tiles = across * tiles_along(args.height);
    const int32_t task = block_x(), tile = task % tiles;
    const int32_t warp = thread_in_block() / 32, lane = thread_in_block() % 32, warps = SPLAT_TILE / ACROSS;
    Spot spot;
    spot.image = task / tiles;
    spot.x = tile % across * SPLAT_TILE + warp % warps * ACROSS + lane % ACROSS;
    spot.y = tile / across * SPLAT_TILE + warp / warps * DOWN + lane / ACROSS;
    spot.inside = spot.x < args.width && spot.y < args.height;
    spot.pixel = (spot.image * args.height + spot.y) * args.width + spot.x;
    spot.first = args.offsets[task];
    const int32_t end = task + 1 < args.images * tiles ? args.offsets[task + 1] : int32_t(args.intersections);
    spot.count = end - spot.first;
    return spot;
}

DF_BODY int bits_for(int32_t tiles) {
    int bits = 0;
    while (tiles >> bits) ++bits;
    return bits;
}

// The number of a key's tile among those of all images.
DF_BODY int64_t place_of(int64_t key, int32_t tiles, int bits) {
    const int64_t tile = key >> 32;
    return (tile >> bits) * tiles + (tile & ((int64_t(1) << bits) - 1));
}

}  // namespace DF_LEVEL
}  // namespace dreamforge

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

DF_KERNEL(splat_count, SplatBinArgs) {
    const int64_t m = thread_in_row();
    if (m >= args.count) return;
    args.tiles[m] = tile_box(args.means2d + 2 * m, args.radii + 2 * m, args.width, args.height).size();
    args.keys[m] = args.tiles[m];
}

// `ids` and `keys` in the Gaussians' order; `places` count a Gaussian's own tiles too.
DF_KERNEL(splat_bin, SplatBinArgs) {
    const int64_t m = thread_in_row();
    if (m >= args.count) return;
    const int32_t across = tiles_along(args.width), tiles = across * tiles_along(args.height);
    const TileBox box = tile_box(args.means2d + 2 * m, args.radii + 2 * m, args.width, args.height);
    int64_t image = 0, to = args.places[m] - args.tiles[m];
    while (args.first[image + 1] <= m) ++image;
    for (int32_t y = box.top; y < box.bottom; ++y)
        for (int32_t x = box.left; x < box.right; ++x, ++to) {
            args.keys[to] = tile_key(image, tiles, y * across + x, args.depths[m]);
            args.slots[to] = int32_t(m);
        }
}

// From sorted keys and their `order`: the Gaussian of each, from `slots`, and where each tile begins. A thread for each
// key, and one for the end.
DF_KERNEL(splat_order, SplatBinArgs) {
    const int64_t i = thread_in_row();
    if (i > args.intersections) return;
    const int32_t tiles = tiles_along(args.width) * tiles_along(args.height);
    const int bits = bits_for(tiles);
    const int64_t last = args.images * tiles - 1;
    const int64_t before = i > 0 ? place_of(args.keys[i - 1], tiles, bits) : -1;
    const int64_t mine = i < args.intersections ? place_of(args.keys[i], tiles, bits) : last;
    for (int64_t place = before + 1; place <= mine; ++place) args.offsets[place] = int32_t(i);
    if (i < args.intersections) args.ids[i] = args.slots[args.places[i]];
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
        if (mine < spot.count) splats[thread_in_block()] = read(args, args.ids[spot.first + mine], first_channel, channels);
        sync_block();
        for (int32_t i = 0; i < THREADS && first + i < spot.count && !done; ++i) {
            const Splat& splat = splats[i];
            const float power = exponent(splat, x - splat.x, y - splat.y);
            if (!(power <= splat.cut)) continue;
            const float alpha = at_most(splat.opacity * exp2_minus(power), args.max_alpha);
            if (!(alpha >= args.min_alpha)) continue;
            const float next = light - light * alpha, weight = light * alpha;
            if (next <= args.stop) {
                done = true, end = first + i;
                break;
            }
            for (int k = 0; k < KEPT; ++k) sum[k] += weight * splat.color[k];
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

// Blocks: x over the tiles of all images. From back to front; what a splat gets is summed up over a warp, whose threads
// then add it to the splat's row of `parts`: place, conic, opacity, absolute by the place, channels.
DF_KERNEL(splat_blend_backward, SplatBlendArgs) {
    DF_SHARED(Splat, splats, THREADS);
    const Spot spot = spot_of(args);
    const float x = spot.x + 0.5f, y = spot.y + 0.5f;
    const float* const grad = args.grad_out + spot.pixel * args.channels;
    const float* const background = args.backgrounds ? args.backgrounds + spot.image * args.channels : nullptr;
    const int row = SPLAT_MOMENTS + args.channels, kept = args.channels < KEPT ? args.channels : KEPT;
    const int number = thread_in_block() % 32 / 2;
    const bool adds = thread_in_block() % 2 == 0 && number < SPLAT_MOMENTS + kept &&
                      (args.absgrad || number < SPLAT_MOMENTS - 2 || number >= SPLAT_MOMENTS);
    float light = 0.0f, pull = 0.0f, few[KEPT] = {};
    int32_t end = 0;
    if (spot.inside) {
        light = args.light[spot.pixel], end = args.ends[spot.pixel];
        pull = args.grad_alphas ? -args.grad_alphas[spot.pixel] : 0.0f;
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
        if (mine < spot.count) splats[thread_in_block()] = read(args, args.ids[spot.first + mine], 0, kept);
        sync_block();
        for (int32_t i = (spot.count - first < THREADS ? spot.count - first : THREADS) - 1; i >= 0; --i) {
            const Splat& splat = splats[i];
            const float dx = x - splat.x, dy = y - splat.y, power = exponent(splat, dx, dy);
            bool here = first + i < end && power <= splat.cut;
            if (!any_in_warp(here)) continue;
            const float full = splat.opacity * exp2_minus(power), alpha = at_most(full, args.max_alpha);
            here = here && alpha >= args.min_alpha;
            float along = 0.0f, weight = 0.0f, h = 0.0f;
            if (here) {
                const float inverse = 1.0f / (1.0f - alpha);
                light *= inverse, weight = light * alpha;
                for (int k = 0; k < KEPT; ++k) along += splat.color[k] * few[k];
                for (int k = KEPT; k < args.channels; ++k)
                    along += args.colors[int64_t(splat.id) * args.channels + k] * grad[k];
                if (full < args.max_alpha) h = weight * along - pull * (alpha * inverse);
                pull += weight * along;
            }
            const float hx = h * dx, hy = h * dy, zero = 0.0f;
            const float ax = splat.conic[0] * hx + splat.conic[1] * hy, ay = splat.conic[1] * hx + splat.conic[2] * hy;
            const float sums[2 * SPLAT_MOMENTS] = {
                ax, ay, -0.5f * hx * dx, -hx * dy, -0.5f * hy * dy, h / splat.opacity,
                ax < zero ? -ax : ax, ay < zero ? -ay : ay, weight * few[0], weight * few[1], weight * few[2],
                weight * few[3]};
            const float sum = sums_in_warp(sums);
            float* const to = args.parts + int64_t(splat.id) * row;
            if (adds) add_atomically(to + number, sum);
            for (int k = KEPT; k < args.channels; ++k)
                add_from_warp(to + SPLAT_MOMENTS + k, here ? weight * grad[k] : zero);
        }
    }
}
