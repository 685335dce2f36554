// What one Gaussian looks like to one camera, and its colour from there, with their gradients: the bodies, F a float or
// a vector of them. EWA splatting (Zwicker et al. 2002) with the numeric rules of gsplat, see ops/splat.py.
#pragma once
#include "splat.h"

namespace dreamforge {
namespace DF_LEVEL {

template <class F>
DF_BODY F dot(const F (&a)[3], const F (&b)[3]) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

struct Camera {
    float turn[3][3], shift[3];             // world to camera
    float fx, fy, cx, cy;
    float left, right, top, bottom;         // x / z and y / z beyond which the slope of the projection stays as it is
};

DF_BODY Camera camera_of(const SplatProjectArgs& args, int64_t number) {
    const float *view = args.viewmats + 16 * number, *K = args.intrinsics + 9 * number;
    Camera camera;
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) camera.turn[i][j] = view[4 * i + j];
        camera.shift[i] = view[4 * i + 3];
    }
    camera.fx = K[0], camera.cx = K[2], camera.fy = K[4], camera.cy = K[5];
    const float x = args.margin * 0.5f * args.width / camera.fx, y = args.margin * 0.5f * args.height / camera.fy;
    camera.left = -camera.cx / camera.fx - x, camera.right = (args.width - camera.cx) / camera.fx + x;
    camera.top = -camera.cy / camera.fy - y, camera.bottom = (args.height - camera.cy) / camera.fy + y;
    return camera;
}

template <class F>
struct Gaussian {
    F mean[3], quat[4], scale[3], opacity;
};

// Rotation of a unit quaternion w, x, y, z.
template <class F>
DF_BODY void rotation_of(const F (&q)[4], F (&R)[3][3]) {
    const F w = q[0], x = q[1], y = q[2], z = q[3];
    R[0][0] = 1.0f - 2.0f * (y * y + z * z), R[0][1] = 2.0f * (x * y - w * z), R[0][2] = 2.0f * (x * z + w * y);
    R[1][0] = 2.0f * (x * y + w * z), R[1][1] = 1.0f - 2.0f * (x * x + z * z), R[1][2] = 2.0f * (y * z - w * x);
    R[2][0] = 2.0f * (x * z - w * y), R[2][1] = 2.0f * (y * z + w * x), R[2][2] = 1.0f - 2.0f * (x * x + y * y);
}

// The way from a Gaussian to its picture. With M = rotation diag(scale), the axes of the Gaussian; N = turn M, in the
// camera's frame; T = J N, in pixels: the covariance is T T^t.
template <class F>
struct Way {
    F unit[4], length;         // quaternion, and how long it was
    F R[3][3], M[3][3], N[3][3], T[2][3];
    F at[3], x, y;             // in the camera's frame; x / z, y / z
    F clipped_x, clipped_y;    // within the camera's limits
    F J00, J02, J11, J12;
    F xx, xy, yy, det;         // covariance and determinant, before blurring
    F bxx, byy, blurred;       // after
};

