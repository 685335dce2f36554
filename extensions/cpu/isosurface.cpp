// Isosurfaces on a CPU: tasks of the grid's slabs across x, and of many cubes that the surface crosses.
#include "simd.h"
#include "tasks.h"
//
#include "../include/flexicubes.h"

namespace dreamforge {
namespace DF_LEVEL {

constexpr int64_t CUBES = 128;  // of a task

// Calls body(place) for the places of a grid of x * y * z, numbered with z fastest.
template <class Body>
static void for_places(int32_t x, int32_t y, int32_t z, const Body& body) {
    parallel(x, [&](int64_t slab) {
        GridPlace place{slab * y * z, {int32_t(slab), 0, 0}};
        for (int32_t j = 0; j < y; ++j)
            for (int32_t k = 0; k < z; ++k) {
                place.at[1] = j, place.at[2] = k;
                body(place);
                ++place.number;
            }
    });
}

template <class Args, class Body>
static void for_vertices(const Args& args, const Body& body) {
    for_places(args.size[0] + 1, args.size[1] + 1, args.size[2] + 1, body);
}

template <class Body>
static void for_active(const FlexiArgs& args, const Body& body) {
    parallel((args.count + CUBES - 1) / CUBES, [&](int64_t task) {
        for (int64_t item = task * CUBES; item < least((task + 1) * CUBES, args.count); ++item) body(item);
    });
}

void flexicubes_cases(const FlexiArgs& args) {
    for_places(args.size[0], args.size[1], args.size[2], [&](const GridPlace& cube) {
        args.cases[cube.number] = uint8_t(grid_case(args.s, low_corner(args, cube), args.size));
    });
}

// The tanh of the active cubes' rows of raw weights, of the cubes from `first` to `end`.
template <int N>
static void curve_rows(const FlexiArgs& args, const float* raw, float* to, int64_t first, int64_t end) {
    if (!raw) return;
    for (int64_t item = first; item < end; ++item)
        __builtin_memcpy(to + N * item, raw + N * args.active[item], N * sizeof(float));
    for (int64_t i = N * first; i < N * end; i += W) store_points(to, i, N * end, tanh_of(points_at(to, i, N * end)));
}

void flexicubes_count(const FlexiArgs& args) {
    parallel((args.count + CUBES - 1) / CUBES, [&](int64_t task) {
        const int64_t first = task * CUBES, end = least(first + CUBES, args.count);
        for (int64_t item = first; item < end; ++item) flexi_count(args, item);
        curve_rows<8>(args, args.alpha, args.lean, first, end);
        curve_rows<12>(args, args.beta, args.bend, first, end);
    });
}

void flexicubes_vertices(const FlexiArgs& args) {
    for_active(args, [&](int64_t item) { flexi_vertices(args, item); });
}

void flexicubes_faces(const FlexiArgs& args) {
    for_active(args, [&](int64_t item) { flexi_faces(args, item); });
}

void flexicubes_share(const FlexiArgs& args) {
    for_active(args, [&](int64_t item) { flexi_share(args, item); });
}

void flexicubes_pull(const FlexiArgs& args) {
    for_active(args, [&](int64_t item) { flexi_pull(args, item); });
}

// The first active cube that is not below `cube`.
static int64_t first_active(const FlexiArgs& args, int64_t cube) {
    int64_t low = 0, high = args.count;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (args.active[middle] < cube)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// A plane of the grid across x belongs to one task, and takes what the cubes of both its sides bring in their order.
void flexicubes_gather(const FlexiArgs& args) {
    const int64_t plane = int64_t(args.size[1] + 1) * (args.size[2] + 1), slab = int64_t(args.size[1]) * args.size[2];
    parallel(args.size[0] + 1, [&](int64_t x) {
        if (args.grad_x) __builtin_memset(args.grad_x + 3 * x * plane, 0, 3 * sizeof(float) * plane);
        if (args.grad_s) __builtin_memset(args.grad_s + x * plane, 0, sizeof(float) * plane);
        const int64_t middle = first_active(args, x * slab), end = first_active(args, (x + 1) * slab);
        for (int64_t item = first_active(args, (x - 1) * slab); item < end; ++item) {
            const int64_t low = low_corner(args, cube_place(args, args.active[item]));
            for (int corner = item < middle; corner < 8; corner += 2) {
                const float* const slot = args.slots + 32 * item + 4 * corner;
                const int64_t vertex = low + corner_step(args.size, corner);
                for (int axis = 0; args.grad_x && axis < 3; ++axis) args.grad_x[3 * vertex + axis] += slot[axis];
                if (args.grad_s) args.grad_s[vertex] += slot[3];
            }
        }
    });
}

static int64_t grid_vertices(const TetraArgs& args) {
    return int64_t(args.size[0] + 1) * (args.size[1] + 1) * (args.size[2] + 1);
}

void tetrahedra_count(const TetraArgs& args) {
    const int64_t count = grid_vertices(args);
    for_vertices(args, [&](const GridPlace& vertex) { tetra_count(args, count, vertex); });
}

void tetrahedra_fill(const TetraArgs& args) {
    const int64_t count = grid_vertices(args);
    for_vertices(args, [&](const GridPlace& vertex) { tetra_fill(args, count, vertex); });
}

void tetrahedra_backward(const TetraArgs& args) {
    for_vertices(args, [&](const GridPlace& vertex) { tetra_backward(args, vertex); });
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
