/* The shape: NETW, and what it determines (FORMAT.md, "NETW"). */
#include <string.h>

#include "format.h"
#include "reading.h"

static int within(uint32_t value, uint32_t least, uint32_t most) { return value >= least && value <= most; }

static int is_top(int32_t top) { return top == QNZ_TOP_SMALL || top == QNZ_TOP_LARGE; }

static int check_map(uint64_t side, uint64_t channels) {
    return side < 1 || side * side * channels > QNZ_MAX_MAP ? QN_SHAPE : QN_OK;
}

/* What both kinds of layer have in common, from its bytes `p`. */
static int read_common(const uint8_t *p, qn_layer *layer) {
    memset(layer, 0, sizeof *layer);
    layer->is_stem = p[QNZ_LAYER_KIND] == QNZ_STEM;
    layer->kernel = p[QNZ_LAYER_KERNEL];
    layer->stride = p[QNZ_LAYER_STRIDE];
    layer->pool = p[QNZ_LAYER_POOL];
    layer->out_channels = qn_u16(p + QNZ_LAYER_CHANNELS);
    layer->sums = p[QNZ_LAYER_SUMS];
    layer->shift = p[QNZ_LAYER_SHIFT];
    layer->zero = p[QNZ_LAYER_ZERO];
    layer->top = p[QNZ_LAYER_TOP];
    layer->middle_zero = p[QNZ_LAYER_MIDDLE_ZERO];
    layer->middle_top = p[QNZ_LAYER_MIDDLE_TOP];
    if (!within((uint32_t)layer->out_channels, QNZ_MIN_CHANNELS, QNZ_MAX_CHANNELS)) return QN_SHAPE;
    if (layer->shift > QNZ_MAX_SHIFT) return QN_SHAPE;
    if (layer->sums != 1 && layer->sums != 2 && layer->sums != 4) return QN_SHAPE;
    if (!is_top(layer->top) || layer->zero > layer->top) return QN_SHAPE;
    return qn_all_zero(p + QNZ_LAYER_ZEROS, QNZ_LAYER_BYTES - QNZ_LAYER_ZEROS) ? QN_OK : QN_SHAPE;
}

static int read_stem(const qn_net *net, const uint8_t *p, qn_layer *layer) {
    int error = read_common(p, layer);
    if (error != QN_OK) return error;
    if (p[QNZ_LAYER_KIND] != QNZ_STEM) return QN_SHAPE;
    if (!within((uint32_t)layer->kernel, QNZ_MIN_STEM_KERNEL, QNZ_MAX_STEM_KERNEL)) return QN_SHAPE;
    if (!within((uint32_t)layer->stride, QNZ_MIN_STEM_STRIDE, QNZ_MAX_STEM_STRIDE)) return QN_SHAPE;
    if (layer->pool != 0 || layer->middle_zero != 0 || layer->middle_top != 0) return QN_SHAPE;
    layer->in_channels = net->channels;
    layer->in_side = net->side;
    layer->in_zero = 0;
    layer->in_top = QNZ_IMAGE_TOP;
    layer->side = (layer->in_side - layer->kernel) / layer->stride + 1; /* the least side is above every kernel */
    return check_map((uint64_t)layer->side, (uint64_t)layer->out_channels);
}

static int read_separable(const uint8_t *p, const qn_layer *before, qn_layer *layer) {
    int error = read_common(p, layer);
    if (error != QN_OK) return error;
    if (p[QNZ_LAYER_KIND] != QNZ_SEPARABLE || layer->stride != 1) return QN_SHAPE;
    if (layer->kernel != QNZ_KERNEL_SMALL && layer->kernel != QNZ_KERNEL_LARGE) return QN_SHAPE;
    if (layer->pool > 1 || !is_top(layer->middle_top) || layer->middle_zero > layer->middle_top) return QN_SHAPE;
    layer->in_channels = before->out_channels;
    layer->in_zero = before->zero;
    layer->in_top = before->top;
    layer->side = layer->pool ? before->side / 2 : before->side;
    layer->in_side = layer->side;
    return check_map((uint64_t)layer->side, (uint64_t)layer->out_channels); /* the input's map: `before` was checked */
}

