// The hash encoding on a CPU, level by level over many points: a level's table then stays in the cache.
#include "simd.h"
#include "tasks.h"
//
#include "../include/hashgrid.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int CORNERS = 8;
constexpr int64_t CHUNK = 1 << 14;  // points of a task

// The rows of the corners around W points, and how far these are in their cells. In a dense level whose border is far
// the corners c and c + 1 of an even c, neighbours along x, are `neighbours` in the table too.
struct Cells {
    Words row[CORNERS];
    Floats fraction[3];
    bool neighbours;
};

DF_BODY Cells find(const HashGridArgs& args, int64_t first, const GridLevel& level) {
    Cells cells;
    Words vertex[3];
    for (int axis = 0; axis < 3; ++axis)
        locate(points_at(args.axes + axis * args.points, first, args.points), level.scale, vertex[axis],
               cells.fraction[axis]);
    for (int c = 0; c < CORNERS; ++c) cells.row[c] = corner_row(c, vertex, level);
    cells.neighbours = false;
    if (level.hashed) {  // 2^T entries
        for (Words& row : cells.row) row &= level.entries - 1;
        return cells;
    }
    // The division is slow, and only points at the upper border or outside of [0, 1] need it.
    Ints over = cells.row[0] >= level.entries;
    for (int c = 1; c < CORNERS; ++c) over |= cells.row[c] >= level.entries;
    cells.neighbours = !any(over);
    if (!cells.neighbours)
        for (Words& row : cells.row) row %= level.entries;
    return cells;
}

// The sums of two features where corners are neighbours: one load for both ends of an edge along x.
DF_BODY void encode_pairs(const float* table, const Cells& cells, Floats (&sum)[2]) {
    alignas(64) uint32_t row[4][W];
    alignas(64) float across[4][W], along[W], found[2][W];
    for (int e = 0; e < 4; ++e) {
        store(row[e], cells.row[2 * e]);
        store(across[e], side(2 * e, 2, cells.fraction[2]) * side(2 * e, 1, cells.fraction[1]));
    }
    store(along, cells.fraction[0]);
    for (int p = 0; p < W; ++p) {
        Four edge = across[0][p] * load<Four>(table + 2 * int64_t(row[0][p]));
        for (int e = 1; e < 4; ++e) edge += across[e][p] * load<Four>(table + 2 * int64_t(row[e][p]));
        found[0][p] = edge[0] + along[p] * (edge[2] - edge[0]);
        found[1][p] = edge[1] + along[p] * (edge[3] - edge[1]);
    }
    for (int f = 0; f < 2; ++f) sum[f] = load<Floats>(found[f]);
}

template <int F, class T>
void encode_level(const HashGridArgs& args, int number, int64_t first, int64_t end) {
    const GridLevel level = args.levels[number];
    const T* table = (const T*)args.table + int64_t(level.first) * F;
    float* out = args.out + number * F * args.points;
    for (int64_t i = first; i < end; i += W) {
        Cells cells = find(args, i, level);
        Floats sum[F] = {};
        if constexpr (F == 2 && sizeof(T) == 4)
            if (cells.neighbours) {
                encode_pairs(table, cells, sum);
                for (int f = 0; f < F; ++f) store_points(out + f * args.points, i, args.points, sum[f]);
                continue;
            }
        for (int c = 0; c < CORNERS; ++c) {
            Floats weight = corner_weight(c, cells.fraction), value[F];
            gather_rows<F, T>(table, cells.row[c], value);
            for (int f = 0; f < F; ++f) sum[f] += weight * value[f];
        }
        for (int f = 0; f < F; ++f) store_points(out + f * args.points, i, args.points, sum[f]);
    }
}

// d encoded / d point: corner weights are products of three sides, their slopes per axis sum up with what lies there.
template <int F, class T>
void pull_points(const HashGridArgs& args, int number, int64_t first, int64_t end) {
    const GridLevel level = args.levels[number];
    const T* table = (const T*)args.table + int64_t(level.first) * F;
    const float* grad = args.grad + number * F * args.points;
    for (int64_t i = first; i < end; i += W) {
        Cells cells = find(args, i, level);
        Floats sum[3] = {}, pull[F];
        for (int f = 0; f < F; ++f) pull[f] = points_at(grad + f * args.points, i, args.points);
        for (int c = 0; c < CORNERS; ++c) {
            Floats value[F], along{};
            gather_rows<F, T>(table, cells.row[c], value);
            for (int f = 0; f < F; ++f) along += pull[f] * value[f];
            for (int axis = 0; axis < 3; ++axis) sum[axis] += along * corner_slope(c, axis, cells.fraction);
        }
        for (int axis = 0; axis < 3; ++axis) {
            float* out = args.out + axis * args.points;
            Floats before = number ? points_at(out, i, args.points) : Floats{};
            store_points(out, i, args.points, before + sum[axis] * level.scale);
        }
    }
}

