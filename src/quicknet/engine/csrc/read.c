/* The reader of .qnz files: FORMAT.md's bytes, and its bounds, by which the engine may add in 16 and
 * 32 bits without looking.
 *
 * Nothing is allocated and nothing believed: a length is compared with what is left of the file before
 * it is added to an offset, sizes are computed in 64 bits, and every loop ends with the file's bytes. */
#include "read.h"
#include <string.h>

#define MAX_FILE ((uint64_t)512 << 20)
#define MAX_CARD ((uint64_t)4 << 20)
#define MAX_SECTIONS 64
#define MAX_WEIGHTS ((uint64_t)1 << 28)
#define MAX_MAP ((uint64_t)1 << 26)

enum { HEADER = 32, ENTRY = 64, DIGEST = 32, NETW_HEADER = 16, NETW_LAYER = 16 };
enum { CARD, NETW, TENS, KINDS };
static const char KIND[KINDS][5] = {"CARD", "NETW", "TENS"};

typedef struct {
    const uint8_t *bytes;
    uint64_t size;
} span;

static uint16_t u16_at(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t u32_at(const uint8_t *p) { return (uint32_t)qn_i32(p); }
static uint64_t u64_at(const uint8_t *p) { return (uint64_t)u32_at(p) | (uint64_t)u32_at(p + 4) << 32; }

static int all_zero(const uint8_t *p, size_t n) {
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++) any |= p[i];
    return any == 0;
}

/* ---- the container ------------------------------------------------------------------------------ */

static int check_header(const uint8_t *file, size_t size) {
    static const uint8_t magic[8] = {0x89, 'Q', 'N', 'Z', '\r', '\n', 0x1a, '\n'};
    if (size < sizeof magic || memcmp(file, magic, sizeof magic) != 0) return QN_MAGIC;
    if (size < HEADER + DIGEST || size > MAX_FILE) return QN_LENGTH;
    if (u16_at(file + 8) != 1) return QN_VERSION;
    if (u64_at(file + 16) != size) return QN_LENGTH;
    uint32_t sections = u32_at(file + 12);
    if (sections < 1 || sections > MAX_SECTIONS || !all_zero(file + 24, 8)) return QN_TABLE;
    return size < HEADER + (size_t)sections * ENTRY + DIGEST ? QN_LENGTH : QN_OK;
}

/* Four letters, or "" where they are none. */
static void name_section(char name[5], const uint8_t *kind) {
    memset(name, 0, 5);
    for (int i = 0; i < 4; i++) {
        int letter = (kind[i] >= 'A' && kind[i] <= 'Z') || (kind[i] >= 'a' && kind[i] <= 'z');
        if (!letter) return;
    }
    memcpy(name, kind, 4);
}

/* One row of the table: its names and flags, and that the section begins at `begin` and ends by `end`. */
static int check_entry(const uint8_t *file, size_t index, uint64_t begin, uint64_t end, char name[5]) {
    const uint8_t *entry = file + HEADER + index * ENTRY;
    uint32_t flags = u32_at(entry + 4);
    int known = 0;
    name_section(name, entry);
    if (name[0] == 0 || flags > 1 || !all_zero(entry + 56, 8)) return QN_TABLE;
    for (int kind = 0; kind < KINDS; kind++) known |= memcmp(entry, KIND[kind], 4) == 0;
    if (!known && flags == 0) return QN_TABLE;
    for (size_t other = 0; other < index; other++) {
        if (memcmp(entry, file + HEADER + other * ENTRY, 4) == 0) return QN_TABLE;
    }
    if (u64_at(entry + 8) != begin) return QN_TABLE;
    return u64_at(entry + 16) > end - begin ? QN_LENGTH : QN_OK;
}

/* The three sections that every file has; `name` is left on the one that is wrong. */
static int find_sections(const uint8_t *file, size_t size, span section[KINDS], char name[5]) {
    uint32_t count = u32_at(file + 12);
    uint64_t begin = HEADER + (uint64_t)count * ENTRY, end = size - DIGEST;
    memset(section, 0, KINDS * sizeof *section);
    for (size_t i = 0; i < count; i++) {
        int error = check_entry(file, i, begin, end, name);
        if (error != QN_OK) return error;
        span found = {file + begin, u64_at(file + HEADER + i * ENTRY + 16)};
        for (int kind = 0; kind < KINDS; kind++) {
            if (memcmp(name, KIND[kind], 4) == 0) section[kind] = found;
        }
        begin += found.size;
    }
    for (int kind = 0; kind < KINDS; kind++) {
        memcpy(name, KIND[kind], 5);
        if (section[kind].bytes == NULL) return QN_TABLE;
    }
    memcpy(name, KIND[CARD], 5);
    if (section[CARD].size > MAX_CARD) return QN_LENGTH;
    memset(name, 0, 5);
    return begin != end ? QN_LENGTH : QN_OK;
}

