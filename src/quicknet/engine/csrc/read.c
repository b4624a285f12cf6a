/* The whole file, by its parts: container.c, shape.c, bounds.c. */
#include "reading.h"

#include <string.h>

/* All of TENS, after qn_read_shape. */
static int check_numbers(const qn_net *net) {
    qn_numbers numbers = {net->numbers};
    qn_classifier classifier = net->classifier;
    qn_layer layer = {0};
    qn_layer before;
    for (int32_t i = 0; i < net->layers; i++) {
        before = layer;
        int error = qn_read_layer(net, i, &before, &layer);
        if (error == QN_OK) error = qn_take_layer(&numbers, &layer);
        if (error != QN_OK) return error;
    }
    return qn_take_classifier(&numbers, &classifier);
}

/* NETW, and that TENS is as long as it says. */
static int read_network(const qn_section section[QN_SECTIONS], qn_net *net, qn_info *info) {
    qn_totals totals;
    memcpy(info->section, qn_kind[QN_NETW], sizeof info->section);
    int error = qn_read_shape(section[QN_NETW], net, &totals);
    if (error != QN_OK) return error;
    memcpy(info->section, qn_kind[QN_TENS], sizeof info->section);
    if (section[QN_TENS].size != totals.tensor_bytes) return QN_LENGTH;
    memset(info->section, 0, sizeof info->section);
    net->numbers = section[QN_TENS].bytes;
    info->side = (uint32_t)net->side;
    info->channels = (uint32_t)net->channels;
    info->classes = (uint32_t)net->classifier.classes;
    info->layers = (uint32_t)net->layers;
    info->multiply_adds = totals.multiply_adds;
    return QN_OK;
}

int qn_read_to(const void *file, size_t size, qn_net *net, qn_info *info, int depth) {
    qn_info unused_info;
    qn_net unused_net;
    qn_section section[QN_SECTIONS];
    if (info == NULL) info = &unused_info;
    if (net == NULL) net = &unused_net;
    memset(info, 0, sizeof *info);
    int error = qn_find_sections(file, size, section, info->section);
    if (error == QN_OK && depth != QN_READ_SHAPE) error = qn_check_hashes(file, size, info->section);
    if (error == QN_OK) error = read_network(section, net, info);
    if (error == QN_OK && depth == QN_READ_ALL) {
        error = check_numbers(net);
        if (error != QN_OK) memcpy(info->section, qn_kind[QN_TENS], sizeof info->section);
    }
    return error;
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
