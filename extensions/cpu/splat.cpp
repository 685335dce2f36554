// Blending of splats on a CPU: a task is a tile of 16 x 16 pixels, a vector a block of 4 x W/4 of them. A splat meets the
// blocks that its ellipse can reach and where light is left.
#include "simd.h"
#include "tasks.h"
//
#include "../include/splat.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int COLUMNS = 4, HEIGHT = W / COLUMNS, STRIPS = SPLAT_TILE / HEIGHT, BLOCKS = STRIPS * COLUMNS;
constexpr int BATCH = 64;             // splats that are made ready at once
constexpr float NEVER = 3.0e38f;      // no alpha is as much

// Some splats of a tile; x and y from the tile's corner.
struct Batch {
    alignas(64) float a[BATCH], b[BATCH], c[BATCH], x[BATCH], y[BATCH], opacity[BATCH];
    alignas(64) uint32_t low[BATCH], high[BATCH];  // blocks that it can reach, a bit each
    DF_BODY uint64_t blocks(int i) const { return uint64_t(high[i]) << 32 | low[i]; }
};

// Which blocks of the tile have a pixel with u^2 + v^2 <= reach: of each strip of blocks the extremes of the ellipse in it.
static DF_BODY void find_blocks(Falloff<Floats> f, Floats x, Floats y, Floats reach, Words& low, Words& high) {
    const Floats zeros{}, root = root_of(at_least(reach, 0.0f)), side = 1.0f / f.a;
    const Floats extreme = root * f.b / (f.c * root_of(f.b * f.b + f.c * f.c));  // -dy of the rightmost point
    low = high = Words{};
    for (int s = 0; s < STRIPS; ++s) {
        const Floats top = float(s * HEIGHT) + 0.5f - y, bottom = top + float(HEIGHT - 1);
        const auto within = [&](Floats dy) { dy = dy < top ? top : dy; return dy > bottom ? bottom : dy; };
        const auto half = [&](Floats dy) {
            return root_of(at_least(reach - f.c * f.c * dy * dy, 0.0f));
        };
        const Floats nearest = within(zeros), right_at = within(-extreme), left_at = within(extreme);
        const Floats left = x + (-f.b * left_at - half(left_at)) * side - 0.52f;    // in pixels; a little beyond
        const Floats right = x + (-f.b * right_at + half(right_at)) * side - 0.48f;
        Floats from = floor_of(-floor_of(-left) * 0.25f), to = floor_of(floor_of(right) * 0.25f);
        from = at_most(at_least(from, 0.0f), 4.0f), to = at_most(at_least(to, -1.0f), 3.0f);
        Words bits = ((Words{} + 15u) << vertex_of(from)) & ((Words{} + 15u) >> vertex_of(3.0f - to));
        bits &= (Words)(f.c * f.c * nearest * nearest <= reach);
        (s < 8 ? low : high) |= bits << (4 * s & 31);
    }
}

// Of a Gaussian, in one place: its falloff, where it is, the greatest u^2 + v^2 that counts, opacity; then nothing.
enum Record { A, B, C, X, Y, REACH, OPACITY, RECORD = 8 };

static void write_records(const SplatBlendArgs& args) {
    parallel((args.count + SPLAT_CHUNK - 1) / SPLAT_CHUNK, [&](int64_t task) {
        const int64_t end = least((task + 1) * SPLAT_CHUNK, args.count);
        for (int64_t first = task * SPLAT_CHUNK; first < end; first += W) {
            float numbers[RECORD][W];
            const int lanes = int(least(W, end - first));
            Words m = lane_numbers() + uint32_t(first);
            m = m < uint32_t(end) ? m : Words{} + uint32_t(end - 1);
            const Floats opacity = gather(args.opacities, m);
            const Falloff<Floats> f = falloff_of(gather(args.conics, m * 3u), gather(args.conics, m * 3u + 1u),
                                                 gather(args.conics, m * 3u + 2u));
            // a little more, as blocks are found with rounding
            const Floats reach = log2_of(opacity * (1.0f / args.min_alpha)) * 1.001f + 0.01f;
            store(numbers[A], f.a), store(numbers[B], f.b), store(numbers[C], f.c);
            store(numbers[X], gather(args.means2d, m * 2u)), store(numbers[Y], gather(args.means2d, m * 2u + 1u));
            store(numbers[REACH], reach), store(numbers[OPACITY], opacity), store(numbers[RECORD - 1], Floats{});
            for (int i = 0; i < lanes; ++i)
                for (int k = 0; k < RECORD; ++k) args.records[(first + i) * RECORD + k] = numbers[k][i];
        }
    });
}