/* The sections' own hashes first: they name what is damaged. */
static int check_hashes(const uint8_t *file, size_t size, char name[5]) {
    uint32_t count = u32_at(file + 12);
    uint8_t digest[DIGEST];
    for (size_t i = 0; i < count; i++) {
        const uint8_t *entry = file + HEADER + i * ENTRY;
        qn_sha256(file + u64_at(entry + 8), (size_t)u64_at(entry + 16), digest);
        name_section(name, entry);
        if (memcmp(digest, entry + 24, DIGEST) != 0) return QN_HASH;
    }
    memset(name, 0, 5);
    qn_sha256(file, size - DIGEST, digest);
    return memcmp(digest, file + size - DIGEST, DIGEST) != 0 ? QN_HASH : QN_OK;
}

/* ---- the shape (NETW) --------------------------------------------------------------------------- */

typedef struct {
    uint64_t weights, tensor_bytes, multiply_adds;
} totals;

static int check_map(uint64_t side, uint64_t channels) {
    return side < 1 || side * side * channels > MAX_MAP ? QN_SHAPE : QN_OK;
}

static int check_netw(span netw) {
    const uint8_t *p = netw.bytes;
    if (netw.size < NETW_HEADER) return QN_SHAPE;
    uint32_t side = u16_at(p), layers = u16_at(p + 4), classes = u32_at(p + 8);
    if (side < 16 || side > 1024 || p[2] < 1 || p[2] > 4 || layers < 1 || layers > 513) return QN_SHAPE;
    if (classes < 1 || classes > 100000) return QN_SHAPE;
    if (p[3] != 0 || !all_zero(p + 6, 2) || !all_zero(p + 12, 4)) return QN_SHAPE;
    return netw.size != NETW_HEADER + (uint64_t)layers * NETW_LAYER ? QN_SHAPE : QN_OK;
}

/* What both kinds of layer have in common, from the 16 bytes at `p`. */
static int read_common(const uint8_t *p, qn_layer *layer) {
    memset(layer, 0, sizeof *layer);
    layer->kernel = p[1], layer->stride = p[2], layer->pool = p[3];
    layer->out_channels = u16_at(p + 4);
    layer->sums = p[6], layer->shift = p[7], layer->zero = p[8], layer->top = p[9];
    layer->middle_zero = p[10], layer->middle_top = p[11];
    if (layer->out_channels < 1 || layer->out_channels > 8192 || layer->shift > 30) return QN_SHAPE;
    if (layer->sums != 1 && layer->sums != 2 && layer->sums != 4) return QN_SHAPE;
    if ((layer->top != 127 && layer->top != 255) || layer->zero > layer->top) return QN_SHAPE;
    return all_zero(p + 12, 4) ? QN_OK : QN_SHAPE;
}

static int read_stem(const uint8_t *netw, qn_layer *layer) {
    const uint8_t *p = netw + NETW_HEADER;
    int error = read_common(p, layer);
    if (error != QN_OK) return error;
    layer->in_channels = netw[2], layer->in_side = u16_at(netw);
    layer->in_zero = 0, layer->in_top = 255;
    if (p[0] != 1 || layer->kernel < 1 || layer->kernel > 11 || layer->stride < 1 || layer->stride > 8) return QN_SHAPE;
    if (layer->pool != 0 || layer->middle_zero != 0 || layer->middle_top != 0) return QN_SHAPE;
    layer->side = (layer->in_side - layer->kernel) / layer->stride + 1; /* in_side >= 16 > kernel */
    return check_map((uint64_t)layer->side, (uint64_t)layer->out_channels);
}

