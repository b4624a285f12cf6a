/* Random pictures through csrc/resize.c, every array as short as resize.h allows: what the sanitizers watch. `avx2` in
 * the arguments asks for its rows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "resize.h"

static int avx2;

const qn_kernels *qn_find_kernels(int isa) {
    static const qn_kernels some = {0};
    (void)isa;
    return avx2 ? &some : NULL;
}

static int32_t below(int32_t most) { return (int32_t)((uint32_t)rand() % (uint32_t)most); }

int main(int argc, char **argv) {
    static const int32_t kinds[] = {1, 3, 4, QN_RGBX}, modes[] = {1, 3, 4};
    uint64_t sum = 0;
    avx2 = argc > 1 && strcmp(argv[1], "avx2") == 0;
    for (int round = 0; round < 4000; round++) {
        const int32_t widest = round % 8 ? 60 : 700;
        const qn_spec spec = {1 + below(70), modes[below(3)], below(3), below(4), below(2), below(256)};
        qn_picture picture = {NULL, 1 + below(widest), 1 + below(60), kinds[below(4)]};
        const size_t pixels = (size_t)picture.width * (size_t)picture.height;
        const size_t bytes = pixels * (size_t)(picture.channels == QN_RGBX ? 4 : picture.channels);
        const size_t out_bytes = (size_t)spec.size * (size_t)spec.size * (size_t)spec.channels;
        const size_t size = qn_prepare_memory(&picture, &spec);
        const size_t longest = (size_t)(40 * (picture.width + 4 * spec.size) + 64 * picture.height + 2048 +
                                        8 * spec.size * (picture.height / spec.size + 2) * spec.channels);
        uint8_t *data = malloc(bytes), *memory = malloc(size), *out = malloc(out_bytes);
        for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)below(256);
        picture.pixels = data;
        if (size > longest || qn_prepare(&picture, &spec, memory, size, out)) return 1;
        for (size_t i = 0; i < out_bytes; i++) sum = sum * 31 + out[i];
        free(data), free(memory), free(out);
    }
    printf("%llu\n", (unsigned long long)sum);
    return 0;
}
