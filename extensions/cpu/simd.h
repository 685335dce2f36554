// Vectors of W floats, as wide as the level that this file is compiled for.
#pragma once
#include "../include/scalar.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dreamforge {
namespace DF_LEVEL {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * W)));
typedef int32_t Ints __attribute__((vector_size(4 * W)));
typedef uint32_t Words __attribute__((vector_size(4 * W)));

template <class V, class T>
DF_BODY V load(const T* from) {
    V value;
    __builtin_memcpy(&value, from, sizeof(V));
    return value;
}

template <class V, class T>
DF_BODY void store(T* to, V value) {
    __builtin_memcpy(to, &value, sizeof(V));
}

DF_BODY Floats floor_of(Floats x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_roundscale_ps((__m512)x, 9);
#elif defined(__AVX2__)
    return (Floats)_mm256_floor_ps((__m256)x);
#elif defined(__SSE4_1__)
    return (Floats)_mm_floor_ps((__m128)x);
#else
    for (int i = 0; i < W; ++i) x[i] = __builtin_floorf(x[i]);
    return x;
#endif
}

DF_BODY Floats root_of(Floats x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (Floats)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE4_1__)
    return (Floats)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < W; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

// A whole number as an integer; of what does not fit, a NaN too, some integer.
DF_BODY Words vertex_of(Floats x) {
#if defined(__AVX512F__)
    return (Words)_mm512_cvttps_epi32((__m512)x);
#elif defined(__AVX2__)
    return (Words)_mm256_cvttps_epi32((__m256)x);
#elif defined(__SSE4_1__)
    return (Words)_mm_cvttps_epi32((__m128)x);
#else
    return (Words)__builtin_convertvector(x, Ints);  // saturates on ARM
#endif
}

// x where it is more (or less) than the limit, otherwise, and where it is no number, the limit.
DF_BODY Floats at_least(Floats x, float limit) {
#if defined(__AVX512F__)
    return (Floats)_mm512_max_ps((__m512)x, _mm512_set1_ps(limit));
#elif defined(__AVX2__)
    return (Floats)_mm256_max_ps((__m256)x, _mm256_set1_ps(limit));
#else
    return x > limit ? x : Floats{} + limit;
#endif
}

DF_BODY Floats at_most(Floats x, float limit) {
#if defined(__AVX512F__)
    return (Floats)_mm512_min_ps((__m512)x, _mm512_set1_ps(limit));
#elif defined(__AVX2__)
    return (Floats)_mm256_min_ps((__m256)x, _mm256_set1_ps(limit));
#else
    return x < limit ? x : Floats{} + limit;
#endif
}

DF_BODY Words bits_of(Floats x) { return (Words)x; }
DF_BODY Floats from_bits(Words bits) { return (Floats)bits; }

// number * 2^whole, for a whole number from -126 to 127.
DF_BODY Floats times_power(Floats number, Floats whole) {
#if defined(__AVX512F__)
    return (Floats)_mm512_scalef_ps((__m512)number, (__m512)whole);
#else
    return number * from_bits((vertex_of(whole) + 127u) << 23);
#endif
}

// 0, 1, 2, ...
DF_BODY Words lane_numbers() {
    Words lane;
    for (int i = 0; i < W; ++i) lane[i] = i;
    return lane;
}

// from[index[i]] in lane i.
DF_BODY Floats gather(const float* from, Words index) {
#if defined(__AVX512F__)
    return (Floats)_mm512_i32gather_ps((__m512i)index, from, 4);
#elif defined(__AVX2__)
    return (Floats)_mm256_i32gather_ps(from, (__m256i)index, 4);
#else
    Floats value;
    for (int i = 0; i < W; ++i) value[i] = from[index[i]];
    return value;
#endif
}
DF_BODY Floats power_of_two(Floats whole) { return (Floats)((vertex_of(whole) + 127u) << 23); }

DF_BODY bool any(Ints mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
    int32_t all = 0;
    for (int i = 0; i < W; ++i) all |= mask[i];
    return all != 0;
#endif
}

// Rows of F numbers each: value[f] is the f-th number of every row.
template <int F, class T>
DF_BODY void gather_rows(const T* table, Words row, Floats (&value)[F]) {
    for (int i = 0; i < W; ++i)
        for (int f = 0; f < F; ++f) value[f][i] = number_of(table[int64_t(row[i]) * F + f]);
}

#if defined(__AVX512F__)
template <>
DF_BODY void gather_rows<2, float>(const float* table, Words row, Floats (&value)[2]) {
    // one gather of pairs takes the place of two
    __m256i low = _mm512_castsi512_si256((__m512i)row), high = _mm512_extracti64x4_epi64((__m512i)row, 1);
    __m512 one = _mm512_castpd_ps(_mm512_i32gather_pd(low, (const double*)table, 8));
    __m512 two = _mm512_castpd_ps(_mm512_i32gather_pd(high, (const double*)table, 8));
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    value[0] = (Floats)_mm512_permutex2var_ps(one, even, two);
    value[1] = (Floats)_mm512_permutex2var_ps(one, _mm512_add_epi32(even, _mm512_set1_epi32(1)), two);
}

