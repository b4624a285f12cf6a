// The pixel operations of `ops.py` that photographs go through, image by image in place of batch by batch: the same
// integers, so the same bits. Images are (count, side, side, channels) bytes; `native.py` checks all sizes.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ONE = 1 << 16, WIDEST = 1024 };

static int32_t reflect(int32_t position, int32_t last) {
    for (int i = 0; i < 2; ++i) position = last - abs(last - abs(position));
    position = abs(position);
    return position > last ? last : position;
}

// Images `indices` of `images`, flipped where `flip`, shifted by (dy, dx), into `out`.
void quicknet_crop_and_flip(const uint8_t *images, const int64_t *indices, const int64_t *dy, const int64_t *dx,
                            const uint8_t *flip, uint8_t *out, int64_t count, int64_t side, int64_t channels,
                            int64_t threads) {
    const int64_t row = side * channels;
#pragma omp parallel for num_threads((int)threads) schedule(static)
    for (int64_t n = 0; n < count; ++n) {
        const uint8_t *from = images + indices[n] * side * row;
        uint8_t *to = out + n * side * row;
        int32_t column[WIDEST];
        for (int32_t c = 0; c < side; ++c)
            column[c] = reflect((flip[n] ? (int32_t)side - 1 - c : c) + (int32_t)dx[n], (int32_t)side - 1);
        for (int32_t r = 0; r < side; ++r, to += row) {
            const uint8_t *line = from + reflect(r + (int32_t)dy[n], (int32_t)side - 1) * row;
            if (!flip[n] && dx[n] == 0)
                memcpy(to, line, (size_t)row);
            else
                for (int64_t c = 0; c < side; ++c)
                    for (int64_t k = 0; k < channels; ++k) to[c * channels + k] = line[column[c] * channels + k];
        }
    }
}

static inline int32_t between(int32_t first, int32_t second, int32_t share) {
    return ((first << 8) + (second - first) * share + 128) >> 8;
}

static inline void warp_image(const uint8_t *from, const int32_t *fixed, uint8_t *to, int32_t side,
                              const int64_t channels) {
    const int32_t last = side - 1;
    int32_t left[WIDEST], right[WIDEST], top[WIDEST], bottom[WIDEST], across[WIDEST], down[WIDEST];
    for (int32_t r = 0; r < side; ++r) {
        const int32_t step = 2 * r - last, centre = last * ONE + (1 << 8);
        const int32_t x0 = fixed[1] * step + fixed[2] + centre, y0 = fixed[4] * step + fixed[5] + centre;
        for (int32_t c = 0; c < side; ++c) {
            const int32_t x = fixed[0] * (2 * c - last) + x0, y = fixed[3] * (2 * c - last) + y0;
            left[c] = reflect(x >> 17, last) * (int32_t)channels;
            right[c] = reflect((x >> 17) + 1, last) * (int32_t)channels;
            top[c] = reflect(y >> 17, last) * side * (int32_t)channels;
            bottom[c] = reflect((y >> 17) + 1, last) * side * (int32_t)channels;
            across[c] = x >> 9 & 255;
            down[c] = y >> 9 & 255;
        }
        for (int32_t c = 0; c < side; ++c)
            for (int64_t k = 0; k < channels; ++k, ++to) {
                const uint8_t *at = from + k;
                const int32_t upper = between(at[top[c] + left[c]], at[top[c] + right[c]], across[c]);
                const int32_t lower = between(at[bottom[c] + left[c]], at[bottom[c] + right[c]], across[c]);
                *to = (uint8_t)between(upper, lower, down[c]);
            }
    }
}

// Resampled bilinearly; `fixed` (count, 2, 3): output to source positions, `ops.warp` says in which units.
void quicknet_warp(const uint8_t *images, const int32_t *fixed, uint8_t *out, int64_t count, int64_t side,
                   int64_t channels, int64_t threads) {
    const int64_t size = side * side * channels;
#pragma omp parallel for num_threads((int)threads) schedule(static)
    for (int64_t n = 0; n < count; ++n) {
        const uint8_t *from = images + n * size;
        if (channels == 3)  // a constant, so that the loop over it is none
            warp_image(from, fixed + 6 * n, out + n * size, (int32_t)side, 3);
        else
            warp_image(from, fixed + 6 * n, out + n * size, (int32_t)side, channels);
    }
}

static inline uint8_t clipped(int32_t value) { return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

static inline int32_t luma(const uint8_t *pixel, int64_t channels) {
    return channels == 1 ? pixel[0] : (pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 32768) >> 16;
}

static inline void blend_image(uint8_t *image, int32_t colour, int32_t grey, int32_t flat, int64_t pixels,
                               const int64_t channels) {
    int64_t total = 0;
    for (int64_t p = 0; p < pixels; ++p) total += luma(image + p * channels, channels);
    const int32_t offset = flat * (int32_t)((2 * total + pixels) / (2 * pixels)) + ONE / 2;
    for (int64_t p = 0; p < pixels; ++p) {
        uint8_t *pixel = image + p * channels;
        const int32_t shared = luma(pixel, channels) * grey + offset;
        for (int64_t k = 0; k < (channels == 4 ? 3 : channels); ++k)
            pixel[k] = clipped((pixel[k] * colour + shared) >> 16);
    }
}

// In place: colour * image + grey * its luma + flat * its mean luma; `factors` (3, count).
void quicknet_blend(uint8_t *images, const int32_t *factors, int64_t count, int64_t side, int64_t channels,
                    int64_t threads) {
    const int64_t pixels = side * side;
#pragma omp parallel for num_threads((int)threads) schedule(static)
    for (int64_t n = 0; n < count; ++n) {
        const int32_t colour = factors[n], grey = factors[count + n], flat = factors[2 * count + n];
        if (channels == 3)
            blend_image(images + n * pixels * 3, colour, grey, flat, pixels, 3);
        else
            blend_image(images + n * pixels * channels, colour, grey, flat, pixels, channels);
    }
}

// 0 where this machine runs what the compiler made of this source.
int quicknet_check(void) {
    uint8_t images[32] = {0}, out[32];
    const int32_t fixed[6] = {ONE, 0, 0, 0, ONE, 0};
    for (int i = 0; i < 16; ++i) images[i] = (uint8_t)(16 * i);
    quicknet_warp(images, fixed, out, 1, 4, 1, 1);
    return memcmp(images, out, 16) != 0;
}