static DF_BODY void fetch(const SplatBlendArgs& args, const int32_t* ids, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        __builtin_prefetch(args.records + int64_t(ids[i]) * RECORD);
        __builtin_prefetch(args.colors + int64_t(ids[i]) * args.channels);
    }
}

// `count` splats of `ids`, of a tile whose corner is at left, top.
static void prepare(const SplatBlendArgs& args, const int32_t* ids, int count, float left, float top, Batch& batch) {
    for (int i = 0; i < count; i += W) {
        Words id{};
        for (int lane = 0; lane < W && i + lane < count; ++lane) id[lane] = uint32_t(ids[i + lane]);
        const auto read = [&](Record which) { return gather(args.records + which, id * uint32_t(RECORD)); };
        const Falloff<Floats> f{read(A), read(B), read(C)};
        const Floats x = read(X) - left, y = read(Y) - top, reach = read(REACH);
        Words low, high;
        find_blocks(f, x, y, reach, low, high);
        store(batch.low + i, low), store(batch.high + i, high);
        store(batch.a + i, f.a), store(batch.b + i, f.b), store(batch.c + i, f.c);
        store(batch.x + i, x), store(batch.y + i, y), store(batch.opacity + i, read(OPACITY));
    }
}

// Where a tile lies, and which splats it has.
struct Tile {
    int32_t image, number, left, top;
    const int32_t *ids, *slots;
    int32_t count;
};

static Tile tile_of(const SplatBlendArgs& args, int64_t task) {
    const int32_t across = tiles_along(args.width), tiles = across * tiles_along(args.height);
    const int32_t number = int32_t(task % tiles);
    const int64_t first = args.offsets[task];
    const int64_t end = task + 1 < int64_t(args.images) * tiles ? args.offsets[task + 1] : args.intersections;
    return {int32_t(task / tiles), number, number % across * SPLAT_TILE, number / across * SPLAT_TILE,
            args.ids + first, args.slots + first, int32_t(end - first)};
}

// Calls each(block, lane, pixel of all images) for the tile's pixels that lie in the image.
template <class Each>
static DF_BODY void for_pixels(const SplatBlendArgs& args, const Tile& tile, const Each& each) {
    const int32_t down = int32_t(least(SPLAT_TILE, args.height - tile.top));
    const int32_t along = int32_t(least(SPLAT_TILE, args.width - tile.left));
    for (int32_t y = 0; y < down; ++y)
        for (int32_t x = 0; x < along; ++x)
            each(y / HEIGHT * COLUMNS + x / COLUMNS, y % HEIGHT * COLUMNS + x % COLUMNS,
                 (int64_t(tile.image) * args.height + tile.top + y) * args.width + tile.left + x);
}

// From a splat's x and y to the pixels of the tile's first block; from there to those of block b.
struct Lanes {
    Floats x, y;
    float across[BLOCKS], down[BLOCKS];
    Lanes() {
        for (int i = 0; i < W; ++i) x[i] = float(i % COLUMNS) + 0.5f, y[i] = float(i / COLUMNS) + 0.5f;
        for (int b = 0; b < BLOCKS; ++b) across[b] = float(b % COLUMNS * COLUMNS), down[b] = float(b / COLUMNS * HEIGHT);
    }
};

// What a block of pixels has seen so far; channels follow.
struct Pixels {
    Floats light;      // that is left
    Floats least;      // the least alpha that counts; NEVER where no more does
    Ints end;          // the first splat that does not
    Floats sum[1];
};

// One splat onto one block. Returns whether some pixel has had enough.
template <int D>
static DF_BODY bool blend(const SplatBlendArgs& args, Floats dx, Floats dy, float a, float b, float c, float opacity,
                          const float* color, int number, Pixels& pixels) {
    const Floats u = a * dx + b * dy, v = c * dy, zeros{};
    Floats alpha = opacity * exp2_minus(u * u + v * v);
    alpha = at_most(alpha, args.max_alpha);
    alpha = alpha >= pixels.least ? alpha : zeros;
    const Floats light = pixels.light, next = light - light * alpha;
    const Ints enough = next <= args.stop;
    const Floats weight = enough ? zeros : light * alpha;
    pixels.light = enough ? light : next;
    const int channels = D ? D : args.channels;
    for (int k = 0; k < channels; ++k) pixels.sum[k] += weight * color[k];
    if (!any(enough)) return false;
    pixels.end = enough ? Ints{} + number : pixels.end;
    pixels.least = enough ? zeros + NEVER : pixels.least;
    return true;
}

