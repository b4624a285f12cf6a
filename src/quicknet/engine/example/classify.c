/* classify MODEL.qnz IMAGES: prints the class and the logits of each image. IMAGES is raw, side x side x channels bytes
 * each (uint8, rows from the top, the preprocessed picture), or one decoded picture of any size, a binary PPM or PGM,
 * which is prepared by the card's usual spec (shorter side, bicubic, antialias) or by the one that follows it:
 *     classify MODEL.qnz PICTURE.ppm stretch lanczos
 * After `make engine`: cc -std=c11 classify.c -I build/engine -L build/engine -lquicknet -pthread */
#include "quicknet.h"
#include "resize.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *path, const char *section, const char *why) {
    fprintf(stderr, "%s%s%s: %s\n", path, *section ? " " : "", section, why);
    exit(2);
}

static uint8_t *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    long length = file && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    uint8_t *bytes = length < 0 ? NULL : malloc((size_t)length + 1);
    if (!bytes || fseek(file, 0, SEEK_SET) || fread(bytes, 1, (size_t)length, file) != (size_t)length)
        fail(path, "", "cannot be read");
    fclose(file);
    bytes[length] = 0; /* the header of a PPM is scanned as text */
    *size = (size_t)length;
    return bytes;
}

/* The number of `word` in a list that ends with NULL. */
static int32_t choice(const char *word, const char *const *words) {
    for (int32_t i = 0; words[i]; i++)
        if (strcmp(words[i], word) == 0) return i;
    fail(word, "", "not a way to resize (shorter, stretch, pad) or a filter (nearest, bilinear, bicubic, lanczos)");
    return -1;
}

/* The network's input of a PPM or PGM; frees nothing. */
static uint8_t *prepared(const char *path, const uint8_t *file, size_t size, const qn_spec *spec) {
    qn_picture picture = {.channels = file[1] == '6' ? 3 : 1};
    int header = 0;
    if (sscanf((const char *)file + 2, "%d %d 255%n", &picture.width, &picture.height, &header) != 2 || header == 0)
        fail(path, "", "not a PPM or PGM of 8 bits without comments");
    size_t memory_size = qn_prepare_memory(&picture, spec), at = 2 + (size_t)header + 1;
    if (memory_size == 0) fail(path, "", "a picture of no size or over 100 megapixels");
    if (at > size || size - at < (size_t)picture.width * (size_t)picture.height * (size_t)picture.channels)
        fail(path, "", "cut short");
    void *memory = malloc(memory_size);
    uint8_t *image = malloc((size_t)spec->size * (size_t)spec->size * (size_t)spec->channels);
    picture.pixels = file + at;
    if (!memory || !image || qn_prepare(&picture, spec, memory, memory_size, image)) fail(path, "", "no memory");
    free(memory);
    return image;
}

int main(int argc, char **argv) {
    static const char *const resizes[] = {"shorter", "stretch", "pad", NULL};
    static const char *const filters[] = {"nearest", "bilinear", "bicubic", "lanczos", NULL};
    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: classify MODEL.qnz IMAGES [shorter|stretch|pad] [nearest|bilinear|bicubic|lanczos]\n");
        return 2;
    }
    size_t size, images_size;
    uint8_t *model = read_file(argv[1], &size), *images = read_file(argv[2], &images_size);

    qn_info info;
    qn_engine *engine;
    int error = qn_check(model, size, &info);
    size_t logits_at = (qn_memory(model, size, 1) + 63) / 64 * 64, all = logits_at + (info.classes + 15) / 16 * 64;
    uint8_t *memory = aligned_alloc(64, all);
    if (error == QN_OK) error = qn_open(&engine, model, size, memory, memory ? logits_at : 0, 1, QN_BEST);
    if (error != QN_OK) fail(argv[1], info.section, qn_strerror(error));

    size_t step = (size_t)info.side * info.side * info.channels;
    if (images_size > 2 && images[0] == 'P' && (images[1] == '5' || images[1] == '6')) {
        const qn_spec spec = {(int32_t)info.side,
                              (int32_t)info.channels,
                              argc > 3 ? choice(argv[3], resizes) : QN_SHORTER,
                              argc > 4 ? choice(argv[4], filters) : QN_BICUBIC,
                              1,
                              0};
        uint8_t *image = prepared(argv[2], images, images_size, &spec);
        free(images);
        images = image, images_size = step;
    }
    int32_t *logits = (int32_t *)(void *)(memory + logits_at);
    for (size_t at = 0; at + step <= images_size; at += step) {
        uint32_t best = 0;
        qn_run(engine, images + at, 1, logits);
        for (uint32_t k = 1; k < info.classes; k++) best = logits[k] > logits[best] ? k : best;
        printf("%u", best);
        for (uint32_t k = 0; k < info.classes; k++) printf(" %d", logits[k]);
        printf("\n");
    }
    qn_close(engine);
    free(memory);
    free(images);
    free(model);
    return 0;
}