int qn_read_layer(const qn_net *net, int32_t i, const qn_layer *before, qn_layer *layer) {
    const uint8_t *p = net->shapes + (size_t)i * QNZ_LAYER_BYTES;
    return i == 0 ? read_stem(net, p, layer) : read_separable(p, before, layer);
}

/* Of one layer, or the classifier. */
static void add_bytes(qn_totals *totals, uint64_t bytes) {
    totals->tensor_bytes += bytes;
    if (bytes > totals->largest_bytes) totals->largest_bytes = bytes;
}

static void add_layer(qn_totals *totals, const qn_layer *layer) {
    uint64_t in = (uint64_t)layer->in_channels;
    uint64_t out = (uint64_t)layer->out_channels;
    uint64_t taps = (uint64_t)(layer->kernel * layer->kernel);
    uint64_t pixels = (uint64_t)layer->side * (uint64_t)layer->side;
    uint64_t weights = layer->is_stem ? taps * in * out : (taps + out) * in;
    totals->weights += weights;
    totals->multiply_adds += weights * pixels;
    add_bytes(totals, weights + (4 + 2 + 2) * out + (layer->is_stem ? 0 : 2 * in));
}

/* What stands before the layers. */
static int read_sizes(qn_section netw, qn_net *net) {
    const uint8_t *p = netw.bytes;
    memset(net, 0, sizeof *net);
    if (netw.size < QNZ_SHAPE_BYTES) return QN_SHAPE;
    uint32_t side = qn_u16(p + QNZ_SHAPE_SIDE);
    uint32_t channels = p[QNZ_SHAPE_CHANNELS];
    uint32_t layers = qn_u16(p + QNZ_SHAPE_LAYERS);
    uint32_t classes = qn_u32(p + QNZ_SHAPE_CLASSES);
    if (!within(side, QNZ_MIN_SIDE, QNZ_MAX_SIDE)) return QN_SHAPE;
    if (!within(channels, QNZ_MIN_IMAGE_CHANNELS, QNZ_MAX_IMAGE_CHANNELS)) return QN_SHAPE;
    if (!within(layers, QNZ_MIN_LAYERS, QNZ_MAX_LAYERS)) return QN_SHAPE;
    if (!within(classes, QNZ_MIN_CLASSES, QNZ_MAX_CLASSES)) return QN_SHAPE;
    if (p[QNZ_SHAPE_ZERO1] != 0) return QN_SHAPE;
    if (!qn_all_zero(p + QNZ_SHAPE_ZERO2, QNZ_SHAPE_CLASSES - QNZ_SHAPE_ZERO2)) return QN_SHAPE;
    if (!qn_all_zero(p + QNZ_SHAPE_ZERO3, QNZ_SHAPE_BYTES - QNZ_SHAPE_ZERO3)) return QN_SHAPE;
    if (netw.size != QNZ_SHAPE_BYTES + (uint64_t)layers * QNZ_LAYER_BYTES) return QN_SHAPE;
    net->side = (int32_t)side;
    net->channels = (int32_t)channels;
    net->layers = (int32_t)layers;
    net->classifier.classes = (int32_t)classes;
    net->shapes = p + QNZ_SHAPE_BYTES;
    return QN_OK;
}

int qn_read_shape(qn_section netw, qn_net *net, qn_totals *totals) {
    qn_layer layer = {0};
    qn_layer before;
    memset(totals, 0, sizeof *totals);
    int error = read_sizes(netw, net);
    for (int32_t i = 0; error == QN_OK && i < net->layers; i++) {
        before = layer;
        error = qn_read_layer(net, i, &before, &layer);
        if (error == QN_OK) add_layer(totals, &layer);
    }
    if (error != QN_OK) return error;
    uint64_t classes = (uint64_t)net->classifier.classes;
    uint64_t features = (uint64_t)layer.out_channels;
    net->classifier.features = layer.out_channels;
    net->classifier.most = (int64_t)layer.side * layer.side * layer.top;
    totals->weights += classes * features;
    add_bytes(totals, 2 * classes * features + 4 * classes);
    totals->multiply_adds += classes * features;
    net->largest_bytes = totals->largest_bytes;
    return totals->weights > QNZ_MAX_WEIGHTS ? QN_SHAPE : QN_OK;
}
