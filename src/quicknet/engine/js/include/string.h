/* The four functions of string.h that the engine uses, for a target without a C library: module.c. */
#ifndef QN_STRING_H
#define QN_STRING_H
#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);

#endif