static int read_separable(const uint8_t *p, const qn_layer *before, qn_layer *layer) {
    int error = read_common(p, layer);
    if (error != QN_OK) return error;
    if (p[0] != 2 || (layer->kernel != 3 && layer->kernel != 5) || layer->stride != 1) return QN_SHAPE;
    if (layer->pool > 1 || layer->middle_zero > layer->middle_top) return QN_SHAPE;
    if (layer->middle_top != 127 && layer->middle_top != 255) return QN_SHAPE;
    layer->in_channels = before->out_channels;
    layer->in_zero = before->zero, layer->in_top = before->top;
    layer->in_side = layer->side = layer->pool ? before->side / 2 : before->side;
    return check_map((uint64_t)layer->side, (uint64_t)layer->out_channels); /* the input's map: `before` was checked */
}

/* The layer with this index; `before` is the one with the index before it, not looked at for the stem. */
static int read_layer(const uint8_t *netw, size_t index, const qn_layer *before, qn_layer *layer) {
    if (index == 0) return read_stem(netw, layer);
    return read_separable(netw + NETW_HEADER + index * NETW_LAYER, before, layer);
}

static void add_layer(totals *sum, const qn_layer *layer, int stem) {
    uint64_t in = (uint64_t)layer->in_channels, out = (uint64_t)layer->out_channels;
    uint64_t taps = (uint64_t)(layer->kernel * layer->kernel), pixels = (uint64_t)layer->side * (uint64_t)layer->side;
    uint64_t weights = stem ? taps * in * out : (taps + out) * in;
    sum->weights += weights;
    sum->tensor_bytes += weights + 8 * out + (stem ? 0 : 2 * in);
    sum->multiply_adds += weights * pixels;
}

/* All of NETW, and that TENS is as long as it says. */
static int check_shape(const span section[KINDS], qn_info *info) {
    const uint8_t *netw = section[NETW].bytes;
    memcpy(info->section, KIND[NETW], 5);
    int error = check_netw(section[NETW]);
    if (error != QN_OK) return error;
    uint32_t layers = u16_at(netw + 4), classes = u32_at(netw + 8);
    totals sum = {0, 0, 0};
    qn_layer layer = {0}, before;
    for (size_t i = 0; i < layers; i++) {
        before = layer;
        error = read_layer(netw, i, &before, &layer);
        if (error != QN_OK) return error;
        add_layer(&sum, &layer, i == 0);
    }
    uint64_t head = (uint64_t)classes * (uint64_t)layer.out_channels;
    if (sum.weights + head > MAX_WEIGHTS) return QN_SHAPE;
    memcpy(info->section, KIND[TENS], 5);
    if (section[TENS].size != sum.tensor_bytes + 2 * head + 4 * (uint64_t)classes) return QN_LENGTH;
    info->side = u16_at(netw), info->channels = netw[2], info->classes = classes, info->layers = layers;
    info->multiply_adds = sum.multiply_adds + head;
    memset(info->section, 0, sizeof info->section);
    return QN_OK;
}

/* ---- the numbers (TENS) ------------------------------------------------------------------------- */

/* Of the weights of one output channel so far, in pairs {2i, 2i+1} of a block: 8 of the positive, 8 of the
 * magnitudes of the negative. */
typedef struct {
    uint32_t total[16];
    uint16_t lane[16];     /* the largest sums of a lane */
    uint8_t magnitude[16]; /* of the negative weights, or-ed: 128 is in it where one is -128 */
} channel_sums;

/* 16 weights of the sequence. Every lane is made of pairs: N = 2 adds pairs i and i + 2, N = 4 every second one.
 * Four pairs of 16 bits are added at once as a number of 64; all loops are of fixed counts and branchless, so that
 * compilers vectorize them: 0.35 ns a weight on Zen 4, the 3.6 million of `quicknet` in 1.2 ms. */
static void scan_block(const int8_t w[16], int sums, channel_sums *all) {
    uint8_t part[2][16];
    uint16_t pair[16];
    uint64_t four[4];
    for (int i = 0; i < 16; i++) part[0][i] = (uint8_t)(w[i] > 0 ? w[i] : 0);
    for (int i = 0; i < 16; i++) part[1][i] = (uint8_t)(w[i] < 0 ? -w[i] : 0);
    for (int i = 0; i < 16; i++) all->magnitude[i] |= part[1][i];
    memcpy(pair, part, sizeof pair);
    for (int i = 0; i < 16; i++) pair[i] = (uint16_t)((pair[i] & 255) + (pair[i] >> 8));
    for (int i = 0; i < 16; i++) all->total[i] += pair[i];
    if (sums >= 2) {
        memcpy(four, pair, sizeof pair);
        for (int i = 0; i < 4; i++) four[i] = (four[i] & 0xffffffff) + (four[i] >> 32);
        if (sums == 4) four[0] += four[1], four[2] += four[3];
        memcpy(pair, four, sizeof pair);
    }
    for (int i = 0; i < 16; i++) all->lane[i] = pair[i] > all->lane[i] ? pair[i] : all->lane[i];
}