template <class F>
DF_BODY Way<F> way_of(const Gaussian<F>& g, const Camera& camera, float blur) {
    Way<F> way;
    way.length = root_of(g.quat[0] * g.quat[0] + g.quat[1] * g.quat[1] + g.quat[2] * g.quat[2] + g.quat[3] * g.quat[3]);
    for (int i = 0; i < 4; ++i) way.unit[i] = g.quat[i] / way.length;
    rotation_of(way.unit, way.R);
    for (int i = 0; i < 3; ++i) {
        const float* turn = camera.turn[i];
        for (int j = 0; j < 3; ++j) way.M[i][j] = way.R[i][j] * g.scale[j];
        way.at[i] = turn[0] * g.mean[0] + turn[1] * g.mean[1] + turn[2] * g.mean[2] + camera.shift[i];
    }
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
            way.N[i][j] =
                camera.turn[i][0] * way.M[0][j] + camera.turn[i][1] * way.M[1][j] + camera.turn[i][2] * way.M[2][j];
    const F near = 1.0f / way.at[2];
    way.x = way.at[0] * near, way.y = way.at[1] * near;
    way.clipped_x = at_most(at_least(way.x, camera.left), camera.right);
    way.clipped_y = at_most(at_least(way.y, camera.top), camera.bottom);
    way.J00 = camera.fx * near, way.J02 = -way.J00 * way.clipped_x;
    way.J11 = camera.fy * near, way.J12 = -way.J11 * way.clipped_y;
    for (int j = 0; j < 3; ++j) {
        way.T[0][j] = way.J00 * way.N[0][j] + way.J02 * way.N[2][j];
        way.T[1][j] = way.J11 * way.N[1][j] + way.J12 * way.N[2][j];
    }
    const F(&a)[3] = way.T[0], (&b)[3] = way.T[1];
    way.xx = dot(a, a), way.xy = dot(a, b), way.yy = dot(b, b);
    // |a x b|^2 is the determinant, and no difference of large numbers
    const F cross[3] = {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
    way.det = dot(cross, cross);
    way.bxx = way.xx + blur, way.byy = way.yy + blur;
    way.blurred = way.det + blur * (way.xx + way.byy);
    return way;
}

template <class F>
struct Picture {
    F mean[2], depth, conic[3], compensation, radius[2];
};

// Fills `picture`, with zeros where the Gaussian is not seen: behind `near`, beyond `far`, beside the image, fainter than
// `min_alpha`, smaller than `clip`, or not finite.
template <class F>
DF_BODY void project(const SplatProjectArgs& args, const Camera& camera, const Gaussian<F>& g, Picture<F>& picture) {
    const F zero{};
    const float most = 3.0e38f;
    const Way<F> way = way_of(g, camera, args.blur);
    F kept = way.det / way.blurred;
    kept = root_of(at_least(kept, args.floor));
    F extent = zero + args.extent;
    auto seen = (way.at[2] >= args.near) & (way.at[2] <= args.far) & (way.length > 1e-12f) & (way.length < 1e18f) &
                (way.blurred > 0.0f) & (way.blurred < most) & (g.opacity > -most) & (g.opacity < most);
    if (args.opacity_extent) {
        const F opacity = args.compensations ? g.opacity * kept : g.opacity;
        const F times = opacity * (1.0f / args.min_alpha);
        seen = seen & (opacity >= args.min_alpha);
        const F reach = root_of(1.38629436f * log2_of(at_least(times, 1.0f)));  // 2 ln 2
        extent = at_most(reach, args.extent);
    }
    const F x = camera.fx * way.x + camera.cx, y = camera.fy * way.y + camera.cy;
    F wide = -floor_of(-extent * root_of(way.bxx)), high = -floor_of(-extent * root_of(way.byy));
    wide = at_most(wide, 1.0e9f), high = at_most(high, 1.0e9f);
    seen = seen & ((wide > args.clip) | (high > args.clip)) & (wide > 0.0f) & (high > 0.0f);
    seen = seen & (x + wide > 0.0f) & (x - wide < args.width) & (y + high > 0.0f) & (y - high < args.height);
    picture.mean[0] = seen ? x : zero, picture.mean[1] = seen ? y : zero;
    picture.depth = seen ? way.at[2] : zero;
    picture.conic[0] = seen ? way.byy / way.blurred : zero;
    picture.conic[1] = seen ? -way.xy / way.blurred : zero;
    picture.conic[2] = seen ? way.bxx / way.blurred : zero;
    picture.compensation = seen ? kept : zero;
    picture.radius[0] = seen ? wide : zero, picture.radius[1] = seen ? high : zero;
}

// From the gradient by the conic, (yy, -xy, xx) / blurred, and by the compensation, root(det / blurred), to that by the
// rows of T, through the determinant as |a x b|^2: -X V X, the gradient by the inverse, would lose what long thin
// pictures need.
template <class F>
DF_BODY void rows_gradient(const SplatProjectArgs& args, const Way<F>& way, const Picture<F>& pull, F (&to)[2][3]) {
    const F inverse = 1.0f / way.blurred, zero{};
    const F(&a)[3] = way.T[0], (&b)[3] = way.T[1];
    F to_blurred = (pull.conic[1] * way.xy - pull.conic[0] * way.byy - pull.conic[2] * way.bxx) * inverse * inverse;
    F to_det = zero;
    if (args.grad_compensations) {
        const F kept = way.det * inverse, root = root_of(kept);
        const F to_kept = kept > args.floor ? 0.5f * pull.compensation / root : zero;  // none through the floor
        to_det = to_kept * inverse;
        to_blurred -= to_det * kept;
    }
    const F xx = pull.conic[2] * inverse + args.blur * to_blurred, yy = pull.conic[0] * inverse + args.blur * to_blurred;
    const F xy = -pull.conic[1] * inverse, twice = 2.0f * (to_det + to_blurred);
    const F n[3] = {twice * (a[1] * b[2] - a[2] * b[1]), twice * (a[2] * b[0] - a[0] * b[2]),
                    twice * (a[0] * b[1] - a[1] * b[0])};
    for (int i = 0; i < 3; ++i) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        to[0][i] = 2.0f * xx * a[i] + xy * b[i] + (b[j] * n[k] - b[k] * n[j]);
        to[1][i] = 2.0f * yy * b[i] + xy * a[i] + (n[j] * a[k] - n[k] * a[j]);
    }
}