static DF_BODY Pixels& pixels_of(Floats* state, int block, int channels) {
    return *(Pixels*)(state + int64_t(block) * (3 + channels));
}

template <int D>
static void blend_tile(const SplatBlendArgs& args, const Tile& tile) {
    const int channels = D ? D : args.channels;
    Floats* const state = (Floats*)__builtin_alloca_with_align(sizeof(Floats) * BLOCKS * (3 + channels), 512);
    __builtin_memset((void*)state, 0, sizeof(Floats) * BLOCKS * (3 + channels));
    for (int block = 0; block < BLOCKS; ++block) pixels_of(state, block, channels).least += NEVER;
    uint64_t alive = 0;
    for_pixels(args, tile, [&](int block, int lane, int64_t) {
        Pixels& pixels = pixels_of(state, block, channels);
        pixels.light[lane] = 1.0f, pixels.least[lane] = args.min_alpha, pixels.end[lane] = tile.count;
        alive |= uint64_t(1) << block;
    });
    for (int block = 0; block < BLOCKS; ++block) {  // beside the image
        Floats& light = pixels_of(state, block, channels).light;
        light = light > 0.0f ? light : Floats{} + 1.0f;
    }
    const Lanes lanes;
    Batch batch;
    for (int32_t first = 0; first < tile.count && alive; first += BATCH) {
        const int count = int(least(BATCH, tile.count - first));
        fetch(args, tile.ids + first + count, least(BATCH, tile.count - first - count));
        prepare(args, tile.ids + first, count, float(tile.left), float(tile.top), batch);
        for (int i = 0; i < count; ++i) {
            const Floats x = lanes.x - batch.x[i], y = lanes.y - batch.y[i];
            const float* color = args.colors + int64_t(tile.ids[first + i]) * channels;
            for (uint64_t blocks = batch.blocks(i) & alive; blocks; blocks &= blocks - 1) {
                const int block = __builtin_ctzll(blocks);
                Pixels& pixels = pixels_of(state, block, channels);
                if (blend<D>(args, x + lanes.across[block], y + lanes.down[block], batch.a[i], batch.b[i], batch.c[i],
                             batch.opacity[i], color, first + i, pixels) &&
                    !any(pixels.least < NEVER))
                    alive &= ~(uint64_t(1) << block);
            }
        }
    }
    const float* behind = args.backgrounds ? args.backgrounds + int64_t(tile.image) * channels : nullptr;
    for_pixels(args, tile, [&](int block, int lane, int64_t pixel) {
        const Pixels& pixels = pixels_of(state, block, channels);
        const float light = pixels.light[lane];
        args.light[pixel] = light, args.alphas[pixel] = 1.0f - light, args.ends[pixel] = pixels.end[lane];
        for (int k = 0; k < channels; ++k)
            args.out[pixel * channels + k] = pixels.sum[k][lane] + (behind ? light * behind[k] : 0.0f);
    });
}

template <template <int> class Body>
static void for_channels(const SplatBlendArgs& args) {
    const int64_t tiles = int64_t(args.images) * tiles_along(args.width) * tiles_along(args.height);
    switch (args.channels) {
        case 1: return parallel(tiles, [&](int64_t task) { Body<1>::run(args, tile_of(args, task)); });
        case 3: return parallel(tiles, [&](int64_t task) { Body<3>::run(args, tile_of(args, task)); });
        case 4: return parallel(tiles, [&](int64_t task) { Body<4>::run(args, tile_of(args, task)); });
        default: return parallel(tiles, [&](int64_t task) { Body<0>::run(args, tile_of(args, task)); });
    }
}

template <int D>
struct Forward {
    static void run(const SplatBlendArgs& args, const Tile& tile) { blend_tile<D>(args, tile); }
};

void splat_blend(const SplatBlendArgs& args) {
    write_records(args);
    for_channels<Forward>(args);
}

