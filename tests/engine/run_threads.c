/* run_threads MODEL.qnz IMAGES.raw: the logits of all images, the same by every number of threads, of images and of
 * runs; for the thread sanitizer. */
#include "quicknet.h"
#include "aligned.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint8_t *load(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) exit(2);
    *size = (size_t)ftell(file);
    uint8_t *bytes = malloc(*size);
    rewind(file);
    if (bytes == NULL || fread(bytes, 1, *size, file) != *size) exit(2);
    fclose(file);
    return bytes;
}

static void run(const uint8_t *model, size_t size, int threads, const uint8_t *images, size_t count, int32_t *logits) {
    size_t needed = (qn_memory(model, size, threads) + 63) / 64 * 64;
    void *memory = aligned_alloc(64, needed);
    qn_engine *engine;
    if (memory == NULL || qn_open(&engine, model, size, memory, needed, threads, QN_BEST) != QN_OK) exit(2);
    for (int i = 0; i < 10; i++) qn_run(engine, images, count, logits);
    qn_close(engine);
    aligned_free(memory);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    size_t size, images_size;
    uint8_t *model = load(argv[1], &size), *images = load(argv[2], &images_size);
    qn_info info;
    if (qn_check(model, size, &info) != QN_OK) return 2;
    size_t count = images_size / ((size_t)info.side * info.side * info.channels), classes = info.classes;
    int32_t *expected = malloc(count * classes * sizeof *expected), *logits = malloc(count * classes * sizeof *logits);
    run(model, size, 1, images, count, expected);
    for (int threads = 1; threads <= 4; threads++) {
        for (size_t n = 1; n <= count; n++) {
            run(model, size, threads, images, n, logits);
            if (memcmp(logits, expected, n * classes * sizeof *logits) != 0) return 1;
        }
    }
    for (size_t i = 0; i < count * classes; i++) printf("%d ", expected[i]);
    free(expected);
    free(logits);
    free(model);
    free(images);
    return 0;
}
