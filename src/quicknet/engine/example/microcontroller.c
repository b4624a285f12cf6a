/* Without an operating system: the model is a C array in flash, the working memory a static array; no files,
 * no heap, no threads, no printf in here or in the library (built with QN_NO_THREADS and QN_PORTABLE_ONLY).
 *
 *     python -m quicknet.qnz.c_array MODEL.qnz > model.h
 *
 * A board's firmware calls classify() with the camera's picture, scaled to MODEL_SIDE x MODEL_SIDE. */
#include "model.h"
#include "quicknet.h"

#ifndef MEMORY
#define MEMORY (1 << 20) /* at least qn_memory(model, MODEL_SIZE, 1): classify() returns -1 where it is not */
#endif

static _Alignas(64) uint8_t memory[MEMORY];
static qn_engine *engine;
static const char *const names[] = MODEL_CLASS_NAMES;

/* Returns the index of the class of `picture`, uint8 [MODEL_SIDE][MODEL_SIDE][MODEL_CHANNELS], -1 for a damaged
 * model or too little memory. logits[k] * MODEL_LOGIT_SCALE are the network's logits. */
int classify(const uint8_t *picture, int32_t logits[MODEL_CLASSES]) {
    if (engine == 0 && qn_open(&engine, model, MODEL_SIZE, memory, sizeof memory, 1, QN_BEST) != QN_OK) return -1;
    qn_run(engine, picture, 1, logits);
    int best = 0;
    for (int k = 1; k < MODEL_CLASSES; k++) best = logits[k] > logits[best] ? k : best;
    return best;
}

const char *class_name(int index) { return index >= 0 && index < MODEL_CLASSES ? names[index] : "?"; }
