/* The numbers of FORMAT.md that the reader needs, each with the name that qnz/format.py gives it; a test holds the
 * two to each other and to the page. */
#ifndef QNZ_FORMAT_H
#define QNZ_FORMAT_H

#define QNZ_MAGIC "\x89QNZ\r\n\x1a\n"
#define QNZ_CARD "CARD"
#define QNZ_NETW "NETW"
#define QNZ_TENS "TENS"
#define QNZ_CARZ "CARZ"
#define QNZ_CODE "CODE"

/* QNZ_CODED_MAJOR: of a file with CODE in the place of TENS, and with CARZ or CARD. */
enum { QNZ_MAJOR = 1, QNZ_CODED_MAJOR = 2 };
enum { QNZ_MAX_SECTIONS = 64, QNZ_MAX_FILE_BYTES = 512 << 20, QNZ_MAX_CARD_BYTES = 4 << 20 };
/* Of CARZ: what it says about the size of its text, which is at most QNZ_MAX_CARD_BYTES too. */
enum { QNZ_CARZ_HEADER_LENGTH = 0, QNZ_CARZ_HEADER_BYTES = 4 };

/* Offsets: of the header in the file, ... */
enum {
    QNZ_HEADER_MAGIC = 0,
    QNZ_HEADER_MAJOR = 8,
    QNZ_HEADER_MINOR = 10,
    QNZ_HEADER_SECTIONS = 12,
    QNZ_HEADER_LENGTH = 16,
    QNZ_HEADER_ZEROS = 24,
    QNZ_HEADER_BYTES = 32
};
/* ... in an entry of the table, ... */
enum {
    QNZ_ENTRY_KIND = 0,
    QNZ_ENTRY_FLAGS = 4,
    QNZ_ENTRY_OFFSET = 8,
    QNZ_ENTRY_LENGTH = 16,
    QNZ_ENTRY_SHA256 = 24,
    QNZ_ENTRY_ZEROS = 56,
    QNZ_ENTRY_BYTES = 64
};
enum { QNZ_SKIPPABLE = 1, QNZ_KIND_BYTES = 4, QNZ_DIGEST_BYTES = 32 };
/* ... in NETW before its layers, ... */
enum {
    QNZ_SHAPE_SIDE = 0,
    QNZ_SHAPE_CHANNELS = 2,
    QNZ_SHAPE_ZERO1 = 3,
    QNZ_SHAPE_LAYERS = 4,
    QNZ_SHAPE_ZERO2 = 6,
    QNZ_SHAPE_CLASSES = 8,
    QNZ_SHAPE_ZERO3 = 12,
    QNZ_SHAPE_BYTES = 16
};
/* ... and in one of its layers. */
enum {
    QNZ_LAYER_KIND = 0,
    QNZ_LAYER_KERNEL = 1,
    QNZ_LAYER_STRIDE = 2,
    QNZ_LAYER_POOL = 3,
    QNZ_LAYER_CHANNELS = 4,
    QNZ_LAYER_SUMS = 6,
    QNZ_LAYER_SHIFT = 7,
    QNZ_LAYER_ZERO = 8,
    QNZ_LAYER_TOP = 9,
    QNZ_LAYER_MIDDLE_ZERO = 10,
    QNZ_LAYER_MIDDLE_TOP = 11,
    QNZ_LAYER_ZEROS = 12,
    QNZ_LAYER_BYTES = 16
};
enum { QNZ_STEM = 1, QNZ_SEPARABLE = 2 };

enum { QNZ_MIN_SIDE = 16, QNZ_MAX_SIDE = 1024, QNZ_MIN_IMAGE_CHANNELS = 1, QNZ_MAX_IMAGE_CHANNELS = 4 };
enum { QNZ_MIN_LAYERS = 1, QNZ_MAX_LAYERS = 513, QNZ_MIN_CLASSES = 1, QNZ_MAX_CLASSES = 100000 };
enum { QNZ_MIN_CHANNELS = 1, QNZ_MAX_CHANNELS = 8192, QNZ_MIN_SHIFT = 0, QNZ_MAX_SHIFT = 30 };
enum { QNZ_MIN_STEM_KERNEL = 1, QNZ_MAX_STEM_KERNEL = 11, QNZ_MIN_STEM_STRIDE = 1, QNZ_MAX_STEM_STRIDE = 8 };
enum { QNZ_KERNEL_SMALL = 3, QNZ_KERNEL_LARGE = 5, QNZ_TOP_SMALL = 127, QNZ_TOP_LARGE = 255, QNZ_IMAGE_TOP = 255 };
enum { QNZ_MAX_WEIGHTS = 1 << 28, QNZ_MAX_MAP = 1 << 26 };
/* Of CODE. TENS has at most QNZ_EXPANSION bytes for each of its bytes, beside the first QNZ_EXPANSION_FREE. */
enum { QNZ_CODE_HEADER_CODING = 0, QNZ_CODE_HEADER_ZEROS = 1, QNZ_CODE_HEADER_BYTES = 4 };
enum { QNZ_HUFFMAN = 1, QNZ_CONTEXTS = 2, QNZ_CODED_BLOCK = 4 };
enum { QNZ_EXPANSION = 256, QNZ_EXPANSION_FREE = 1 << 20 };
enum { QNZ_MAX_CODE_BITS = 15, QNZ_MAGNITUDE_BITS = 7, QNZ_COUNT_BITS = 32, QNZ_GAP = 63 };
enum { QNZ_STATE_LOW = 1 << 16, QNZ_CHANCE_BITS = 16, QNZ_CODED_CHANCE_BITS = 12 };
enum { QNZ_FIRST_COUNT = 8, QNZ_LAST_COUNT = 255 };
enum { QNZ_CLASSES_OF_DENSITY = 16, QNZ_DENSITY_SCALE = 24, QNZ_DENSITY_PRIOR = 8 };
enum { QNZ_CLASSES_OF_MAGNITUDE = 16, QNZ_MAGNITUDE_SHIFT = 4, QNZ_MAGNITUDE_RATE = 3 };
/* Of the bounds. A block is 16 weights of a sequence; -QNZ_MAX_WEIGHT is the least weight. */
enum { QNZ_BLOCK = 16, QNZ_MAX_WEIGHT = 127 };

#endif
