/* The container: header, table of sections, hashes (FORMAT.md, "Bytes"). Of the sections' content it knows one number:
 * the size that CARZ states. */
#include <string.h>

#include "format.h"
#include "reading.h"

#include "small.h"

const char qn_kind[QN_SECTIONS][5] = {QNZ_CARD, QNZ_NETW, QNZ_TENS, QNZ_CARZ, QNZ_CODE};

static const uint8_t *entry_at(const uint8_t *file, size_t index) {
    return file + QNZ_HEADER_BYTES + index * QNZ_ENTRY_BYTES;
}

static int same_kind(const void *a, const void *b) { return memcmp(a, b, QNZ_KIND_BYTES) == 0; }

static int version(const uint8_t *file) { return qn_u16(file + QNZ_HEADER_MAJOR); }

/* Whether files of this version have that kind. */
static int belongs(const uint8_t *file, int kind) {
    return version(file) == QNZ_CODED_MAJOR ? kind != QN_TENS : kind < QN_CARZ;
}

static int check_header(const uint8_t *file, size_t size) {
    const size_t magic = sizeof QNZ_MAGIC - 1;
    if (size < magic || memcmp(file, QNZ_MAGIC, magic) != 0) return QN_MAGIC;
    if (size < QNZ_HEADER_BYTES + QNZ_DIGEST_BYTES || size > QNZ_MAX_FILE_BYTES) return QN_LENGTH;
    if (version(file) != QNZ_MAJOR && version(file) != QNZ_CODED_MAJOR) return QN_VERSION;
    if (qn_u64(file + QNZ_HEADER_LENGTH) != size) return QN_LENGTH;
    uint32_t sections = qn_u32(file + QNZ_HEADER_SECTIONS);
    if (sections < 1 || sections > QNZ_MAX_SECTIONS) return QN_TABLE;
    if (!qn_all_zero(file + QNZ_HEADER_ZEROS, QNZ_HEADER_BYTES - QNZ_HEADER_ZEROS)) return QN_TABLE;
    size_t least = QNZ_HEADER_BYTES + (size_t)sections * QNZ_ENTRY_BYTES + QNZ_DIGEST_BYTES;
    return size < least ? QN_LENGTH : QN_OK;
}

/* Four letters, or "" where they are none. */
static void name_section(char name[5], const uint8_t *kind) {
    memset(name, 0, 5);
    for (int i = 0; i < QNZ_KIND_BYTES; i++) {
        int letter = (kind[i] >= 'A' && kind[i] <= 'Z') || (kind[i] >= 'a' && kind[i] <= 'z');
        if (!letter) return;
    }
    memcpy(name, kind, QNZ_KIND_BYTES);
}

/* One row of the table: its names and flags, and that the section begins at `begin` and ends by `end`. */
static int check_entry(const uint8_t *file, size_t index, uint64_t begin, uint64_t end, char name[5]) {
    const uint8_t *entry = entry_at(file, index);
    uint32_t flags = qn_u32(entry + QNZ_ENTRY_FLAGS);
    int known = 0;
    name_section(name, entry + QNZ_ENTRY_KIND);
    if (name[0] == 0 || flags > QNZ_SKIPPABLE) return QN_TABLE;
    if (!qn_all_zero(entry + QNZ_ENTRY_ZEROS, QNZ_ENTRY_BYTES - QNZ_ENTRY_ZEROS)) return QN_TABLE;
    for (int kind = 0; kind < QN_SECTIONS; kind++) known |= belongs(file, kind) && same_kind(name, qn_kind[kind]);
    if (!known && (flags == 0 || same_kind(name, QNZ_TENS))) return QN_TABLE;
    for (size_t other = 0; other < index; other++) {
        if (same_kind(name, entry_at(file, other) + QNZ_ENTRY_KIND)) return QN_TABLE;
    }
    if (qn_u64(entry + QNZ_ENTRY_OFFSET) != begin) return QN_TABLE;
    return qn_u64(entry + QNZ_ENTRY_LENGTH) > end - begin ? QN_LENGTH : QN_OK;
}

/* That no section of the version is missing, that there is one card, and that its size is within its limit. */
static int check_kinds(const uint8_t *file, const qn_section section[QN_SECTIONS], char name[5]) {
    int card = belongs(file, QN_CARZ) && !section[QN_CARD].bytes ? QN_CARZ : QN_CARD;
    for (int kind = 0; kind < QN_SECTIONS; kind++) {
        int expected = kind == QN_CARD || kind == QN_CARZ ? kind == card : belongs(file, kind);
        memcpy(name, qn_kind[kind], 5);
        if ((section[kind].bytes != NULL) != expected) return QN_TABLE;
    }
    memcpy(name, qn_kind[card], 5);
    if (section[card].size > QNZ_MAX_CARD_BYTES) return QN_LENGTH;
    if (card == QN_CARD) return QN_OK;
    if (section[card].size < QNZ_CARZ_HEADER_BYTES) return QN_LENGTH;
    return qn_u32(section[card].bytes + QNZ_CARZ_HEADER_LENGTH) > QNZ_MAX_CARD_BYTES ? QN_LENGTH : QN_OK;
}

int qn_find_sections(const uint8_t *file, size_t size, qn_section section[QN_SECTIONS], char name[5]) {
    int error = check_header(file, size);
    if (error != QN_OK) return error;
    uint32_t count = qn_u32(file + QNZ_HEADER_SECTIONS);
    uint64_t begin = QNZ_HEADER_BYTES + (uint64_t)count * QNZ_ENTRY_BYTES;
    uint64_t end = size - QNZ_DIGEST_BYTES;
    memset(section, 0, QN_SECTIONS * sizeof *section);
    for (size_t i = 0; i < count; i++) {
        error = check_entry(file, i, begin, end, name);
        if (error != QN_OK) return error;
        qn_section present = {file + begin, qn_u64(entry_at(file, i) + QNZ_ENTRY_LENGTH)};
        for (int kind = 0; kind < QN_SECTIONS; kind++) {
            if (belongs(file, kind) && same_kind(name, qn_kind[kind])) section[kind] = present;
        }
        begin += present.size;
    }
    error = check_kinds(file, section, name);
    if (error != QN_OK) return error;
    memset(name, 0, 5);
    return begin != end ? QN_LENGTH : QN_OK;
}

int qn_check_hashes(const uint8_t *file, size_t size, char name[5]) {
    uint32_t count = qn_u32(file + QNZ_HEADER_SECTIONS);
    uint8_t digest[QNZ_DIGEST_BYTES];
    for (size_t i = 0; i < count; i++) {
        const uint8_t *entry = entry_at(file, i);
        size_t offset = (size_t)qn_u64(entry + QNZ_ENTRY_OFFSET);
        size_t length = (size_t)qn_u64(entry + QNZ_ENTRY_LENGTH);
        qn_sha256(file + offset, length, digest);
        name_section(name, entry + QNZ_ENTRY_KIND);
        if (memcmp(digest, entry + QNZ_ENTRY_SHA256, QNZ_DIGEST_BYTES) != 0) return QN_HASH;
    }
    memset(name, 0, 5);
    qn_sha256(file, size - QNZ_DIGEST_BYTES, digest);
    return memcmp(digest, file + size - QNZ_DIGEST_BYTES, QNZ_DIGEST_BYTES) != 0 ? QN_HASH : QN_OK;
}