// The entries [from, to) of one level, or ALL, belong to this task alone, and take what the points bring in their order: so
// the sum does not depend on the number of threads.
template <int F, bool ALL>
void scatter_level(const HashGridArgs& args, int number, uint32_t from, uint32_t to) {
    const GridLevel level = args.levels[number];
    const float* grad = args.grad + number * F * args.points;
    float* out = args.out + (int64_t(level.first) + from) * F;
    __builtin_memset(out, 0, sizeof(float) * F * (to - from));
    alignas(64) uint32_t row[CORNERS][W];
    alignas(64) float pull[CORNERS][W * F];  // of each corner the F numbers of each point
    for (int64_t i = 0; i < args.points; i += W) {
        Floats given[F];
        Ints pulls{};
        for (int f = 0; f < F; ++f) pulls |= (given[f] = points_at(grad + f * args.points, i, args.points)) != 0.0f;
        if (!any(pulls)) continue;
        Cells cells = find(args, i, level);
        for (int c = 0; c < CORNERS; ++c) store(row[c], cells.row[c] - from);
        if constexpr (F == 2)
            if (cells.neighbours) {  // both ends of an edge along x at once
                for (int c = 0; c < CORNERS; c += 2) {
                    Floats low = corner_weight(c, cells.fraction), high = corner_weight(c + 1, cells.fraction);
                    for_quads(low * given[0], low * given[1], high * given[0], high * given[1], [&](int p, Four quad) {
                        float* entry = out + 2 * int64_t(row[c][p]);
                        if constexpr (ALL) return store(entry, load<Four>(entry) + quad);
                        if (row[c][p] < to - from) store(entry, load<Two>(entry) + Two{quad[0], quad[1]});
                        entry = out + 2 * int64_t(row[c + 1][p]);
                        if (row[c + 1][p] < to - from) store(entry, load<Two>(entry) + Two{quad[2], quad[3]});
                    });
                }
                continue;
            }
        for (int c = 0; c < CORNERS; ++c) {
            Floats weight = corner_weight(c, cells.fraction);
            if constexpr (F == 2)
                store_pairs(pull[c], weight * given[0], weight * given[1]);
            else
                for (int f = 0; f < F; ++f)
                    for (int p = 0; p < W; ++p) pull[c][p * F + f] = (weight * given[f])[p];
        }
        for (int p = 0; p < W; ++p)  // behind the last point zeros are added
            for (int c = 0; c < CORNERS; ++c)
                if (ALL || row[c][p] < to - from) {
                    float* entry = out + int64_t(row[c][p]) * F;
                    if constexpr (F == 2)
                        store(entry, load<Two>(entry) + load<Two>(pull[c] + 2 * p));
                    else
                        for (int f = 0; f < F; ++f) entry[f] += pull[c][p * F + f];
                }
    }
}

template <template <int> class Body>
void for_features(const HashGridArgs& args) {
    switch (args.features) {
        case 1: return Body<1>::run(args);
        case 2: return Body<2>::run(args);
        case 4: return Body<4>::run(args);
        case 8: return Body<8>::run(args);
    }
}

template <int F>
struct Encode {
    static void run(const HashGridArgs& args) {
        const int64_t chunks = (args.points + CHUNK - 1) / CHUNK;
        parallel(args.count * chunks, [&](int64_t task) {
            const int level = int(task / chunks);
            const int64_t first = task % chunks * CHUNK, end = least(first + CHUNK, args.points);
            args.half ? encode_level<F, Half>(args, level, first, end) : encode_level<F, float>(args, level, first, end);
        });
    }
};

template <int F>
struct GradTable {
    static void run(const HashGridArgs& args) {
        const int64_t parts = (2 * thread_total() - 2) / args.count + 1;  // one, unless there are many threads
        parallel(args.count * parts, [&](int64_t task) {
            const int level = int(task / parts);
            const int64_t part = task % parts, entries = args.levels[level].entries;
            const uint32_t from = uint32_t(entries * part / parts), to = uint32_t(entries * (part + 1) / parts);
            parts == 1 ? scatter_level<F, true>(args, level, from, to) : scatter_level<F, false>(args, level, from, to);
        });
    }
};

template <int F>
struct GradPoints {
    static void run(const HashGridArgs& args) {
        parallel((args.points + CHUNK - 1) / CHUNK, [&](int64_t task) {
            const int64_t first = task * CHUNK, end = least(first + CHUNK, args.points);
            for (int level = 0; level < args.count; ++level)
                args.half ? pull_points<F, Half>(args, level, first, end) : pull_points<F, float>(args, level, first, end);
        });
    }
};

void hashgrid_encode(const HashGridArgs& args) { for_features<Encode>(args); }
void hashgrid_grad_table(const HashGridArgs& args) { for_features<GradTable>(args); }
void hashgrid_grad_points(const HashGridArgs& args) { for_features<GradPoints>(args); }

}  // namespace DF_LEVEL
}  // namespace dreamforge