// `pull`: the gradient by the picture -> by the Gaussian, and by the camera's turn and shift, row by row.
template <class F>
DF_BODY void project_backward(const SplatProjectArgs& args, const Camera& camera, const Gaussian<F>& g,
                              const Picture<F>& pull, Gaussian<F>& to, F (&to_view)[12]) {
    const Way<F> way = way_of(g, camera, args.blur);
    const F near = 1.0f / way.at[2], zero{};
    F T[2][3], N[3][3], at[3];
    rows_gradient(args, way, pull, T);
    F J00{}, J02{}, J11{}, J12{};
    for (int j = 0; j < 3; ++j) {
        const F t0 = T[0][j], t1 = T[1][j];
        J00 += t0 * way.N[0][j], J02 += t0 * way.N[2][j], J11 += t1 * way.N[1][j], J12 += t1 * way.N[2][j];
        N[0][j] = way.J00 * t0, N[1][j] = way.J11 * t1, N[2][j] = way.J02 * t0 + way.J12 * t1;
    }
    const auto free_x = (way.x >= camera.left) & (way.x <= camera.right);
    const auto free_y = (way.y >= camera.top) & (way.y <= camera.bottom);
    const F x = camera.fx * pull.mean[0] - (free_x ? J02 * way.J00 : zero);
    const F y = camera.fy * pull.mean[1] - (free_y ? J12 * way.J11 : zero);
    at[0] = x * near, at[1] = y * near;
    at[2] = pull.depth - near * (x * way.x + y * way.y + J00 * way.J00 + J11 * way.J11 + J02 * way.J02 + J12 * way.J12);
    F R[3][3];
    for (int j = 0; j < 3; ++j) {
        F along{};
        to.mean[j] = camera.turn[0][j] * at[0] + camera.turn[1][j] * at[1] + camera.turn[2][j] * at[2];
        for (int i = 0; i < 3; ++i) {
            const F M = camera.turn[0][i] * N[0][j] + camera.turn[1][i] * N[1][j] + camera.turn[2][i] * N[2][j];
            along += M * way.R[i][j];
            R[i][j] = M * g.scale[j];
            to_view[4 * i + j] = dot(N[i], way.M[j]) + at[i] * g.mean[j];
        }
        to.scale[j] = along;
        to_view[4 * j + 3] = at[j];
    }
    const F w = way.unit[0], a = way.unit[1], b = way.unit[2], c = way.unit[3];
    const F turned[4] = {
        2.0f * (a * (R[2][1] - R[1][2]) + b * (R[0][2] - R[2][0]) + c * (R[1][0] - R[0][1])),
        2.0f * (-2.0f * a * (R[1][1] + R[2][2]) + b * (R[0][1] + R[1][0]) + c * (R[0][2] + R[2][0]) +
                w * (R[2][1] - R[1][2])),
        2.0f * (a * (R[0][1] + R[1][0]) - 2.0f * b * (R[0][0] + R[2][2]) + c * (R[1][2] + R[2][1]) +
                w * (R[0][2] - R[2][0])),
        2.0f * (a * (R[0][2] + R[2][0]) + b * (R[1][2] + R[2][1]) - 2.0f * c * (R[0][0] + R[1][1]) +
                w * (R[1][0] - R[0][1]))};
    const F radial = w * turned[0] + a * turned[1] + b * turned[2] + c * turned[3];
    for (int i = 0; i < 4; ++i) to.quat[i] = (turned[i] - way.unit[i] * radial) / way.length;
}