static void scan_sequence(const int8_t *w, size_t count, int sums, channel_sums *all) {
    for (; count >= 16; count -= 16, w += 16) scan_block(w, sums, all);
    if (count > 0) {
        int8_t last[16] = {0};
        memcpy(last, w, count);
        scan_block(last, sums, all);
    }
}

static int fits_accumulator(int64_t bias, int64_t positive, int64_t negative, int64_t top) {
    return bias + positive * top <= INT32_MAX && bias - negative * top >= INT32_MIN;
}

static int check_multipliers(const uint8_t *p, size_t count, int lowest) {
    for (size_t i = 0; i < count; i++) {
        if (qn_i16(p + 2 * i) < lowest) return QN_BOUNDS;
    }
    return QN_OK;
}

static int check_channel(const channel_sums *all, int64_t bias, int top) {
    int64_t positive = 0, negative = 0;
    for (int i = 0; i < 16; i++) {
        if (all->lane[i] * top > INT16_MAX || all->magnitude[i] > 127) return QN_BOUNDS;
        *(i < 8 ? &positive : &negative) += all->total[i];
    }
    return fits_accumulator(bias, positive, negative, top) ? QN_OK : QN_BOUNDS;
}

/* Stem and pointwise: the lanes and the accumulator of each output channel, whose weights are `rows` sequences of
 * `row` weights, each filled up to whole blocks. */
static int check_products(const qn_layer *layer, size_t rows, size_t row, int top) {
    size_t outs = (size_t)layer->out_channels;
    for (size_t o = 0; o < outs; o++) {
        channel_sums all = {{0}, {0}, {0}};
        for (size_t r = 0; r < rows; r++) scan_sequence(layer->weight + (o * rows + r) * row, row, layer->sums, &all);
        if (check_channel(&all, qn_i32(layer->bias + 4 * o), top) != QN_OK) return QN_BOUNDS;
    }
    if (check_multipliers(layer->positive, outs, -INT16_MAX) != QN_OK) return QN_BOUNDS;
    return check_multipliers(layer->negative, outs, -INT16_MAX);
}

static int check_depthwise(const qn_layer *layer) {
    size_t channels = (size_t)layer->in_channels, taps = (size_t)(layer->kernel * layer->kernel);
    for (size_t c = 0; c < channels; c++) {
        int positive = 0, negative = 0;
        for (size_t t = 0; t < taps; t++) {
            int w = layer->depthwise[t * channels + c];
            if (w < -127) return QN_BOUNDS;
            positive += w > 0 ? w : 0, negative -= w < 0 ? w : 0;
        }
        if (positive * layer->in_top > INT16_MAX || negative * layer->in_top > INT16_MAX) return QN_BOUNDS;
    }
    return check_multipliers(layer->multiplier, channels, 0);
}

/* The classifier behind the layer `last`, whose numbers begin at `tensors`. */
static int check_head(const qn_layer *last, const uint8_t *tensors, size_t classes) {
    int64_t most = (int64_t)last->side * last->side * last->top; /* the largest sum over a map */
    size_t features = (size_t)last->out_channels;
    const uint8_t *bias = tensors + 2 * classes * features;
    for (size_t k = 0; k < classes; k++) {
        const uint8_t *row = tensors + 2 * features * k;
        int64_t positive = 0, negative = 0;
        for (size_t c = 0; c < features; c++) {
            int w = qn_i16(row + 2 * c);
            positive += w > 0 ? w : 0, negative -= w < 0 ? w : 0;
        }
        if (!fits_accumulator(qn_i32(bias + 4 * k), positive, negative, most)) return QN_BOUNDS;
    }
    return QN_OK;
}