template <>
DF_BODY void gather_rows<2, Half>(const Half* table, Words row, Floats (&value)[2]) {
    __m512i pair = _mm512_i32gather_epi32((__m512i)row, (const int*)table, 4);
    value[0] = (Floats)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(pair));
    value[1] = (Floats)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(pair, 16)));
}
#elif defined(__AVX2__)
template <>
DF_BODY void gather_rows<2, Half>(const Half* table, Words row, Floats (&value)[2]) {
    __m256i pair = _mm256_i32gather_epi32((const int*)table, (__m256i)row, 4);
    __m256i low = _mm256_and_si256(pair, _mm256_set1_epi32(0xffff)), high = _mm256_srli_epi32(pair, 16);
    __m256i both = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);  // four low, four high, of each lane
    value[0] = (Floats)_mm256_cvtph_ps(_mm256_castsi256_si128(both));
    value[1] = (Floats)_mm256_cvtph_ps(_mm256_extracti128_si256(both, 1));
}
#endif

// a[0], b[0], a[1], b[1], ...: 2 W floats.
DF_BODY void store_pairs(float* to, Floats a, Floats b) {
#if defined(__AVX512F__)
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    _mm512_storeu_ps(to, _mm512_permutex2var_ps((__m512)a, first, (__m512)b));
    _mm512_storeu_ps(to + W, _mm512_permutex2var_ps((__m512)a, second, (__m512)b));
#elif defined(__AVX2__)
    __m256 low = _mm256_unpacklo_ps((__m256)a, (__m256)b), high = _mm256_unpackhi_ps((__m256)a, (__m256)b);
    _mm256_storeu_ps(to, _mm256_permute2f128_ps(low, high, 0x20));
    _mm256_storeu_ps(to + W, _mm256_permute2f128_ps(low, high, 0x31));
#else
    for (int i = 0; i < W; ++i) to[2 * i] = a[i], to[2 * i + 1] = b[i];
#endif
}

typedef float Two __attribute__((vector_size(8)));
typedef float Four __attribute__((vector_size(16)));

// Calls each(i, {a[i], b[i], c[i], d[i]}) for every lane i, in an order that is always the same.
template <class Each>
DF_BODY void for_quads(Floats a, Floats b, Floats c, Floats d, const Each& each) {
#if defined(__AVX512F__)
    __m512 ab[2] = {_mm512_unpacklo_ps((__m512)a, (__m512)b), _mm512_unpackhi_ps((__m512)a, (__m512)b)};
    __m512 cd[2] = {_mm512_unpacklo_ps((__m512)c, (__m512)d), _mm512_unpackhi_ps((__m512)c, (__m512)d)};
    for (int k = 0; k < 4; ++k) {
        __m512d one = _mm512_castps_pd(ab[k / 2]), two = _mm512_castps_pd(cd[k / 2]);
        __m512 quad = _mm512_castpd_ps(k % 2 ? _mm512_unpackhi_pd(one, two) : _mm512_unpacklo_pd(one, two));
        each(k, (Four)_mm512_castps512_ps128(quad));
        each(4 + k, (Four)_mm512_extractf32x4_ps(quad, 1));
        each(8 + k, (Four)_mm512_extractf32x4_ps(quad, 2));
        each(12 + k, (Four)_mm512_extractf32x4_ps(quad, 3));
    }
#elif defined(__AVX2__)
    __m256 ab[2] = {_mm256_unpacklo_ps((__m256)a, (__m256)b), _mm256_unpackhi_ps((__m256)a, (__m256)b)};
    __m256 cd[2] = {_mm256_unpacklo_ps((__m256)c, (__m256)d), _mm256_unpackhi_ps((__m256)c, (__m256)d)};
    for (int k = 0; k < 4; ++k) {
        __m256d one = _mm256_castps_pd(ab[k / 2]), two = _mm256_castps_pd(cd[k / 2]);
        __m256 quad = _mm256_castpd_ps(k % 2 ? _mm256_unpackhi_pd(one, two) : _mm256_unpacklo_pd(one, two));
        each(k, (Four)_mm256_castps256_ps128(quad));
        each(4 + k, (Four)_mm256_extractf128_ps(quad, 1));
    }
#else
    for (int i = 0; i < W; ++i) each(i, Four{a[i], b[i], c[i], d[i]});
#endif
}

// The sum of the lanes of each: {sum of a, sum of b, sum of c, sum of d}.
DF_BODY Four sums_of(Floats a, Floats b, Floats c, Floats d) {
#if defined(__AVX512F__)
    const __m512 x = (__m512)a, y = (__m512)b, z = (__m512)c, w = (__m512)d;
    const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(x, y) + _mm512_unpackhi_ps(x, y));
    const __m512d cd = _mm512_castps_pd(_mm512_unpacklo_ps(z, w) + _mm512_unpackhi_ps(z, w));
    const __m512 all = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)) + _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
    const __m256 half = _mm512_castps512_ps256(all) + _mm512_extractf32x8_ps(all, 1);
    return (Four)(_mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1));
#else
    Four sum{};
    for_quads(a, b, c, d, [&](int, Four quad) { sum += quad; });
    return sum;
#endif
}

DF_BODY int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// W points from `first` on of a row of which `points` are there; behind the last one stand zeros.
DF_BODY Floats points_at(const float* row, int64_t first, int64_t points) {
    if (first + W <= points) return load<Floats>(row + first);
    Floats value{};
    for (int64_t i = first; i < points; ++i) value[i - first] = row[i];
    return value;
}

DF_BODY void store_points(float* row, int64_t first, int64_t points, Floats value) {
    if (first + W <= points) return store(row + first, value);
    for (int64_t i = first; i < points; ++i) row[i] = value[i - first];
}

}  // namespace DF_LEVEL
}  // namespace dreamforge
