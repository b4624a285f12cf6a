/* Fuzzes the reader: every input as it is, then again with its length and hashes put right, so that
 * mutations get past SHA-256 to the shapes and numbers. What the reader accepts is read to its end.
 *
 * With -DQN_FUZZ_ENGINE and all other sources the engine then runs it, by every instruction set.
 * With clang: cc -fsanitize=fuzzer,address,undefined fuzz.c read.c container.c shape.c bounds.c coding.c sha256.c
 *     && ./a.out CORPUS
 * Without libFuzzer, with a mutator of its own: cc -DQN_FUZZ_MAIN -fsanitize=address,undefined ...
 *     && ./a.out SECONDS SEED FILE.qnz... */
#include "coding.h"
#include "format.h"
#include "reading.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put_u64(uint8_t *p, uint64_t v) {
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> 8 * i);
}

/* Puts the header's length and every hash right, where there is a table to do it by. */
static void seal(uint8_t *file, size_t size) {
    if (size < QNZ_HEADER_BYTES + QNZ_DIGEST_BYTES) return;
    put_u64(file + QNZ_HEADER_LENGTH, size);
    size_t count = qn_u32(file + QNZ_HEADER_SECTIONS), end = size - QNZ_DIGEST_BYTES;
    for (size_t i = 0; i < count && i < QNZ_MAX_SECTIONS; i++) {
        if (QNZ_HEADER_BYTES + (i + 1) * QNZ_ENTRY_BYTES > end) break;
        uint8_t *entry = file + QNZ_HEADER_BYTES + i * QNZ_ENTRY_BYTES;
        size_t offset = qn_u32(entry + QNZ_ENTRY_OFFSET), length = qn_u32(entry + QNZ_ENTRY_LENGTH);
        if (offset <= size && length <= size - offset) qn_sha256(file + offset, length, entry + QNZ_ENTRY_SHA256);
    }
    qn_sha256(file, end, file + end);
}

static uint64_t sum_bytes(const void *bytes, size_t size) {
    uint64_t sum = 0;
    for (size_t i = 0; i < size; i++) sum += ((const uint8_t *)bytes)[i];
    return sum;
}

static uint64_t sum_layer(const qn_layer *layer) {
    size_t in = (size_t)layer->in_channels, out = (size_t)layer->out_channels;
    size_t taps = (size_t)(layer->kernel * layer->kernel);
    uint64_t sum = 0;
    if (!layer->is_stem) sum += sum_bytes(layer->depthwise, taps * in) + sum_bytes(layer->multiplier, 2 * in);
    sum += sum_bytes(layer->weight, out * in * (layer->is_stem ? taps : 1)) + sum_bytes(layer->bias, 4 * out);
    return sum + sum_bytes(layer->positive, 2 * out) + sum_bytes(layer->negative, 2 * out);
}

/* Touches every array that the reader hands out: AddressSanitizer sees one that passes the file's end. */
static uint64_t read_everything(const qn_net *net) {
    qn_numbers numbers;
    qn_decoder *decoder = malloc(sizeof *decoder);
    uint8_t *decoded = net->largest_bytes < 1 << 26 ? malloc((size_t)net->largest_bytes) : NULL;
    qn_classifier classifier = net->classifier;
    qn_layer layer = {0}, before;
    uint64_t sum = 0;
    if (decoder == NULL || decoded == NULL) exit(2);
    if (qn_begin_numbers(&numbers, net, decoder, decoded) != QN_OK) abort();
    for (int32_t i = 0; i < net->layers; i++) {
        before = layer;
        if (qn_read_layer(net, i, &before, &layer) != QN_OK || qn_take_layer(&numbers, &layer) != QN_OK) abort();
        sum += sum_layer(&layer);
    }
    if (qn_take_classifier(&numbers, &classifier) != QN_OK) abort();
    size_t classes = (size_t)classifier.classes, features = (size_t)classifier.features;
    sum += sum_bytes(classifier.weight, 2 * classes * features) + sum_bytes(classifier.bias, 4 * classes);
    free(decoded);
    free(decoder);
    return sum;
}

