/* From the bytes of a .qnz to a checked network: no allocation, no recursion, bounded time. */
#ifndef QN_READ_H
#define QN_READ_H
#include "net.h"
#include "quicknet.h"

/* How much of the file is looked at. Each one is safe on any bytes. */
enum {
    QN_READ_SHAPE,  /* header, table, NETW, and that the sizes agree: microseconds, tells what qn_info holds */
    QN_READ_BOUNDS, /* ... and all numbers: for a caller who has checked the hashes of these very bytes */
    QN_READ_ALL     /* ... and all hashes */
};

/* Fill `net` (pointers into `file`; may be NULL) and `info` (may be NULL). Returns QN_OK or what is wrong; the
 * section in which it is wrong, if one, is then in info->section. A network of more than QN_MAX_LAYERS layers
 * gives QN_MEMORY where `net` is asked for. */
int qn_read_to(const void *file, size_t size, qn_net *net, qn_info *info, int depth);
int qn_read(const void *file, size_t size, qn_net *net, qn_info *info); /* QN_READ_ALL */

/* SHA-256 (FIPS 180-4). */
void qn_sha256(const uint8_t *bytes, size_t size, uint8_t digest[32]);

#endif