constexpr int SPLAT_BASES = 16;

// Real spherical harmonics up to degree 3 of a unit direction, with the signs of the Condon-Shortley phase (Sloan 2013),
// and `along[k]` times their slopes summed up in `slope`, if it is there.
template <class F>
DF_BODY void harmonics(int degree, const F (&d)[3], F (&base)[SPLAT_BASES], const F* along, F* slope) {
    const F x = d[0], y = d[1], z = d[2], zero{};
    const float a = 0.48860251f, b = 1.09254843f, c = 0.54627422f, e = 0.59004359f, f = 2.89061144f, h = 0.45704580f;
    base[0] = zero + 0.28209479f;
    if (slope) slope[0] = slope[1] = slope[2] = zero;
    if (degree < 1) return;
    base[1] = -a * y, base[2] = a * z, base[3] = -a * x;
    if (slope) slope[0] = -a * along[3], slope[1] = -a * along[1], slope[2] = a * along[2];
    if (degree < 2) return;
    base[4] = b * x * y, base[5] = -b * y * z, base[6] = 0.94617470f * z * z - 0.31539157f, base[7] = -b * x * z;
    base[8] = c * (x * x - y * y);
    if (slope) {
        slope[0] += b * (y * along[4] - z * along[7]) + 2.0f * c * x * along[8];
        slope[1] += b * (x * along[4] - z * along[5]) - 2.0f * c * y * along[8];
        slope[2] += 1.89234939f * z * along[6] - b * (y * along[5] + x * along[7]);
    }
    if (degree < 3) return;
    const F five = 5.0f * z * z - 1.0f;
    base[9] = -e * y * (3.0f * x * x - y * y), base[10] = f * x * y * z, base[11] = -h * y * five;
    base[12] = 0.37317633f * z * (5.0f * z * z - 3.0f), base[13] = -h * x * five, base[14] = 0.5f * f * z * (x * x - y * y);
    base[15] = -e * x * (x * x - 3.0f * y * y);
    if (slope) {
        const F round = 3.0f * e * (x * x - y * y), both = 6.0f * e * x * y;
        slope[0] += f * (y * z * along[10] + x * z * along[14]) - both * along[9] - h * five * along[13] - round * along[15];
        slope[1] += f * (x * z * along[10] - y * z * along[14]) - round * along[9] - h * five * along[11] + both * along[15];
        slope[2] += f * (x * y * along[10] + 0.5f * (x * x - y * y) * along[14]) -
                    10.0f * h * z * (y * along[11] + x * along[13]) + 0.37317633f * (15.0f * z * z - 3.0f) * along[12];
    }
}

// The slope by a unit direction -> by the vector of this length that it was made of.
template <class F>
DF_BODY void unit_gradient(const F (&d)[3], F length, F (&slope)[3]) {
    const F radial = dot(d, slope);
    for (int i = 0; i < 3; ++i) slope[i] = (slope[i] - d[i] * radial) / length;
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
