/* run_all MODEL.qnz IMAGES.raw [MODEL.qnz IMAGES.raw ...]: for every instruction set that is here, first as it is, then
 * by sparse kernels: a line with all logits for each pair of files, and one with its name. */
#include "quicknet.h"
#include "aligned.h"
#include <stdio.h>
#include <stdlib.h>

static uint8_t *load(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) exit(2);
    *size = (size_t)ftell(file);
    uint8_t *bytes = malloc(*size + 1); /* exactly what the engine may read, for AddressSanitizer */
    rewind(file);
    if (bytes == NULL || fread(bytes, 1, *size, file) != *size) exit(2);
    fclose(file);
    return realloc(bytes, *size);
}

static int run(const char *model_path, const char *images_path, int isa) {
    size_t size, images_size;
    uint8_t *model = load(model_path, &size), *images = load(images_path, &images_size);
    qn_info info;
    qn_engine *engine;
    int error = qn_check(model, size, &info);
    if (error != QN_OK) return error;
    size_t needed = (qn_memory(model, size, 1) + 63) / 64 * 64;
    size_t count = images_size / ((size_t)info.side * info.side * info.channels);
    void *memory = aligned_alloc(64, needed);
    int32_t *logits = malloc(count * info.classes * sizeof *logits);
    if (memory == NULL || logits == NULL) exit(2);
    error = qn_open(&engine, model, size, memory, needed, 1, isa);
    if (error == QN_OK) {
        free(model); /* the engine has what it needs */
        model = NULL;
        qn_run(engine, images, count, logits);
        for (size_t i = 0; i < count * info.classes; i++) printf("%d ", logits[i]);
        printf("\n");
        qn_close(engine);
    }
    free(model);
    free(images);
    aligned_free(memory);
    free(logits);
    return error;
}

int main(int argc, char **argv) {
    static const char *const name[] = {"best", "portable", "avx2", "avx512vnni", "neon", "neon-dot", "wasm"};
    for (int all = 2 * QN_PORTABLE; all <= 2 * QN_WASM + 1; all++) {
        int isa = all / 2, sparse = all % 2;
        for (int i = 1; i + 1 < argc; i += 2) {
            int error = run(argv[i], argv[i + 1], sparse ? isa | QN_SPARSE : isa);
            if (error == QN_ISA) break;
            if (error != QN_OK) return fprintf(stderr, "%s: %s\n", argv[i], qn_strerror(error)), 1;
            if (i + 3 >= argc) printf("%s%s\n", name[isa], sparse ? " sparse" : "");
        }
    }
    return 0;
}