/* Points the layer's arrays at `tensors`; returns where the next layer's begin. */
static const uint8_t *place_arrays(qn_layer *layer, const uint8_t *tensors, int stem) {
    size_t in = (size_t)layer->in_channels, out = (size_t)layer->out_channels;
    size_t taps = (size_t)(layer->kernel * layer->kernel);
    if (!stem) {
        layer->depthwise = (const int8_t *)tensors, tensors += taps * in;
        layer->multiplier = tensors, tensors += 2 * in;
    }
    layer->weight = (const int8_t *)tensors, tensors += (stem ? taps * in : in) * out;
    layer->bias = tensors, tensors += 4 * out;
    layer->positive = tensors, tensors += 2 * out;
    layer->negative = tensors;
    return tensors + 2 * out;
}

static int check_layer(const qn_layer *layer, int stem) {
    if (stem) return check_products(layer, (size_t)layer->kernel, (size_t)(layer->kernel * layer->in_channels), 255);
    if (check_depthwise(layer) != QN_OK) return QN_BOUNDS;
    return check_products(layer, 1, (size_t)layer->in_channels, layer->middle_top);
}

/* All of TENS, after check_shape. */
static int read_numbers(const span section[KINDS], qn_net *net, int bounds) {
    const uint8_t *netw = section[NETW].bytes, *tensors = section[TENS].bytes;
    size_t layers = u16_at(netw + 4), classes = u32_at(netw + 8);
    qn_layer layer = {0}, before;
    for (size_t i = 0; i < layers; i++) {
        before = layer;
        int error = read_layer(netw, i, &before, &layer);
        if (error != QN_OK) return error;
        tensors = place_arrays(&layer, tensors, i == 0);
        if (bounds && check_layer(&layer, i == 0) != QN_OK) return QN_BOUNDS;
        if (net != NULL) net->layer[i] = layer;
    }
    if (bounds && check_head(&layer, tensors, classes) != QN_OK) return QN_BOUNDS;
    if (net != NULL) {
        net->side = u16_at(netw), net->channels = netw[2];
        net->layers = (int32_t)layers, net->classes = (int32_t)classes, net->features = layer.out_channels;
        net->head_weight = tensors;
        net->head_bias = tensors + 2 * classes * (size_t)layer.out_channels;
    }
    return QN_OK;
}

/* ---- the whole ---------------------------------------------------------------------------------- */

int qn_read_to(const void *file, size_t size, qn_net *net, qn_info *info, int depth) {
    qn_info unused;
    span section[KINDS];
    if (info == NULL) info = &unused;
    memset(info, 0, sizeof *info);
    int error = check_header(file, size);
    if (error == QN_OK) error = find_sections(file, size, section, info->section);
    if (error == QN_OK && depth == QN_READ_ALL) error = check_hashes(file, size, info->section);
    if (error == QN_OK) error = check_shape(section, info);
    if (error == QN_OK && net != NULL && info->layers > QN_MAX_LAYERS) error = QN_MEMORY;
    if (error == QN_OK && (net != NULL || depth != QN_READ_SHAPE)) {
        error = read_numbers(section, net, depth != QN_READ_SHAPE);
        if (error != QN_OK) memcpy(info->section, KIND[TENS], 5);
    }
    return error;
}

int qn_read(const void *file, size_t size, qn_net *net, qn_info *info) {
    return qn_read_to(file, size, net, info, QN_READ_ALL);
}

int qn_check(const void *file, size_t size, qn_info *info) { return qn_read_to(file, size, NULL, info, QN_READ_ALL); }

const char *qn_strerror(int error) {
    switch (error) {
    case QN_OK: return "the file is whole";
    case QN_MAGIC: return "not a .qnz file; give one that quicknet export wrote";
    case QN_VERSION: return "a .qnz of another format version; use a newer quicknet";
    case QN_LENGTH: return "truncated, or lengths that lie; copy or export it again";
    case QN_TABLE: return "sections doubled, missing, overlapping or unknown; export it again";
    case QN_HASH: return "damaged: its SHA-256 differs; copy or export it again";
    case QN_SHAPE: return "a shape that no network has; export it again";
    case QN_BOUNDS: return "numbers outside the bounds of their width class; export it again";
    case QN_MEMORY: return "too little memory was given, or not aligned to 64 bytes; give what qn_memory says";
    case QN_ISA: return "this instruction set is not compiled in or not on this CPU; use QN_BEST";
    case QN_THREADS: return "no more threads are to be had, or none are compiled in; ask for fewer";
    default: return "unknown error";
    }
}
