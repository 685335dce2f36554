// Isosurfaces on a GPU: a thread for each cube that the surface crosses, or for each of the grid's cubes or vertices.
#include "../include/launch.h"
//
#include "../include/flexicubes.h"

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

namespace dreamforge {
namespace DF_LEVEL {

template <class Args>
DF_BODY int64_t grid_vertices(const Args& args) {
    return int64_t(args.size[0] + 1) * (args.size[1] + 1) * (args.size[2] + 1);
}

template <class Args>
DF_BODY GridPlace vertex_place(const Args& args, int64_t number) {
    return place_in(number, args.size[1] + 1, args.size[2] + 1);
}

// A vertex of the grid takes what the eight cubes around it bring, in one order.
DF_BODY void flexi_gather(const FlexiArgs& args, const GridPlace& vertex) {
    float sum[4] = {};
    for (int c = 0; c < 8; ++c) {
        int64_t cube = 0;
        bool there = true;
        for (int axis = 0; axis < 3; ++axis) {
            const int32_t at = vertex.at[axis] - bit_of(c, axis);
            there &= at >= 0 && at < args.size[axis];
            cube = cube * args.size[axis] + at;
        }
        if (!there || args.cases[cube] == 0 || args.cases[cube] == 255) continue;
        for (int n = 0; n < 4; ++n) sum[n] += args.slots[32 * int64_t(args.rank[cube]) + 4 * c + n];
    }
    if (args.grad_x)
        for (int axis = 0; axis < 3; ++axis) args.grad_x[3 * vertex.number + axis] = sum[axis];
    if (args.grad_s) args.grad_s[vertex.number] = sum[3];
}

}  // namespace DF_LEVEL
}  // namespace dreamforge

DF_KERNEL(flexicubes_cases, FlexiArgs) {
    const int64_t cube = thread_in_row();
    if (cube < int64_t(args.size[0]) * args.size[1] * args.size[2])
        args.cases[cube] = uint8_t(grid_case(args.s, low_corner(args, cube_place(args, cube)), args.size));
}

DF_KERNEL(flexicubes_count, FlexiArgs) {
    const int64_t item = thread_in_row();
    if (item >= args.count) return;
    flexi_count(args, item);
    const int64_t cube = args.active[item];
    for (int c = 0; args.alpha && c < 8; ++c) args.lean[8 * item + c] = tanh_of(args.alpha[8 * cube + c]);
    for (int e = 0; args.beta && e < 12; ++e) args.bend[12 * item + e] = tanh_of(args.beta[12 * cube + e]);
}

DF_KERNEL(flexicubes_vertices, FlexiArgs) {
    const int64_t item = thread_in_row();
    if (item < args.count) flexi_vertices(args, item);
}

DF_KERNEL(flexicubes_faces, FlexiArgs) {
    const int64_t item = thread_in_row();
    if (item < args.count) flexi_faces(args, item);
}

DF_KERNEL(flexicubes_share, FlexiArgs) {
    const int64_t item = thread_in_row();
    if (item < args.count) flexi_share(args, item);
}

DF_KERNEL(flexicubes_pull, FlexiArgs) {
    const int64_t item = thread_in_row();
    if (item < args.count) flexi_pull(args, item);
}

DF_KERNEL(flexicubes_gather, FlexiArgs) {
    const int64_t vertex = thread_in_row();
    if (vertex < grid_vertices(args)) flexi_gather(args, vertex_place(args, vertex));
}

DF_KERNEL(tetrahedra_count, TetraArgs) {
    const int64_t vertex = thread_in_row(), count = grid_vertices(args);
    if (vertex < count) tetra_count(args, count, vertex_place(args, vertex));
}

DF_KERNEL(tetrahedra_fill, TetraArgs) {
    const int64_t vertex = thread_in_row(), count = grid_vertices(args);
    if (vertex < count) tetra_fill(args, count, vertex_place(args, vertex));
}

DF_KERNEL(tetrahedra_backward, TetraArgs) {
    const int64_t vertex = thread_in_row();
    if (vertex < grid_vertices(args)) tetra_backward(args, vertex_place(args, vertex));
}