// What a block of pixels still has in front of it, going from back to front; channels of the gradient follow.
struct Behind {
    Floats light;      // that reaches what comes next, and then what is behind it
    Floats pull;       // the gradient by the light, times the light, of all that is behind
    Ints end;
    Floats grad[1];
};

static DF_BODY Behind& behind_of(Floats* state, int block, int channels) {
    return *(Behind*)(state + int64_t(block) * (3 + channels));
}

// Sums over pixels for one splat in one tile, see conic_gradient; then the absolute gradient by its place in the image.
struct Moments {
    Floats sum[SPLAT_MOMENTS];
};

template <int D, bool ABS>
static DF_BODY void blend_backward(const SplatBlendArgs& args, Floats dx, Floats dy, const Batch& batch, int i,
                                   const float* conic, const float* color, int number, Behind& behind, Moments& moments,
                                   Floats* to_color) {
    const Floats u = batch.a[i] * dx + batch.b[i] * dy, v = batch.c[i] * dy, zeros{};
    const Floats full = batch.opacity[i] * exp2_minus(u * u + v * v);
    Floats alpha = at_most(full, args.max_alpha);
    alpha = alpha >= args.min_alpha ? alpha : zeros;
    alpha = number < behind.end ? alpha : zeros;
    const Floats inverse = 1.0f / (1.0f - alpha), light = behind.light * inverse, weight = light * alpha;
    const int channels = D ? D : args.channels;
    Floats along{};
    for (int k = 0; k < channels; ++k) {
        along += color[k] * behind.grad[k];
        to_color[k] += weight * behind.grad[k];
    }
    Floats h = weight * along - behind.pull * (alpha * inverse);  // alpha dL/dalpha
    h = full < args.max_alpha ? h : zeros;
    behind.pull += weight * along;
    behind.light = light;
    const Floats hx = h * dx, hy = h * dy;
    moments.sum[0] += h, moments.sum[1] += hx, moments.sum[2] += hy;
    moments.sum[3] += hx * dx, moments.sum[4] += hx * dy, moments.sum[5] += hy * dy;
    if (ABS) {
        const Floats x = conic[0] * hx + conic[1] * hy, y = conic[1] * hx + conic[2] * hy;
        moments.sum[6] += x < 0.0f ? -x : x, moments.sum[7] += y < 0.0f ? -y : y;
    }
}

static DF_BODY int slot_size(int channels) { return (SPLAT_MOMENTS + channels + 3) / 4 * 4; }

static DF_BODY float* slot_of(const SplatBlendArgs& args, const Tile& tile, int32_t i) {
    return args.parts + int64_t(tile.slots[i]) * slot_size(args.channels);
}

// Fills the state of a tile's blocks, and its share of the background's gradient; returns where its last splat is.
template <int D>
static int32_t read_behind(const SplatBlendArgs& args, const Tile& tile, Floats* state, float* to_background) {
    const int channels = D ? D : args.channels;
    const float* background = args.backgrounds ? args.backgrounds + int64_t(tile.image) * channels : nullptr;
    int32_t last = 0;
    for_pixels(args, tile, [&](int block, int lane, int64_t pixel) {
        Behind& behind = behind_of(state, block, channels);
        const float light = args.light[pixel];
        float pull = args.grad_alphas ? -args.grad_alphas[pixel] : 0.0f;
        for (int k = 0; k < channels; ++k) {
            const float grad = args.grad_out[pixel * channels + k];
            behind.grad[k][lane] = grad;
            if (background) pull += background[k] * grad;
            if (to_background) to_background[k] += light * grad;
        }
        behind.light[lane] = light, behind.pull[lane] = light * pull, behind.end[lane] = args.ends[pixel];
        if (args.ends[pixel] > last) last = args.ends[pixel];
    });
    return last;
}