#ifdef QN_FUZZ_ENGINE
/* Runs an image through every instruction set that is here, dense and sparse: all must give the same logits. */
static void run_engines(const uint8_t *file, size_t size, const qn_info *info) {
    size_t needed = (qn_memory(file, size, 1) + 63) / 64 * 64, classes = info->classes;
    size_t image_bytes = (size_t)info->side * info->side * info->channels;
    if (needed == 0) abort();
    if (needed > 4 << 20 || info->multiply_adds > 10000000) return; /* fuzzing wants many inputs */
    void *memory = aligned_alloc(64, needed);
    uint8_t *image = malloc(image_bytes);
    int32_t *logits = malloc(2 * classes * sizeof *logits);
    if (memory == NULL || image == NULL || logits == NULL) abort();
    for (size_t i = 0; i < image_bytes; i++) image[i] = (uint8_t)(i * 97 ^ i >> 7);
    for (int all = 2 * QN_PORTABLE; all <= 2 * QN_WASM + 1; all++) {
        qn_engine *engine;
        int isa = all / 2 | (all % 2 ? QN_SPARSE : QN_DENSE);
        int error = qn_open(&engine, file, size, memory, needed, 1, isa);
        if (error == QN_ISA) continue;
        if (error != QN_OK) abort();
        int32_t *to = all == 2 * QN_PORTABLE ? logits : logits + classes;
        qn_run(engine, image, 1, to);
        qn_close(engine);
        if (memcmp(logits, to, classes * sizeof *to) != 0) abort();
    }
    free(logits);
    free(image);
    free(memory);
}
#endif

static int read_input(const uint8_t *file, size_t size) {
    qn_net net;
    qn_info info, again;
    int error = qn_read_to(file, size, &net, &info, QN_READ_ALL);
    if (qn_check(file, size, &again) != error || memcmp(info.section, again.section, 5) != 0) abort();
    if (strcmp(qn_strerror(error), "unknown error") == 0) abort();
    if (error == QN_OK) {
        volatile uint64_t sum = read_everything(&net);
        (void)sum;
#ifdef QN_FUZZ_ENGINE
        run_engines(file, size, &info);
#endif
    }
    return error;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = calloc(size > 0 ? size : 1, 1); /* of its own, so that AddressSanitizer knows its end */
    if (copy == NULL) return 0;
    if (size > 0) memcpy(copy, data, size);
    read_input(copy, size);
    seal(copy, size);
    read_input(copy, size);
    free(copy);
    return 0;
}

#ifdef QN_FUZZ_MAIN
#include <time.h>

static uint64_t next(uint64_t *state) { /* xorshift64 */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* One change to `file`, which has room for `size` bytes; returns its new length. */
static size_t mutate(uint8_t *file, size_t size, uint64_t *random) {
    static const uint32_t edges[] = {0,    1,    2,     127,   128,   255,        256,
                                     8192, 8193, 32767, 32768, 65535, 0x7fffffff, 0x80000000};
    if (size == 0) return 0;
    size_t at = next(random) % size, width = (size_t)1 << next(random) % 4;
    if (next(random) % 2 == 0) at %= size < 512 ? size : 512; /* header, table, shape */
    uint64_t edge = edges[next(random) % (sizeof edges / sizeof *edges)];
    switch (next(random) % 5) {
    case 0: file[at] ^= (uint8_t)(1u << next(random) % 8); break;
    case 1: file[at] = (uint8_t)next(random); break;
    case 2: return next(random) % 8 == 0 ? at : size;
    case 3: file[at] = file[next(random) % size]; break;
    default:
        for (size_t i = 0; i < width && at + i < size; i++) file[at + i] = (uint8_t)(edge >> 8 * i);
    }
    return size;
}

static uint8_t *load(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) exit(2);
    *size = (size_t)ftell(file);
    uint8_t *bytes = malloc(*size + 1);
    rewind(file);
    if (bytes == NULL || fread(bytes, 1, *size, file) != *size) exit(2);
    fclose(file);
    return bytes;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    uint64_t random = strtoull(argv[2], NULL, 10) * 2 + 1, runs = 0;
    time_t end = time(NULL) + strtol(argv[1], NULL, 10);
    do {
        size_t whole;
        uint8_t *file = load(argv[3 + next(&random) % (uint64_t)(argc - 3)], &whole);
        uint8_t *copy = malloc(whole + 1);
        for (int round = 0; copy != NULL && round < 64; round++, runs++) {
            size_t size = whole;
            memcpy(copy, file, whole);
            for (uint64_t n = 1 + next(&random) % 3; n > 0; n--) size = mutate(copy, size, &random);
            LLVMFuzzerTestOneInput(copy, size);
        }
        free(copy);
        free(file);
    } while (time(NULL) < end);
    printf("%llu inputs\n", (unsigned long long)runs);
    return 0;
}
#endif
