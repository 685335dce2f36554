// Triangles at pixels on a GPU: some threads share the rows of a triangle, and a pixel keeps the greatest key; then a
// thread for each pixel.
#include "../include/launch.h"
//
#include "../include/raster.h"

using namespace dreamforge;
using namespace dreamforge::DF_LEVEL;

// RASTER_LANES threads for each face of each view; they take every so many rows.
DF_KERNEL(raster_cover, RasterArgs) {
    const int64_t item = thread_in_row() / RASTER_LANES;
    if (item >= args.views * args.count) return;
    const int64_t view = item / args.count, face = item % args.count;
    const int32_t lane = int32_t(thread_in_row() % RASTER_LANES);
    clip_face(args, view, face, [&](const Corner& a, const Corner& b, const Corner& c) {
        Rows triangle;
        if (!rows_of(a, b, c, args.height, args.width, triangle)) return;
        for (int32_t row = triangle.first + lane; row < triangle.last; row += RASTER_LANES) {
            uint64_t* keys = (uint64_t*)args.face + (view * args.height + row) * args.width;
            fill_row(triangle, row, args.width,
                     [&](int32_t x, float inverse) { max_atomically(keys + x, key_of(inverse, face)); });
        }
    });
}

namespace dreamforge {
namespace DF_LEVEL {

// The corners of a pixel's face, seen from it. `pixel`: among those of all views.
DF_BODY void look(const RasterArgs& args, int64_t pixel, int64_t face, float (&x)[3], float (&y)[3], float (&z)[3]) {
    const int64_t pixels = int64_t(args.height) * args.width, at = pixel % pixels;
    for (int k = 0; k < 3; ++k) {
        const Corner corner = corner_of(args, pixel / pixels, face, k);
        x[k] = corner.x - (float(at % args.width) + 0.5f);
        y[k] = corner.y - (float(at / args.width) + 0.5f);
        z[k] = corner.z;
    }
}

}  // namespace DF_LEVEL
}  // namespace dreamforge

DF_KERNEL(raster_resolve, RasterArgs) {
    const int64_t pixel = thread_in_row();
    if (pixel >= args.views * args.height * args.width) return;
    const int64_t face = face_of(uint64_t(args.face[pixel]));
    args.face[pixel] = face;
    Weights<float> place = {};
    float x[3], y[3], z[3], dx[3] = {}, dy[3] = {}, depth = 0.0f;
    if (face >= 0) {
        look(args, pixel, face, x, y, z);
        place_on(x, y, z, place);
        depth = place.bary[0] * z[0] + place.bary[1] * z[1] + place.bary[2] * z[2];
        if (args.dx) slopes_on(x, y, z, place, dx, dy);
    }
    args.depth[pixel] = depth;
    for (int k = 0; k < 3; ++k) {
        args.bary[3 * pixel + k] = place.bary[k];
        if (args.dx) args.dx[3 * pixel + k] = dx[k], args.dy[3 * pixel + k] = dy[k];
    }
}

DF_KERNEL(raster_backward, RasterArgs) {
    const int64_t pixel = thread_in_row();
    if (pixel >= args.views * args.height * args.width || args.face[pixel] < 0) return;
    const int64_t face = args.face[pixel], view = pixel / (int64_t(args.height) * args.width);
    float x[3], y[3], z[3], to_bary[3], sums[9];
    look(args, pixel, face, x, y, z);
    for (int k = 0; k < 3; ++k) to_bary[k] = args.grad_bary ? args.grad_bary[3 * pixel + k] : 0.0f;
    pull_on(x, y, z, to_bary, args.grad_depth ? args.grad_depth[pixel] : 0.0f, sums);
    for (int k = 0; k < 9; ++k)
        add_atomically(args.grad + 3 * (view * args.vertices + args.faces[3 * face + k / 3]) + k % 3, sums[k]);
}

DF_KERNEL(raster_interpolate, InterpolateArgs) {
    const int64_t point = thread_in_row();
    if (point < args.sets * args.points) interpolate_point(args, point / args.points, point);
}

DF_KERNEL(raster_interpolate_backward, InterpolateArgs) {
    const int64_t point = thread_in_row();
    if (point >= args.sets * args.points) return;
    const int64_t set = point / args.points;
    if (args.grad_bary) pull_bary(args, set, point);
    if (args.grad)
        pull_attributes(args, point, args.grad + set * args.vertices * args.channels,
                        [](float* to, float value) { add_atomically(to, value); });
}
