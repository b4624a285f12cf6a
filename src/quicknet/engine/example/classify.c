/* classify MODEL.qnz IMAGES.raw: prints the class and the logits of each image of side x side x channels bytes
 * (uint8, rows from the top, the preprocessed picture). After `make engine`:
 *     cc -std=c11 classify.c -I build/engine -L build/engine -lquicknet -pthread */
#include "quicknet.h"
#include <stdio.h>
#include <stdlib.h>

static uint8_t *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    long length = file && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    uint8_t *bytes = length < 0 ? NULL : malloc((size_t)length + 1);
    if (!bytes || fseek(file, 0, SEEK_SET) || fread(bytes, 1, (size_t)length, file) != (size_t)length) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    fclose(file);
    *size = (size_t)length;
    return bytes;
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: classify MODEL.qnz IMAGES.raw\n"), 2;
    size_t size, images_size;
    uint8_t *model = read_file(argv[1], &size), *images = read_file(argv[2], &images_size);

    qn_info info;
    qn_engine *engine;
    int error = qn_check(model, size, &info);
    size_t logits_at = (qn_memory(model, size, 1) + 63) / 64 * 64, all = logits_at + (info.classes + 15) / 16 * 64;
    uint8_t *memory = aligned_alloc(64, all);
    if (error == QN_OK) error = qn_open(&engine, model, size, memory, memory ? logits_at : 0, 1, QN_BEST);
    if (error != QN_OK) return fprintf(stderr, "%s %s: %s\n", argv[1], info.section, qn_strerror(error)), 2;

    int32_t *logits = (int32_t *)(void *)(memory + logits_at);
    size_t step = (size_t)info.side * info.side * info.channels;
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
