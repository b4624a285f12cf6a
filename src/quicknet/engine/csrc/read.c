/* The whole file, by its parts: container.c, shape.c, bounds.c, coding.c. */
#include "reading.h"

#include <string.h>

#include "format.h"

#include "small.h"

static int check_code(qn_section code, uint64_t tensor_bytes) {
    if (code.size < QNZ_CODE_HEADER_BYTES) return QN_CODE;
    const uint8_t *header = code.bytes;
    int coding = header[QNZ_CODE_HEADER_CODING];
    if (coding != QNZ_HUFFMAN && coding != QNZ_CONTEXTS) return QN_CODE;
    if (!qn_all_zero(header + QNZ_CODE_HEADER_ZEROS, QNZ_CODE_HEADER_BYTES - QNZ_CODE_HEADER_ZEROS)) return QN_CODE;
    return tensor_bytes > QNZ_EXPANSION_FREE + QNZ_EXPANSION * code.size ? QN_CODE : QN_OK;
}

/* NETW, and that TENS is as long as it says, or CODE long enough. */
static int read_network(const qn_section section[QN_SECTIONS], qn_net *net, qn_info *info) {
    qn_totals totals;
    int kind = section[QN_CODED].bytes ? QN_CODED : QN_TENS;
    memcpy(info->section, qn_kind[QN_NETW], sizeof info->section);
    int error = qn_read_shape(section[QN_NETW], net, &totals);
    if (error != QN_OK) return error;
    memcpy(info->section, qn_kind[kind], sizeof info->section);
    if (kind == QN_TENS && section[kind].size != totals.tensor_bytes) return QN_LENGTH;
    if (kind == QN_CODED) error = check_code(section[kind], totals.tensor_bytes);
    if (error != QN_OK) return error;
    memset(info->section, 0, sizeof info->section);
    net->numbers = section[QN_TENS].bytes;
    net->code = section[QN_CODED].bytes;
    net->code_bytes = section[QN_CODED].size;
    net->tensor_bytes = totals.tensor_bytes;
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
        error = net->code ? qn_take_coded(net, NULL, NULL) : qn_take_numbers(net, NULL, NULL);
        if (error != QN_OK) memcpy(info->section, qn_kind[net->code ? QN_CODED : QN_TENS], sizeof info->section);
    }
    return error;
}

int qn_check(const void *file, size_t size, qn_info *info) { return qn_read_to(file, size, NULL, info, QN_READ_ALL); }

int qn_decode(const void *file, size_t size, void *numbers, size_t numbers_size, uint64_t bits[4]) {
    qn_net net;
    int error = qn_read_to(file, size, &net, NULL, QN_READ_HASHES);
    if (error != QN_OK) return error;
    if (net.code == NULL || numbers_size != net.tensor_bytes) return QN_LENGTH;
    return qn_take_coded(&net, numbers, bits);
}

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
    case QN_CODE: return "the coded numbers are damaged or were not written by quicknet; export it again";
    default: return "unknown error";
    }
}
