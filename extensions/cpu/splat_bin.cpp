// Which Gaussians each tile has, near ones first, on a CPU: one radix sort of an image's Gaussians by depth, then a stable
// counting sort into tiles, for which parts of the Gaussians are counted by themselves.
#include "simd.h"
#include "tasks.h"
//
#include "../include/splat.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int DIGIT = 11, BUCKETS = 1 << DIGIT;

void splat_count(const SplatBinArgs& args) {
    parallel((args.count + SPLAT_CHUNK - 1) / SPLAT_CHUNK, [&](int64_t task) {
        for (int64_t m = task * SPLAT_CHUNK; m < least((task + 1) * SPLAT_CHUNK, args.count); ++m)
            args.tiles[m] = tile_box(args.means2d + 2 * m, args.radii + 2 * m, args.width, args.height).size();
    });
}

struct Item {
    uint32_t key, number;
};

// Stable; the sorted items are in `one` again, or in `two`: what it returns.
static Item* sort(Item* one, Item* two, int64_t count) {
    static_assert(3 * DIGIT > 32, "every bit has its turn");
    uint32_t sizes[3][BUCKETS] = {};
    for (int64_t i = 0; i < count; ++i)
        for (int pass = 0; pass < 3; ++pass) ++sizes[pass][one[i].key >> (pass * DIGIT) & (BUCKETS - 1)];
    for (int pass = 0; pass < 3; ++pass) {
        uint32_t* size = sizes[pass];
        if (count && size[one[0].key >> (pass * DIGIT) & (BUCKETS - 1)] == count) continue;  // all in one bucket
        uint32_t place = 0;
        for (int b = 0; b < BUCKETS; ++b) {
            const uint32_t here = size[b];
            size[b] = place;
            place += here;
        }
        for (int64_t i = 0; i < count; ++i) two[size[one[i].key >> (pass * DIGIT) & (BUCKETS - 1)]++] = one[i];
        Item* other = one;
        one = two, two = other;
    }
    return one;
}

struct Share {
    int64_t first, end;
};

static Share share_of(int64_t count, int64_t part) {
    const int64_t each = (count + SPLAT_PARTS - 1) / SPLAT_PARTS;
    return {least(part * each, count), least((part + 1) * each, count)};
}

// Calls each(Gaussian, slot, tile) for every tile of the Gaussians of a share; fetches those to come.
template <class Each>
static DF_BODY void for_tiles(const SplatBinArgs& args, const Item* items, Share share, const Each& each) {
    for (int64_t i = share.first; i < share.end; ++i) {
        const int64_t m = items[i].number, soon = items[least(i + 16, share.end - 1)].number;
        __builtin_prefetch(args.means2d + 2 * soon), __builtin_prefetch(args.radii + 2 * soon);
        __builtin_prefetch(args.places + soon);
        const TileBox box = tile_box(args.means2d + 2 * m, args.radii + 2 * m, args.width, args.height);
        for (int32_t y = box.top; y < box.bottom; ++y)
            for (int32_t x = box.left; x < box.right; ++x)
                each(items[i], args.places[m] + box.number(x, y), y * tiles_along(args.width) + x);
    }
}

void splat_bin(const SplatBinArgs& args) {
    const int32_t tiles = tiles_along(args.width) * tiles_along(args.height);
    Item *const one = (Item*)args.scratch, *const two = one + args.count;
    uint32_t* const counts = args.scratch + 4 * args.count;  // [images, parts, tiles]
    Item** const sorted = (Item**)__builtin_alloca(sizeof(Item*) * args.images);
    int64_t* const seen = (int64_t*)__builtin_alloca(sizeof(int64_t) * args.images);
    parallel(args.images, [&](int64_t image) {
        Item* to = one + args.first[image];
        for (int64_t m = args.first[image]; m < args.first[image + 1]; ++m)
            if (args.tiles[m] > 0) *to++ = {bits_of(args.depths[m]), uint32_t(m)};
        seen[image] = to - (one + args.first[image]);
        sorted[image] = sort(one + args.first[image], two + args.first[image], seen[image]);
    });
    parallel(args.images * SPLAT_PARTS, [&](int64_t task) {
        uint32_t* const count = counts + task * tiles;
        const int64_t image = task / SPLAT_PARTS;
        const Share share = share_of(seen[image], task % SPLAT_PARTS);
        __builtin_memset(count, 0, sizeof(uint32_t) * tiles);
        for_tiles(args, sorted[image], share, [&](Item, int64_t, int32_t tile) { ++count[tile]; });
    });
    uint32_t place = 0;
    for (int64_t image = 0; image < args.images; ++image)
        for (int32_t tile = 0; tile < tiles; ++tile) {
            args.offsets[image * tiles + tile] = int32_t(place);
            for (int64_t part = 0; part < SPLAT_PARTS; ++part) {
                uint32_t& count = counts[(image * SPLAT_PARTS + part) * tiles + tile];
                const uint32_t here = count;
                count = place;
                place += here;
            }
        }
    parallel(args.images * SPLAT_PARTS, [&](int64_t task) {
        uint32_t* const next = counts + task * tiles;
        const int64_t image = task / SPLAT_PARTS;
        const Share share = share_of(seen[image], task % SPLAT_PARTS);
        const int64_t prefix = tile_key(image, tiles, 0, 0.0f);
        for_tiles(args, sorted[image], share, [&](Item item, int64_t slot, int32_t tile) {
            const uint32_t to = next[tile]++;
            args.ids[to] = int32_t(item.number), args.slots[to] = int32_t(slot);
            args.keys[to] = prefix | int64_t(tile) << 32 | int64_t(item.key);
        });
    });
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
