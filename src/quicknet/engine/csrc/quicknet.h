/* QuickNet's integer networks (.qnz files) in plain C11: no dependencies, no globals, no floating
 * point, and no allocation: the caller gives the memory.
 *
 *     size_t size;  const void *file = ...;               the bytes of a .qnz; must outlive nothing
 *     qn_info info;
 *     int error = qn_check(file, size, &info);            0, or a code for qn_strerror
 *     void *memory = aligned_alloc(64, qn_memory(file, size, 1));
 *     qn_engine *engine;
 *     error = qn_open(&engine, file, size, memory, qn_memory(file, size, 1), 1, QN_BEST);
 *     qn_run(engine, image, 1, logits);                   uint8 [side][side][channels] -> int32 [classes]
 *
 * The logits are the same, bit for bit, on every CPU and by every instruction set: FORMAT.md. From a picture of any
 * size to `image`: resize.h. */
#ifndef QUICKNET_H
#define QUICKNET_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* What is wrong with a file. The section in which it is, if any: qn_info.section. */
enum {
    QN_OK = 0,
    QN_MAGIC,     /* not a .qnz file */
    QN_VERSION,   /* a newer major version */
    QN_LENGTH,    /* truncated, or lengths and offsets that lie */
    QN_TABLE,     /* sections: overlapping, doubled, missing, unknown and not skippable */
    QN_HASH,      /* bytes differ from what was written */
    QN_SHAPE,     /* NETW: shapes or sizes that no network has */
    QN_BOUNDS,    /* TENS, CODE: numbers outside their class's bounds */
    QN_MEMORY,    /* too little memory given, or not aligned to 64 */
    QN_ISA,       /* the instruction set asked for is not compiled in or not on this CPU */
    QN_THREADS,   /* the system gives no more threads, or threads are not compiled in */
    QN_CODE       /* CODE: damaged, or not what a writer writes */
};

typedef struct {
    uint32_t side, channels, classes, layers;
    uint64_t multiply_adds;
    char section[5];                        /* "CARD", "NETW", "TENS", "CARZ", "CODE" or "" */
} qn_info;

enum { QN_BEST = 0, QN_PORTABLE = 1, QN_AVX2 = 2, QN_AVX512VNNI = 3, QN_NEON = 4, QN_NEON_DOT = 5, QN_WASM = 6 };

/* Added to an instruction set, for tests and measuring: all pointwise layers as if nothing were zero; or by the sparse
 * kernels wherever the layer's weights fit the dense ones' place, be they slower. Otherwise the faster ones run. */
enum { QN_DENSE = 0x100, QN_SPARSE = 0x200 };

typedef struct qn_engine qn_engine;

/* Files with CODE take 80 KB of stack, here and in qn_open where it fails. */
int qn_check(const void *file, size_t size, qn_info *info);
const char *qn_strerror(int error);
size_t qn_memory(const void *file, size_t size, int threads); /* bytes that qn_open needs; 0: bad file */
int qn_open(qn_engine **engine, const void *file, size_t size, void *memory, size_t memory_size, int threads, int isa);
/* Logits of `count` images. One caller at a time: an engine's own threads share the images, or a single one. */
void qn_run(qn_engine *engine, const uint8_t *images, size_t count, int32_t *logits);
const char *qn_isa_name(const qn_engine *engine); /* "avx2", ... */
void qn_close(qn_engine *engine);                 /* ends its threads; the memory is the caller's */

#ifdef __cplusplus
}
#endif
#endif