template <int D, bool ABS>
static void tile_backward(const SplatBlendArgs& args, const Tile& tile) {
    const int channels = D ? D : args.channels, size = slot_size(channels);
    Floats* const state = (Floats*)__builtin_alloca_with_align(sizeof(Floats) * BLOCKS * (3 + channels), 512);
    Floats known[D ? D + 3 : 1], *to_color = known;
    if constexpr (!D) to_color = (Floats*)__builtin_alloca_with_align(sizeof(Floats) * (channels + 3), 512);
    __builtin_memset((void*)state, 0, sizeof(Floats) * BLOCKS * (3 + channels));
    const int32_t tiles = tiles_along(args.width) * tiles_along(args.height);
    float* to_background = nullptr;
    if (args.scratch) {
        to_background = args.scratch + (int64_t(tile.image) * tiles + tile.number) * channels;
        __builtin_memset(to_background, 0, sizeof(float) * channels);
    }
    const int32_t last = read_behind<D>(args, tile, state, to_background);
    for (int32_t i = last; i < tile.count; ++i) __builtin_memset(slot_of(args, tile, i), 0, sizeof(float) * size);
    const Lanes lanes;
    Batch batch;
    for (int32_t first = (last - 1) / BATCH * BATCH; first >= 0 && last > 0; first -= BATCH) {
        const int count = int(least(BATCH, last - first));
        fetch(args, tile.ids + first - BATCH, first ? BATCH : 0);
        prepare(args, tile.ids + first, count, float(tile.left), float(tile.top), batch);
        for (int i = count - 1; i >= 0; --i) {
            const int32_t id = tile.ids[first + i];
            const Floats x = lanes.x - batch.x[i], y = lanes.y - batch.y[i];
            const float *color = args.colors + int64_t(id) * channels, *conic = args.conics + int64_t(id) * 3;
            Moments moments{};
            for (int k = 0; k < channels + 3; ++k) to_color[k] = Floats{};
            for (uint64_t blocks = batch.blocks(i); blocks; blocks &= blocks - 1) {
                const int block = __builtin_ctzll(blocks);
                blend_backward<D, ABS>(args, x + lanes.across[block], y + lanes.down[block], batch, i, conic, color, first + i,
                                       behind_of(state, block, channels), moments, to_color);
            }
            float* const slot = slot_of(args, tile, first + i);
            const Floats* m = moments.sum;
            store(slot, sums_of(m[0], m[1], m[2], m[3]));
            store(slot + 4, sums_of(m[4], m[5], m[6], m[7]));
            for (int k = 0; k < channels; k += 4)
                store(slot + SPLAT_MOMENTS + k, sums_of(to_color[k], to_color[k + 1], to_color[k + 2], to_color[k + 3]));
        }
    }
}

template <int D>
struct Backward {
    static void run(const SplatBlendArgs& args, const Tile& tile) {
        args.absgrad ? tile_backward<D, true>(args, tile) : tile_backward<D, false>(args, tile);
    }
};

// The slots of a Gaussian, in their order.
static void sum_slots(const SplatBlendArgs& args, int64_t m) {
    const int channels = args.channels, size = slot_size(channels);
    const int32_t count = args.tiles[m];
    float* const sum = (float*)__builtin_alloca(sizeof(float) * size);
    __builtin_memset(sum, 0, sizeof(float) * size);
    for (int32_t i = 0; i < count; ++i) {
        const float* slot = args.parts + (args.places[m] + i) * size;
        for (int k = 0; k < size; k += 4) store(sum + k, load<Four>(sum + k) + load<Four>(slot + k));
    }
    float *mean = args.grad_means2d + 2 * m, *conic = args.grad_conics + 3 * m, *opacity = args.grad_opacities + m;
    conic_gradient(sum, args.conics + 3 * m, count ? args.opacities[m] : 1.0f, mean, conic, opacity);
    for (int k = 0; k < channels; ++k) args.grad_colors[m * channels + k] = sum[SPLAT_MOMENTS + k];
    if (args.absgrad) args.absgrad[2 * m] = sum[6], args.absgrad[2 * m + 1] = sum[7];
}

void splat_blend_backward(const SplatBlendArgs& args) {
    for_channels<Backward>(args);
    parallel((args.count + SPLAT_CHUNK - 1) / SPLAT_CHUNK, [&](int64_t task) {
        for (int64_t m = task * SPLAT_CHUNK; m < least((task + 1) * SPLAT_CHUNK, args.count); ++m) sum_slots(args, m);
    });
    if (!args.scratch) return;
    const int64_t tiles = int64_t(tiles_along(args.width)) * tiles_along(args.height);
    for (int64_t image = 0; image < args.images; ++image)
        for (int k = 0; k < args.channels; ++k) {
            float sum = 0.0f;
            for (int64_t tile = 0; tile < tiles; ++tile) sum += args.scratch[(image * tiles + tile) * args.channels + k];
            args.grad_backgrounds[image * args.channels + k] = sum;
        }
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
